"""Pools the point features of each 3D box over a grid of voxels in its own frame (Shi et al., Part-A2, 2019).

A voxel takes the first points that lie in it, by index, up to a bound. Points on the upper faces count to the last
layer of voxels. In 'max', the first of equal values wins, and NaN and minus infinity never do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_same_device, check_tensor
from perceptkd.ops.grouping import argsort_keys, group_by_key
from perceptkd.ops.points_in_boxes import points_in_boxes

Mode = Literal["max", "avg"]


@dataclass(frozen=True)
class VoxelPoints:
    """The points that voxels take: K of them, in G voxels, ordered by voxel and then by point.

    Attributes:
        points: int64 [K], row of the point.
        groups: int64 [K], which of the G voxels takes it.
        ranks: int64 [K], its place in the voxel, from 0.
        voxels: int64 [G], number ``((box * X + x) * Y + y) * Z + z`` of each voxel that takes any.
        counts: int64 [G], how many it takes.
    """

    points: Tensor
    groups: Tensor
    ranks: Tensor
    voxels: Tensor
    counts: Tensor


def roiaware_pool3d(
    boxes: Tensor, points: Tensor, features: Tensor, size: Sequence[int], *, max_points: int = 127, mode: Mode = "max"
) -> Tensor:
    """Pools features by box and voxel; differentiable in ``features``.

    Args:
        boxes: [M, 7]; see :mod:`perceptkd.ops.points_in_boxes`.
        points: [N, 3], in metres.
        features: [N, C].
        size: number of voxels (X, Y, Z) along length, width and height of a box.
        max_points: most points that a voxel takes.
        mode: 'max' or 'avg'.

    Returns:
        [M, X, Y, Z, C]; 0 in empty voxels.

    >>> box, cloud = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]]), torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.6, 1.5]])
    >>> roiaware_pool3d(box, cloud, torch.tensor([[3.0], [5.0]]), (1, 2, 1), mode="avg").flatten().tolist()
    [0.0, 4.0]
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    check_tensor("features", features, (len(points), "C"))
    check_same_device(features=features, points=points)
    taken = assign_points(boxes, points, size, max_points)
    values = pool_maxima(features, taken)[0] if mode == "max" else pool_means(features, taken)
    pooled = values.new_zeros((len(boxes) * size[0] * size[1] * size[2], features.shape[1]))
    return pooled.index_copy(0, taken.voxels, values).unflatten(0, (len(boxes), *size))


def assign_points(boxes: Tensor, points: Tensor, size: Sequence[int], max_points: int) -> VoxelPoints:
    """Finds the points of each voxel; arguments as :func:`roiaware_pool3d`."""
    if len(size) != 3 or min(size) < 1 or max_points < 1:
        raise ValueError(f"size must be three numbers from 1 and max_points at least 1, got {size} and {max_points}")
    check_rows("points", points, 3)
    member_box, member = torch.nonzero(points_in_boxes(points, boxes).T).unbind(1)
    dtype = torch.promote_types(torch.promote_types(points.dtype, boxes.dtype), torch.float32)
    cells = _cells(points.detach()[member].to(dtype), boxes.detach()[member_box].to(dtype), size)
    keys = member_box
    for cell, extent in zip(cells, size):
        keys = keys * extent + cell
    groups, order = group_by_key(keys), argsort_keys(keys)
    order = order[groups.rank[order] < max_points]
    kept = member[order], groups.index[order].long(), groups.rank[order].long()
    return VoxelPoints(*kept, groups.keys, groups.counts.long().clamp(max=max_points))


def pool_means(features: Tensor, taken: VoxelPoints) -> Tensor:
    """Mean feature of each voxel, [G, C], summed in float32 or better."""
    table = features.to(torch.promote_types(features.dtype, torch.float32))
    offsets = F.pad(taken.counts.cumsum(0), (1, 0))
    sums = F.embedding_bag(taken.points, table, offsets, mode="sum", include_last_offset=True)
    return (sums / taken.counts[:, None]).to(features.dtype)


def pool_maxima(features: Tensor, taken: VoxelPoints) -> tuple[Tensor, Tensor]:
    """Largest feature of each voxel, [G, C], and the point that has it, int64 [G, C]; 0 and -1 where none counts."""
    values = features.detach()[taken.points]
    values = torch.where(values.isnan(), -torch.inf, values)
    groups = taken.groups[:, None].expand_as(values)
    maxima = values.new_full((len(taken.voxels), values.shape[1]), -torch.inf)
    maxima.scatter_reduce_(0, groups, values, "amax")
    candidates = torch.where(values == maxima[taken.groups], taken.points[:, None], len(features))
    winners = groups.new_full(maxima.shape, len(features)).scatter_reduce_(0, groups, candidates, "amin")
    counts = maxima > -torch.inf
    largest = features.gather(0, torch.where(counts, winners, 0))
    return torch.where(counts, largest, 0), torch.where(counts, winners, -1)


def roiaware_pool3d_gradient(
    grad_output: Tensor, voxel_points: Tensor, argmax: Tensor, count: int, mode: Mode
) -> Tensor:
    """Gradient of :func:`roiaware_pool3d` to its features, from what mmcv keeps of the forward pass.

    Args:
        grad_output: [V, C], a row for each voxel of each box.
        voxel_points: integers [V, 1 + S], how many points the voxel takes and which, used by 'avg'.
        argmax: integers [V, C], the point that has the maximum or -1, used by 'max'.
        count: number of points.
        mode: 'max' or 'avg'.

    Returns:
        [count, C].
    """
    values = grad_output.to(torch.promote_types(grad_output.dtype, torch.float32))
    gradient = values.new_zeros((count + 1, values.shape[1]))  # the last row is for voxels without a point
    if mode == "max":
        gradient.scatter_add_(0, torch.where(argmax >= 0, argmax, count).long(), values)
    else:
        filled = torch.nonzero(voxel_points[:, 0]).squeeze(1)
        counts, members = voxel_points[filled, :1], voxel_points[filled, 1:]
        row, place = torch.nonzero(torch.arange(members.shape[1], device=counts.device) < counts).unbind(1)
        gradient.index_add_(0, members[row, place].long(), (values[filled] / counts)[row])
    return gradient[:count].to(grad_output.dtype)


def _cells(points: Tensor, boxes: Tensor, size: Sequence[int]) -> list[Tensor]:
    """Cell of each point along length, width and height of the box in its row, int64 [K] each."""
    x, y, z, length, width, height, yaw = boxes.unbind(1)
    shift_x, shift_y = points[:, 0] - x, points[:, 1] - y
    local_x = shift_x * yaw.cos() + shift_y * yaw.sin() + length / 2
    local_y = shift_y * yaw.cos() - shift_x * yaw.sin() + width / 2
    cells = []
    for local, extent, cells_along in zip((local_x, local_y, points[:, 2] - z), (length, width, height), size):
        cell = (local / (extent / cells_along)).nan_to_num(0)  # a box without height holds points at 0 / 0
        cells.append(cell.clamp(0, cells_along - 1).long())
    return cells
