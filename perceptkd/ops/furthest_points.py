"""Furthest point sampling: each new point is the one furthest from all chosen so far (Qi et al., PointNet++, 2017).

The first point is always that of index 0. Among equally far ones the lowest index wins; mmcv takes the lowest index
modulo the size of its thread block. Once every point is chosen, or equals a chosen one, index 0 is repeated.
"""

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.checks import check_tensor, describe
from perceptkd.ops.row_threads import share_rows
from perceptkd.ops.triton_kernels import runs_on_triton

#: Squared distances beyond this (100 km) count as equal, and a point whose distance is NaN keeps it; as in mmcv.
FURTHEST = 1e10


def furthest_point_sample(points: Tensor, count: int) -> Tensor:
    """Samples points that are spread out evenly.

    Args:
        points: [B, N, 3], in metres; distances are computed in their dtype (float32 for half types).
        count: number of points to sample.

    Returns:
        Indices int32 [B, count].

    >>> furthest_point_sample(torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0], [2, 0, 0]]]), 3).tolist()
    [[0, 2, 3]]
    """
    check_tensor("points", points, ("B", "N", 3))
    _check_count(points, count)
    columns = _floats(points).transpose(1, 2).contiguous()
    if runs_on_triton(columns):
        from perceptkd.ops.triton_kernels import furthest_points as kernels

        return kernels.sample(columns, count, FURTHEST)
    if columns.device.type == "cpu":
        return _sample_numba(_sample_points, columns, count)
    return _sample_points_torch(columns, count)


def furthest_point_sample_with_dist(distances: Tensor, count: int) -> Tensor:
    """The same for distances that are given, of any kind.

    Args:
        distances: [B, N, N], row i for the distances from point i.
        count: number of points to sample.

    Returns:
        Indices int32 [B, count].
    """
    check_tensor("distances", distances, ("B", "N", "N"))
    _check_count(distances, count)
    if distances.device.type == "cpu":
        return _sample_numba(_sample_rows, _floats(distances), count)
    return _sample_rows_torch(distances, count)


def _floats(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _check_count(points: Tensor, count: int) -> None:
    if count < 0 or (count > 0 and points.shape[1] == 0):
        raise ValueError(f"cannot sample {count} points from a tensor of {describe(points)}")


def _sample_points_torch(columns: Tensor, count: int) -> Tensor:
    """The definition in torch, for any device; points as columns [B, 3, N]."""

    def distances2(chosen: Tensor) -> Tensor:
        x, y, z = (columns - columns.gather(2, chosen[:, None, None].expand(-1, 3, 1))).unbind(1)
        return x * x + y * y + z * z

    return _sample_torch(distances2, columns, count)


def _sample_rows_torch(distances: Tensor, count: int) -> Tensor:
    def row(chosen: Tensor) -> Tensor:
        return _floats(distances[torch.arange(len(distances), device=distances.device), chosen])

    return _sample_torch(row, distances, count)


def _sample_torch(distances_from: Callable[[Tensor], Tensor], values: Tensor, count: int) -> Tensor:
    """``distances_from`` maps indices [B] to distances [B, N]; ``values`` is [B, ..., N]."""
    batch, points = values.shape[0], values.shape[2]
    indices = torch.zeros((batch, count), dtype=torch.int32, device=values.device)
    dtype = torch.promote_types(values.dtype, torch.float32)
    nearest = torch.full((batch, points), FURTHEST, dtype=dtype, device=values.device)
    chosen = torch.zeros(batch, dtype=torch.int64, device=values.device)
    for step in range(1, count):
        nearest = torch.fmin(distances_from(chosen), nearest)
        chosen = nearest.argmax(1)
        indices[:, step] = chosen
    return indices


def _sample_numba(kernel: Callable[..., None], values: Tensor, count: int) -> Tensor:
    """The same on CPU, one thread per cloud."""
    indices = np.zeros((len(values), count), np.int32)
    array = values.numpy()

    def work(start: int, stop: int) -> None:
        for cloud in range(start, stop):
            kernel(array[cloud], np.full(array.shape[2], FURTHEST, array.dtype), indices[cloud])

    share_rows(work, len(values), smallest_share=1)
    return torch.from_numpy(indices)


@njit(cache=True, nogil=True)
def _sample_points(columns: np.ndarray, nearest: np.ndarray, indices: np.ndarray) -> None:
    """Points as columns [3, N]. The loop over distances stands alone, so that it compiles to vector instructions."""
    chosen = 0
    for step in range(1, indices.shape[0]):
        x0, y0, z0 = columns[0, chosen], columns[1, chosen], columns[2, chosen]
        for k in range(nearest.shape[0]):
            x, y, z = columns[0, k] - x0, columns[1, k] - y0, columns[2, k] - z0
            distance2 = x * x + y * y + z * z
            nearest[k] = distance2 if distance2 < nearest[k] else nearest[k]
        chosen = _first_maximum(nearest)
        indices[step] = chosen


@njit(cache=True, nogil=True)
def _sample_rows(distances: np.ndarray, nearest: np.ndarray, indices: np.ndarray) -> None:
    chosen = 0
    for step in range(1, indices.shape[0]):
        for k in range(nearest.shape[0]):
            nearest[k] = distances[chosen, k] if distances[chosen, k] < nearest[k] else nearest[k]
        chosen = _first_maximum(nearest)
        indices[step] = chosen


@njit(cache=True, nogil=True)
def _first_maximum(values: np.ndarray) -> int:
    best, place = values[0], 0
    for k in range(1, values.shape[0]):
        if values[k] > best:
            best, place = values[k], k
    return place
