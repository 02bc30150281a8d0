"""Ball query: the first points within a radius of each centre (Qi et al., PointNet++, 2017).

"First" is by index, so the result does not depend on threads or device. Distances are compared squared, in the dtype of
the points (float32 for half types), and the radius is squared in that dtype, as mmcv does for float32. On CPU numba, on
CUDA a Triton kernel stops at the last point needed; elsewhere torch compares centres with points in blocks of at most
4 million pairs.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.checks import check_same_device, check_tensor, describe
from perceptkd.ops.chunks import chunk
from perceptkd.ops.row_threads import share_rows
from perceptkd.ops.triton_kernels import runs_on_triton

_PAIRS_AT_ONCE = 1 << 22
_PAIRS_PER_THREAD = 1 << 20


def ball_query(points: Tensor, centres: Tensor, *, max_radius: float, samples: int, min_radius: float = 0.0) -> Tensor:
    """Finds the points whose distance d from a centre has ``min_radius <= d < max_radius``, or is 0.

    Args:
        points: [B, N, 3], in metres.
        centres: [B, M, 3].
        max_radius: in metres, exclusive.
        samples: points taken per centre, those of lowest index.
        min_radius: in metres, inclusive.

    Returns:
        Indices of points, int32 [B, M, samples], rising; where there are fewer, the first is repeated. All 0 for a
        centre without any.

    >>> cloud = torch.tensor([[[0.0, 0, 0], [5, 0, 0], [0, 1, 0]]])
    >>> ball_query(cloud, cloud[:, :2], max_radius=2.0, samples=3).tolist()
    [[[0, 2, 0], [1, 1, 1]]]
    """
    check_tensor("points", points, ("B", "N", 3))
    check_tensor("centres", centres, (len(points), "M", 3))
    found = [
        _query_cloud(*clouds, min_radius=min_radius, max_radius=max_radius, samples=samples, empty=0)
        for clouds in zip(points, centres)
    ]
    if not found:
        return torch.zeros((0, centres.shape[1], samples), dtype=torch.int32, device=points.device)
    return torch.stack(found)


def stack_ball_query(
    points: Tensor,
    point_counts: Tensor,
    centres: Tensor,
    centre_counts: Tensor,
    *,
    max_radius: float,
    samples: int,
) -> Tensor:
    """Ball query in clouds of different size, whose points lie one after another.

    Args:
        points: [N1 + N2 + ..., 3], in metres.
        point_counts: integers [B], (N1, N2, ...).
        centres: [M1 + M2 + ..., 3].
        centre_counts: integers [B], (M1, M2, ...).
        max_radius: in metres, exclusive.
        samples: points taken per centre, those of lowest index.

    Returns:
        Indices int32 [M1 + M2 + ..., samples] into the centre's own cloud, as :func:`ball_query`; but a centre without
        any point has -1 first and 0 after.
    """
    check_tensor("points", points, ("N", 3))
    check_tensor("centres", centres, ("M", 3))
    check_tensor("point_counts", point_counts, ("B",), kind="integer")
    check_tensor("centre_counts", centre_counts, (len(point_counts),), kind="integer")
    clouds = [
        tensor.split(_sizes(name, counts, tensor))
        for name, counts, tensor in (("point", point_counts, points), ("centre", centre_counts, centres))
    ]
    found = [
        _query_cloud(*pair, min_radius=0.0, max_radius=max_radius, samples=samples, empty=-1) for pair in zip(*clouds)
    ]
    return torch.cat([torch.zeros((0, samples), dtype=torch.int32, device=points.device), *found])


def _sizes(name: str, counts: Tensor, tensor: Tensor) -> list[int]:
    sizes = counts.tolist()
    if sum(sizes) != len(tensor):
        raise ValueError(f"{name}_counts must sum to the number of {name}s, got {sizes} for {describe(tensor)}")
    return sizes


def _query_cloud(
    points: Tensor, centres: Tensor, *, min_radius: float, max_radius: float, samples: int, empty: int
) -> Tensor:
    """One cloud: points [N, 3], centres [M, 3]; ``empty`` is the first index of a centre without points."""
    if not 0 <= min_radius < max_radius or samples < 1:
        raise ValueError(
            "the radii must have 0 <= min_radius < max_radius and samples must be at least 1, "
            f"got min_radius={min_radius}, max_radius={max_radius}, samples={samples}"
        )
    check_same_device(points=points, centres=centres)
    dtype = torch.promote_types(torch.promote_types(points.dtype, centres.dtype), torch.float32)
    points, centres = points.detach().to(dtype), centres.detach().to(dtype)
    low, high = np.square([min_radius, max_radius], dtype=np.float64 if dtype == torch.float64 else np.float32)
    if runs_on_triton(points):
        from perceptkd.ops.triton_kernels import ball_query as kernels

        bounds = points.new_tensor([float(low), float(high)])
        return kernels.query(points.contiguous(), centres.contiguous(), bounds, samples, empty)
    if points.device.type != "cpu":
        return _query_torch(points, centres, float(low), float(high), samples, empty)
    index = np.zeros((len(centres), samples), np.int32)
    arrays = points.contiguous().numpy(), centres.contiguous().numpy()

    def work(start: int, stop: int) -> None:
        _query_numba(*arrays, low, high, empty, start, stop, index)

    share_rows(work, len(centres), smallest_share=1 + _PAIRS_PER_THREAD // max(1, len(points)))
    return torch.from_numpy(index)


def _query_torch(points: Tensor, centres: Tensor, low: float, high: float, samples: int, empty: int) -> Tensor:
    """The definition in torch, for any device."""
    count = len(points)
    order = torch.arange(count, dtype=torch.int32, device=points.device)
    found = torch.full((len(centres), samples), count, dtype=torch.int32, device=points.device)
    for rows in chunk(len(centres), count, _PAIRS_AT_ONCE):
        x, y, z = (centres[rows, axis, None] - points[:, axis] for axis in range(3))
        distance2 = x * x + y * y + z * z
        is_near = (distance2 == 0) | ((distance2 >= low) & (distance2 < high))
        first = torch.where(is_near, order, count).topk(min(samples, count), dim=1, largest=False).values
        found[rows, : first.shape[1]] = first
    is_empty = found[:, 0] == count
    found = torch.where(found == count, found[:, :1], found)
    found[is_empty] = 0
    found[is_empty, 0] = empty
    return found


@njit(cache=True, nogil=True)
def _query_numba(
    points: np.ndarray,
    centres: np.ndarray,
    low: np.floating,
    high: np.floating,
    empty: int,
    start: int,
    stop: int,
    index: np.ndarray,
) -> None:
    """Fills the rows of ``index`` from start to stop."""
    samples = index.shape[1]
    for row in range(start, stop):
        size = 0
        centre_x, centre_y, centre_z = centres[row, 0], centres[row, 1], centres[row, 2]
        for k in range(points.shape[0]):
            x, y, z = centre_x - points[k, 0], centre_y - points[k, 1], centre_z - points[k, 2]
            distance2 = x * x + y * y + z * z
            if distance2 == 0 or (distance2 >= low and distance2 < high):
                index[row, size] = k
                size += 1
                if size == samples:
                    break
        if size == 0:
            index[row, 0] = empty
        else:
            index[row, size:] = index[row, 0]
