"""Reduces points that share a voxel (dynamic scatter): mean, max or sum, with the gradient to the points."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_same_device, describe
from perceptkd.ops.grouping import Groups, group_by_key

Reduction = Literal["mean", "max", "sum"]


def dynamic_scatter(points: Tensor, coordinates: Tensor, reduction: Reduction = "mean") -> tuple[Tensor, Tensor]:
    """Reduces the points of each voxel; differentiable in ``points``.

    Args:
        points: [N, C] features.
        coordinates: integers [N, D], the voxel of each point; a row with a negative entry is left out.
        reduction: 'mean', 'max' or 'sum'. The gradient of 'max' goes to the first point that holds the maximum.

    Returns:
        features [M, C] in the dtype of ``points``, summed in float32 or better, and coordinates [M, D] of the voxels,
        sorted by coordinate.

    >>> features = torch.tensor([[1.0], [3.0], [5.0]])
    >>> voxels = torch.tensor([[0, 1], [0, 1], [0, 0]])
    >>> dynamic_scatter(features, voxels, "mean")
    (tensor([[5.],
            [2.]]), tensor([[0, 0],
            [0, 1]]))
    """
    return _DynamicScatter.apply(points, coordinates, reduction)


class _DynamicScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points: Tensor, coordinates: Tensor, reduction: Reduction) -> tuple[Tensor, Tensor]:
        features, voxels, index, counts = scatter_forward(points, coordinates, reduction)
        ctx.save_for_backward(points, features, index, counts)
        ctx.reduction = reduction
        ctx.mark_non_differentiable(voxels)
        return features, voxels

    @staticmethod
    def backward(ctx, grad_features: Tensor, _grad_voxels: Tensor) -> tuple[Tensor, None, None]:
        points, features, index, counts = ctx.saved_tensors
        return scatter_backward(grad_features, points, features, index, counts, ctx.reduction), None, None


def scatter_forward(points: Tensor, coordinates: Tensor, reduction: Reduction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forward pass; see :func:`dynamic_scatter`.

    Returns:
        features [M, C], coordinates [M, D], the voxel of each point int32 [N] (-1 for none) and the points per voxel
        int32 [M].
    """
    _check_arguments(points, coordinates, reduction)
    keys, extents = _pack_coordinates(coordinates)
    groups = group_by_key(keys)
    voxels = _unpack_coordinates(groups.keys, extents).to(coordinates.dtype)
    if reduction == "max":
        features = _group_maxima(points, groups)
    else:
        features = _group_sums(points.to(torch.promote_types(points.dtype, torch.float32)), groups)
        if reduction == "mean":
            features /= groups.counts[:, None]
        features = features.to(points.dtype)
    return features, voxels, groups.index, groups.counts


def scatter_backward(
    grad_features: Tensor, points: Tensor, features: Tensor, index: Tensor, counts: Tensor, reduction: Reduction
) -> Tensor:
    """Gradient of :func:`scatter_forward` to the points, [N, C]."""
    grad_points = torch.zeros_like(points)
    rows = torch.nonzero(index >= 0).squeeze(1)
    voxel = index[rows].long()
    if reduction == "max":
        first = _first_maximum(points[rows], features, voxel)
        grad_points[rows] = torch.where(first, grad_features[voxel], 0)
    elif reduction == "mean":
        wide = grad_features.to(torch.promote_types(grad_features.dtype, torch.float32))
        grad_points[rows] = (wide / counts[:, None]).to(grad_points.dtype)[voxel]
    else:
        grad_points[rows] = grad_features[voxel]
    return grad_points


def _group_maxima(points: Tensor, groups: Groups) -> Tensor:
    """Largest value per group and channel, [G, C]."""
    rows = torch.nonzero(groups.index >= 0).squeeze(1)
    target = groups.index[rows].long()[:, None].expand(-1, points.shape[1])
    features = points.new_zeros((len(groups.keys), points.shape[1]))
    return features.scatter_reduce_(0, target, points[rows], "amax", include_self=False)


def _group_sums(points: Tensor, groups: Groups) -> Tensor:
    """Sum per group, [G, C], always in the order of the rows: on CUDA an ``index_add_`` would vary from run to run."""
    rows = torch.nonzero(groups.index >= 0).squeeze(1)
    offsets = torch.cat((groups.counts.new_zeros(1), groups.counts)).cumsum(0)
    by_group = torch.empty_like(rows)
    by_group[offsets[groups.index[rows].long()] + groups.rank[rows]] = rows
    return F.embedding_bag(by_group, points, offsets, mode="sum", include_last_offset=True)


def _first_maximum(points: Tensor, features: Tensor, voxel: Tensor) -> Tensor:
    """Marks, per voxel and channel, the first point that equals the maximum; bool [K, C]."""
    order = torch.arange(len(points), device=points.device)[:, None].expand(-1, points.shape[1])
    candidate = torch.where(points == features[voxel], order, len(points))
    winner = candidate.new_full(features.shape, len(points))
    winner.scatter_reduce_(0, voxel[:, None].expand_as(candidate), candidate, "amin")
    return candidate == winner[voxel]


def _check_arguments(points: Tensor, coordinates: Tensor, reduction: str) -> None:
    check_rows("points", points)
    if coordinates.dim() != 2 or coordinates.shape[0] != points.shape[0] or coordinates.is_floating_point():
        raise ValueError(f"coordinates must be integers [{points.shape[0]}, D], got {describe(coordinates)}")
    check_same_device(points=points, coordinates=coordinates)
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}, got {reduction!r}")


def _pack_coordinates(coordinates: Tensor) -> tuple[Tensor, list[int]]:
    """One int64 key per row that sorts as the rows do, -1 for rows with a negative entry; and the extent per column."""
    if coordinates.shape[0] == 0:
        return coordinates.new_zeros(0, dtype=torch.int64), [1] * coordinates.shape[1]
    columns = [column.long() for column in coordinates.unbind(1)]
    extents = [max(int(largest), 0) + 1 for largest in coordinates.amax(0).tolist()]
    keys = torch.zeros_like(columns[0])
    is_outside = torch.zeros_like(keys, dtype=torch.bool)
    for column, extent in zip(columns, extents):
        keys = keys * extent + column
        is_outside |= column < 0
    return keys.masked_fill_(is_outside, -1), extents


def _unpack_coordinates(keys: Tensor, extents: list[int]) -> Tensor:
    columns = []
    for extent in reversed(extents):
        columns.append(keys % extent)
        keys = keys // extent
    return torch.stack(columns[::-1], dim=1)
