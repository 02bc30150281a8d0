"""mmcv's ops on points and voxels."""

from torch import Tensor

from perceptkd.ops import points_in_boxes as points_ops
from perceptkd.ops.dynamic_scatter import Reduction, scatter_backward, scatter_forward
from perceptkd.ops.voxelize import assign_voxels, dynamic_voxelize, fill_voxels


def hard_voxelize_forward(
    points: Tensor,
    voxel_size: Tensor,
    coors_range: Tensor,
    voxels: Tensor,
    coors: Tensor,
    num_points_per_voxel: Tensor,
    voxel_num: Tensor,
    max_points: int,
    max_voxels: int,
    NDim: int = 3,
    deterministic: bool = True,
) -> None:
    """Fills voxels, coors, num_points_per_voxel and voxel_num; the result is deterministic whatever is asked."""
    groups, coordinates, counts = assign_voxels(
        points, voxel_size.tolist(), coors_range.tolist(), max_points, max_voxels
    )
    size = len(counts)
    fill_voxels(points, groups, voxels[:size])
    coors[:size] = coordinates
    num_points_per_voxel[:size] = counts
    voxel_num.fill_(size)


def dynamic_voxelize_forward(
    points: Tensor, voxel_size: Tensor, coors_range: Tensor, coors: Tensor, NDim: int = 3
) -> None:
    coors.copy_(dynamic_voxelize(points, voxel_size.tolist(), coors_range.tolist()))


def dynamic_point_to_voxel_forward(
    feats: Tensor, coors: Tensor, reduce_type: Reduction
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return scatter_forward(feats, coors, reduce_type)


def dynamic_point_to_voxel_backward(
    grad_feats: Tensor,
    grad_reduced_feats: Tensor,
    feats: Tensor,
    reduced_feats: Tensor,
    coors_idx: Tensor,
    reduce_count: Tensor,
    reduce_type: Reduction,
) -> None:
    gradient = scatter_backward(grad_reduced_feats, feats, reduced_feats, coors_idx, reduce_count, reduce_type)
    grad_feats.copy_(gradient)


def points_in_boxes_part_forward(boxes_tensor: Tensor, pts_tensor: Tensor, box_idx_of_points_tensor: Tensor) -> None:
    """Batched: boxes [B, M, 7], points [B, N, 3], first box of each point int32 [B, N]."""
    for boxes, points, first in zip(boxes_tensor, pts_tensor, box_idx_of_points_tensor):
        first.copy_(points_ops.box_of_points(points, boxes))


def points_in_boxes_all_forward(boxes_tensor: Tensor, pts_tensor: Tensor, box_idx_of_points_tensor: Tensor) -> None:
    """Batched: boxes [B, M, 7], points [B, N, 3], 0 or 1 int32 [B, N, M]."""
    for boxes, points, inside in zip(boxes_tensor, pts_tensor, box_idx_of_points_tensor):
        inside.copy_(points_ops.points_in_boxes(points, boxes))


def points_in_boxes_cpu_forward(boxes_tensor: Tensor, pts_tensor: Tensor, pts_indices_tensor: Tensor) -> None:
    """One sample: boxes [M, 7], points [N, 3], 0 or 1 int32 [M, N]."""
    pts_indices_tensor.copy_(points_ops.points_in_boxes(pts_tensor, boxes_tensor).T)
