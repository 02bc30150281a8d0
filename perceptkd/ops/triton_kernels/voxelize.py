"""Voxelization: the cell of each point in one pass, and the copy of points into their voxels in another."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from perceptkd.ops.triton_kernels import on_its_device

_BLOCK = 256


@on_its_device
def cell_keys(points: Tensor, bounds: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Number ``(z * Y + y) * X + x`` of each point's cell.

    Args:
        points: [N, C] contiguous, floating point; columns 0-2 are x, y, z.
        bounds: low corner and voxel size [6], float32, or float64 where the points are.
        grid: cells along x, y and z.

    Returns:
        int64 [N], -1 for points out of range; and how many points have a NaN or infinite value, int32 [1].
    """
    keys = torch.empty(len(points), dtype=torch.int64, device=points.device)
    broken = torch.zeros(1, dtype=torch.int32, device=points.device)
    if len(points):
        blocks = (triton.cdiv(len(points), _BLOCK),)
        _cell_keys_kernel[blocks](
            points, bounds, keys, broken, *points.shape, *grid, BLOCK=_BLOCK, enable_fp_fusion=False
        )
    return keys, broken


@on_its_device
def fill(points: Tensor, index: Tensor, rank: Tensor, voxels: Tensor) -> None:
    """Writes point i into ``voxels[index[i], rank[i]]``, where that exists.

    Args:
        points: [N, C] contiguous.
        index: int32 [N].
        rank: int32 [N].
        voxels: [M, P, C] contiguous, of the points' dtype.
    """
    if len(points) and voxels.numel():
        blocks = (triton.cdiv(points.numel(), _BLOCK),)
        _fill_kernel[blocks](points, index, rank, voxels, points.numel(), *voxels.shape, BLOCK=_BLOCK)


@triton.jit
def _cell_keys_kernel(points, bounds, keys, broken, rows, columns, cells_x, cells_y, cells_z, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = row < rows
    first = points + row.to(tl.int64) * columns
    is_broken = row < 0
    for column in range(columns):
        value = tl.load(first + column, mask=exists, other=0)
        is_broken |= value - value != 0  # only NaN and infinity differ from themselves like this
    tl.atomic_add(broken, tl.sum(is_broken.to(tl.int32), 0))
    x, is_in_x = _cell(first, bounds, 0, cells_x, exists)
    y, is_in_y = _cell(first, bounds, 1, cells_y, exists)
    z, is_in_z = _cell(first, bounds, 2, cells_z, exists)
    key = (z * cells_y + y) * cells_x + x
    tl.store(keys + row, tl.where(is_in_x & is_in_y & is_in_z, key, -1), mask=exists)


@triton.jit
def _cell(first, bounds, axis, cells, exists):
    """Cell of each point along an axis, int64, and whether it lies in the grid."""
    low, size = tl.load(bounds + axis), tl.load(bounds + 3 + axis)
    offset = tl.load(first + axis, mask=exists, other=0).to(low.dtype) - low
    if low.dtype == tl.float32:
        cell = tl.floor(tl.div_rn(offset, size))  # a plain float32 division is not correctly rounded
    else:
        cell = tl.floor(offset / size)
    is_inside = (cell >= 0) & (cell < cells)
    return tl.where(is_inside, cell, 0).to(tl.int64), is_inside


@triton.jit
def _fill_kernel(points, index, rank, voxels, elements, count, depth, columns, BLOCK: tl.constexpr):
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = element < elements
    row, column = element // columns, element % columns
    voxel = tl.load(index + row, mask=exists, other=-1)
    place = tl.load(rank + row, mask=exists, other=0)
    is_kept = exists & (voxel >= 0) & (voxel < count) & (place < depth)
    value = tl.load(points + element, mask=is_kept)
    tl.store(voxels + (voxel.to(tl.int64) * depth + place) * columns + column, value, mask=is_kept)
