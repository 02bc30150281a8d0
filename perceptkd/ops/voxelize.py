"""Hard and dynamic voxelization, sort-based and deterministic.

A point p lies in the cell ``floor((p - low) / voxel_size)``, computed in the points' dtype (float32 for half types), as
mmcv and spconv do. Coordinates are returned as (z, y, x). Points out of range are dropped; a NaN or infinite value is
an error, since it comes from a broken file or sensor and would vanish silently. No gradient flows to the points.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.checks import check_rows, describe
from perceptkd.ops.grouping import Groups, group_by_key
from perceptkd.ops.memory import empty
from perceptkd.ops.triton_kernels import runs_on_triton

_INT32_LIMIT = 2**31


def hard_voxelize(
    points: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Collects points in voxels of bounded size.

    Voxels come in the order of their first point, points inside a voxel in input order; later ones are dropped. This is
    mmcv's deterministic result. A warning tells of the first cloud with more than ``max_voxels``.

    Args:
        points: [N, C], columns 0-2 are x, y, z in metres.
        voxel_size: (x, y, z) in metres.
        point_cloud_range: (x, y, z) low then high, in metres.
        max_points: points kept per voxel.
        max_voxels: voxels kept.

    Returns:
        voxels [M, max_points, C] padded with zeros, coordinates int32 [M, 3] as (z, y, x), and points per voxel int32
        [M].

    >>> cloud = torch.tensor([[0.1, 0.1, 0.0], [1.5, 0.1, 0.0], [0.2, 0.3, 0.0]])
    >>> voxels, coordinates, counts = hard_voxelize(cloud, (1, 1, 1), (0, 0, 0, 2, 2, 1), 4, 10)
    >>> coordinates.tolist(), counts.tolist()
    ([[0, 0, 0], [0, 0, 1]], [2, 1])
    """
    groups, coordinates, counts = assign_voxels(points, voxel_size, point_cloud_range, max_points, max_voxels)
    voxels = empty((len(counts), max_points, points.shape[1]), points).zero_()
    fill_voxels(points, groups, voxels)
    return voxels, coordinates, counts


