"""Nearest neighbours of 3D points: k of them (PAConv, DGCNN) or three (PointNet++).

Neighbours come by rising distance and, at equal distances, by index; mmcv's three_nn has the same order, while its knn
leaves equal distances in the order of its heap. Squared distances are computed from differences of coordinates in the
dtype of the points (float32 for half types). On CPU numba keeps a sorted list per point; elsewhere torch compares
blocks of at most 4 million pairs.
"""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.checks import check_same_device, check_tensor
from perceptkd.ops.chunks import chunk
from perceptkd.ops.row_threads import share_rows

_PAIRS_AT_ONCE = 1 << 22
_PAIRS_PER_THREAD = 1 << 20
#: mmcv's knn looks no further: 100 km, squared.
KNN_LIMIT = 1e10


def knn(points: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Finds the ``k`` points nearest to each query.

    Args:
        points: [B, N, 3], in metres.
        queries: [B, M, 3].
        k: number of neighbours.

    Returns:
        Indices int32 [B, M, k] and squared distances [B, M, k], float32 or float64. A missing neighbour, because there
        are fewer points or they are 100 km away, has index 0 and a squared distance of 1e10, as in mmcv.

    >>> cloud = torch.tensor([[[0.0, 0, 0], [5, 0, 0], [0, 1, 0]]])
    >>> indices, distances2 = knn(cloud, cloud[:, :1], 2)
    >>> indices.tolist(), distances2.tolist()
    ([[[0, 2]]], [[[0.0, 1.0]]])
    """
    return nearest_points(points, queries, k, limit2=KNN_LIMIT)


def three_nn(targets: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the three sources nearest to each target.

    Args:
        targets: [B, N, 3], in metres.
        sources: [B, M, 3].

    Returns:
        Squared distances [B, N, 3] in the dtype of ``targets`` and indices int32 [B, N, 3]. A missing neighbour has an
        infinite distance and index 0.
    """
    check_tensor("targets", targets, ("B", "N", 3))
    check_tensor("sources", sources, (len(targets), "M", 3))
    indices, distances2 = nearest_points(sources, targets, 3)
    return distances2.to(targets.dtype), indices


def nearest_points(points: Tensor, queries: Tensor, k: int, *, limit2: float = math.inf) -> tuple[Tensor, Tensor]:
    """As :func:`knn`, with the squared distance ``limit2`` from which on a point does not count."""
    check_tensor("points", points, ("B", "N", 3))
    check_tensor("queries", queries, (len(points), "M", 3))
    check_same_device(points=points, queries=queries)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    dtype = torch.promote_types(torch.promote_types(points.dtype, queries.dtype), torch.float32)
    points, queries = points.detach().to(dtype).contiguous(), queries.detach().to(dtype).contiguous()
    shape = (*queries.shape[:2], k)
    distances2 = torch.full(shape, limit2, dtype=dtype, device=points.device)
    indices = torch.zeros(shape, dtype=torch.int32, device=points.device)
    search = _search_numba if points.device.type == "cpu" else _search_torch
    for arguments in zip(points, queries, distances2, indices):
        search(*arguments)
    return indices, distances2


def _search_torch(points: Tensor, queries: Tensor, distances2: Tensor, indices: Tensor) -> None:
    """One cloud in torch, for any device; ``distances2`` [M, k] comes filled with the limit."""
    k = min(distances2.shape[1], len(points))
    for rows in chunk(len(queries), len(points), _PAIRS_AT_ONCE):
        x, y, z = (queries[rows, axis, None] - points[:, axis] for axis in range(3))
        all_distances2 = x * x + y * y + z * z
        counts = all_distances2 < distances2[rows, :1]
        nearest2, nearest = _smallest(all_distances2.masked_fill_(~counts, math.inf), k)
        found = nearest2 < math.inf
        distances2[rows, :k] = torch.where(found, nearest2, distances2[rows, :k])
        indices[rows, :k] = torch.where(found, nearest, 0).int()


def _smallest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` smallest of each row and their columns, equal ones by column; values are not negative and not NaN."""
    if values.dtype == torch.float64:
        ordered, columns = values.sort(dim=1, stable=True)
        return ordered[:, :k], columns[:, :k]
    # topk alone takes any of equal values. Floats of one sign sort as their bits do, so that value and column fit one
    # integer, of which no two are equal.
    columns = torch.arange(values.shape[1], device=values.device)
    keys = (values.view(torch.int32).long() << 32) | columns
    keys = keys.topk(k, dim=1, largest=False).values
    return (keys >> 32).int().view(torch.float32), keys & 0xFFFFFFFF


def _search_numba(points: Tensor, queries: Tensor, distances2: Tensor, indices: Tensor) -> None:
    """The same on CPU."""
    arrays = points.numpy(), queries.numpy(), distances2.numpy(), indices.numpy()

    def work(start: int, stop: int) -> None:
        _insert_nearest(*arrays, start, stop)

    share_rows(work, len(queries), smallest_share=1 + _PAIRS_PER_THREAD // max(1, len(points)))


@njit(cache=True, nogil=True)
def _insert_nearest(
    points: np.ndarray, queries: np.ndarray, distances2: np.ndarray, indices: np.ndarray, start: int, stop: int
) -> None:
    """Inserts each point that is nearer than the last of the row's list, after those of equal distance."""
    last = distances2.shape[1] - 1
    for row in range(start, stop):
        query_x, query_y, query_z = queries[row, 0], queries[row, 1], queries[row, 2]
        furthest = distances2[row, last]
        for k in range(points.shape[0]):
            x, y, z = query_x - points[k, 0], query_y - points[k, 1], query_z - points[k, 2]
            distance2 = x * x + y * y + z * z
            if distance2 < furthest:
                place = last
                while place > 0 and distances2[row, place - 1] > distance2:
                    distances2[row, place] = distances2[row, place - 1]
                    indices[row, place] = indices[row, place - 1]
                    place -= 1
                distances2[row, place] = distance2
                indices[row, place] = k
                furthest = distances2[row, last]
