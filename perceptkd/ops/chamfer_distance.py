"""Chamfer distance of 2D point sets: from each point to the nearest one of the other set (Oriented RepPoints, 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptkd.ops.checks import check_same_device, check_tensor, describe
from perceptkd.ops.nearest import nearest_points


def chamfer_distance(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Squared distance of each point to the nearest of the other set; differentiable in both.

    Args:
        first: [B, N, 2], finite.
        second: [B, M, 2]; neither set may be empty where the other is not.

    Returns:
        Squared distances [B, N] and [B, M], and the indices of the nearest points, int32 [B, N] and [B, M]; the lowest
        of equally near ones. mmcv looks no further than a squared distance of 1e10.

    >>> first, second = torch.tensor([[[0.0, 0], [4, 0]]]), torch.tensor([[[1.0, 0]]])
    >>> [result.tolist() for result in chamfer_distance(first, second)]
    [[[1.0, 9.0]], [[1.0]], [[0, 0]], [[0]]]
    """
    check_tensor("first", first, ("B", "N", 2))
    check_tensor("second", second, (len(first), "M", 2))
    check_same_device(first=first, second=second)
    if (first.shape[1] == 0) != (second.shape[1] == 0):
        raise ValueError(f"no point is nearest in an empty set, got {describe(first)} and {describe(second)}")
    index1, index2 = _nearest(first, second), _nearest(second, first)
    return squared_distance(first, second, index1), squared_distance(second, first, index2), index1, index2


def squared_distance(points: Tensor, others: Tensor, indices: Tensor) -> Tensor:
    """Squared distance [B, N] of points [B, N, 2] to the points of ``others`` [B, M, 2] that ``indices`` [B, N] choose.

    Differentiable in both; computed in float32 or better.
    """
    check_tensor("indices", indices, tuple(points.shape[:2]), kind="integer")
    dtype = torch.promote_types(points.dtype, torch.float32)
    chosen = others.to(dtype).gather(1, indices.long()[..., None].expand(-1, -1, 2))
    return (points.to(dtype) - chosen).square().sum(2).to(points.dtype)


def _nearest(points: Tensor, others: Tensor) -> Tensor:
    """Index of the nearest of ``others`` to each point, int32 [B, N]."""
    return nearest_points(F.pad(others, (0, 1)), F.pad(points, (0, 1)), 1)[0][..., 0]