def dynamic_voxelize(points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> Tensor:
    """Returns the voxel of each point, int32 [N, 3] as (z, y, x); -1, -1, -1 for points out of range.

    >>> dynamic_voxelize(torch.tensor([[1.5, 0.0, 0.0], [9.0, 0.0, 0.0]]), (1, 1, 1), (0, 0, 0, 2, 2, 1)).tolist()
    [[0, 0, 1], [-1, -1, -1]]
    """
    check_rows("points", points, at_least=3)
    grid = grid_shape(voxel_size, point_cloud_range)
    columns, inside = _cells(points, voxel_size, point_cloud_range, grid)
    coordinates = torch.stack(columns[::-1], dim=1)
    return coordinates.masked_fill_(~inside[:, None], -1)


def grid_shape(voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> tuple[int, int, int]:
    """Number of cells along x, y and z."""
    if len(voxel_size) != 3 or not all(size > 0 for size in voxel_size):
        raise ValueError(f"voxel_size must be three positive sizes (x, y, z) in metres, got {list(voxel_size)}")
    low, high = point_cloud_range[:3], point_cloud_range[3:]
    if len(point_cloud_range) != 6 or not all(b > a for a, b in zip(low, high)):
        raise ValueError(f"point_cloud_range must be (x, y, z) low then high, got {list(point_cloud_range)}")
    x, y, z = (math.floor((b - a) / size + 0.5) for a, b, size in zip(low, high, voxel_size))
    if min(x, y, z) < 1 or x * y * z >= 2**62:
        raise ValueError(f"voxel_size {list(voxel_size)} divides {list(point_cloud_range)} into {x} x {y} x {z} cells")
    return x, y, z


def assign_voxels(
    points: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Groups, Tensor, Tensor]:
    """The integer part of :func:`hard_voxelize`: which point goes where, without copying points.

    Returns:
        the grouping of all N points, coordinates int32 [M, 3] and points per voxel int32 [M] of the voxels kept.
    """
    if max_points < 1 or max_voxels < 1:
        raise ValueError(f"max_points and max_voxels must be at least 1, got {max_points} and {max_voxels}")
    grid = grid_shape(voxel_size, point_cloud_range)
    groups = group_by_key(_cell_keys(points, voxel_size, point_cloud_range, grid), "appearance")
    kept, counts = groups.keys[:max_voxels], groups.counts[:max_voxels]
    if len(groups.keys) > max_voxels:
        warnings.warn(  # the same words every time, so that Python shows them once
            f"a cloud fills more than max_voxels={max_voxels} voxels of {list(voxel_size)} m: those whose first point "
            "comes last are dropped; shuffle the points in training, or raise max_voxels",
            stacklevel=2,
        )
    if kept.device.type == "cpu":  # no torch op here: its thread pool stalls when other processes hold the cores
        coordinates = torch.from_numpy(_unpack_cells_numba(kept.numpy(), grid[0], grid[1]))
        return groups, coordinates, torch.from_numpy(np.minimum(counts.numpy(), max_points))
    row = kept // grid[0]
    coordinates = torch.stack((row // grid[1], row % grid[1], kept % grid[0]), dim=1).int()
    return groups, coordinates, counts.clamp(max=max_points)


def fill_voxels(points: Tensor, groups: Groups, voxels: Tensor) -> None:
    """Writes each point into its place of ``voxels`` [M, max_points, C]; points beyond either bound are left out."""
    points = points.detach()
    if runs_on_triton(points):
        from perceptkd.ops.triton_kernels import voxelize as kernels

        kernels.fill(points.contiguous(), groups.index, groups.rank, voxels)
    elif _is_fast(points):
        _fill_voxels_numba(points.numpy(), groups.index.numpy(), groups.rank.numpy(), voxels.numpy())
    else:
        _fill_voxels_torch(points, groups, voxels)


def _fill_voxels_torch(points: Tensor, groups: Groups, voxels: Tensor) -> None:
    keep = (groups.index >= 0) & (groups.index < voxels.shape[0]) & (groups.rank < voxels.shape[1])
    rows = torch.nonzero(keep).squeeze(1)
    voxels[groups.index[rows], groups.rank[rows]] = points[rows]


@njit(cache=True, nogil=True)
def _fill_voxels_numba(points: np.ndarray, index: np.ndarray, rank: np.ndarray, voxels: np.ndarray) -> None:
    for row in range(points.shape[0]):
        voxel = index[row]
        if 0 <= voxel < voxels.shape[0] and rank[row] < voxels.shape[1]:
            for column in range(points.shape[1]):
                voxels[voxel, rank[row], column] = points[row, column]


def _is_fast(points: Tensor) -> bool:
    """Whether the numba kernels take these points: float32 or float64 on CPU."""
    return points.device.type == "cpu" and points.dtype in (torch.float32, torch.float64)


def _fits_int32(grid: tuple[int, int, int]) -> bool:
    return grid[0] * grid[1] * grid[2] < _INT32_LIMIT


def _cell_keys(
    points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float], grid: tuple[int, int, int]
) -> Tensor:
    """Number ``(z * Y + y) * X + x`` of each point's cell, int64 [N]; -1 for points out of range."""
    check_rows("points", points, at_least=3)
    if runs_on_triton(points):
        return _cell_keys_triton(points, voxel_size, point_cloud_range, grid)
    if not _is_fast(points):
        return _cell_keys_torch(points, voxel_size, point_cloud_range, grid)
    cloud = points.detach().numpy()
    keys = np.empty(len(cloud), np.int64)
    bounds = np.array([*point_cloud_range[:3], *voxel_size], cloud.dtype)
    if not math.isfinite(_cell_keys_numba(cloud, bounds, np.array(grid, cloud.dtype), keys)):
        _check_finite(points)
    return torch.from_numpy(keys)


def _cell_keys_torch(
    points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float], grid: tuple[int, int, int]
) -> Tensor:
    (x, y, z), inside = _cells(points, voxel_size, point_cloud_range, grid)
    if not _fits_int32(grid):
        x, y, z = x.long(), y.long(), z.long()
    return torch.where(inside, (z * grid[1] + y) * grid[0] + x, -1).long()


def _cell_keys_triton(
    points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float], grid: tuple[int, int, int]
) -> Tensor:
    from perceptkd.ops.triton_kernels import voxelize as kernels

    dtype = torch.promote_types(points.dtype, torch.float32)
    bounds = torch.tensor([*point_cloud_range[:3], *voxel_size], dtype=dtype, device=points.device)
    keys, broken = kernels.cell_keys(points.detach().contiguous(), bounds, grid)
    if broken:
        _check_finite(points)
    return keys


@njit(cache=True, nogil=True)
def _unpack_cells_numba(keys: np.ndarray, cells_x: int, cells_y: int) -> np.ndarray:
    """Coordinates (z, y, x) of cell numbers, int32 [M, 3]."""
    coordinates = np.empty((keys.shape[0], 3), np.int32)
    for i in range(keys.shape[0]):
        row = np.uint64(keys[i]) // np.uint64(cells_x)
        layer = row // np.uint64(cells_y)
        coordinates[i, 0] = layer
        coordinates[i, 1] = row - layer * np.uint64(cells_y)
        coordinates[i, 2] = np.uint64(keys[i]) - row * np.uint64(cells_x)
    return coordinates


@njit(cache=True, nogil=True)
def _cell_keys_numba(points: np.ndarray, bounds: np.ndarray, grid: np.ndarray, keys: np.ndarray) -> float:
    """Fills ``keys``; returns the sum of all values, which is finite unless a value is not (or the sum overflows)."""
    low_x, low_y, low_z, size_x, size_y, size_z = bounds
    cells_x, cells_y, cells_z = grid
    stride_y = np.int64(cells_x)
    stride_z = stride_y * np.int64(cells_y)
    total = 0.0
    for row in range(points.shape[0]):
        for column in range(points.shape[1]):
            total += points[row, column]
        x = np.floor((points[row, 0] - low_x) / size_x)
        y = np.floor((points[row, 1] - low_y) / size_y)
        z = np.floor((points[row, 2] - low_z) / size_z)
        keys[row] = -1
        if x >= 0 and x < cells_x and y >= 0 and y < cells_y and z >= 0 and z < cells_z:
            keys[row] = np.int64(z) * stride_z + np.int64(y) * stride_y + np.int64(x)
    return total


def _cells(
    points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float], grid: tuple[int, int, int]
) -> tuple[list[Tensor], Tensor]:
    """Cell of each point along x, y and z, int32 [N] each, and whether the point lies inside the grid."""
    _check_finite(points)
    columns = []
    inside = torch.ones(points.shape[0], dtype=torch.bool, device=points.device)
    dtype = points.dtype if points.dtype == torch.float64 else torch.float32
    for axis in range(3):
        # on the points' device: by a number or a scalar of another device, CUDA multiplies with the reciprocal
        bounds = torch.tensor([point_cloud_range[axis], voxel_size[axis]], dtype=dtype, device=points.device)
        low, size = bounds.unbind()
        cell = points[:, axis].detach().to(dtype).sub(low).div_(size).floor_()
        inside &= (cell >= 0) & (cell < grid[axis])
        columns.append(cell.clamp_(0, grid[axis] - 1).int())
    return columns, inside


def _check_finite(points: Tensor) -> None:
    """One sum finds most clouds clean; only a suspicious one is looked at value by value."""
    if torch.isfinite(points.detach().sum()):
        return
    broken = int((~torch.isfinite(points)).any(dim=1).sum())
    if broken:
        raise ValueError(
            f"{broken} of {points.shape[0]} points have a NaN or infinite value (points of {describe(points)}); "
            "the file or the sensor is broken: repair it, or drop such points before voxelization"
        )
