"""Our ops under the names and signatures of mmcv's compiled module; see :mod:`perceptkd.ops.mmcv_ext`.

mmcv's Python wrappers allocate the outputs and pass them in; each function here fills them from the op of its name.
"""

import torch
from torch import Tensor

from perceptkd.ops import iou3d as iou3d_ops
from perceptkd.ops import nms as nms_ops
from perceptkd.ops import points_in_boxes as points_ops
from perceptkd.ops.bbox_overlaps import Mode
from perceptkd.ops.bbox_overlaps import bbox_overlaps as bbox_overlaps_op
from perceptkd.ops.box_iou_rotated import box_iou_rotated as box_iou_rotated_op
from perceptkd.ops.dynamic_scatter import Reduction, scatter_backward, scatter_forward
from perceptkd.ops.focal_loss import sigmoid_focal_loss, sigmoid_focal_loss_gradient
from perceptkd.ops.voxelize import assign_voxels, dynamic_voxelize, fill_voxels

_MODES: tuple[Mode, ...] = ("iou", "iof")
_SOFT_NMS_METHODS: tuple[nms_ops.SoftMethod, ...] = ("naive", "linear", "gaussian")


def get_compiler_version() -> str:
    return "none (perceptkd.ops)"


def get_compiling_cuda_version() -> str:
    return "none (perceptkd.ops)"


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


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    return nms_ops.nms(boxes, scores, iou_threshold, offset=offset)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Writes boxes and lowered scores into the first rows of ``dets`` [N, 5]; returns the chosen indices."""
    indices, lowered = nms_ops.soft_nms(
        boxes,
        scores,
        iou_threshold,
        method=_SOFT_NMS_METHODS[method],
        sigma=sigma,
        min_score=min_score,
        offset=offset,
    )
    dets[: len(indices)] = torch.cat((boxes[indices], lowered[:, None]), dim=1)
    return indices


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """``order`` and ``dets_sorted`` are not needed; with ``multi_label`` the sixth column of ``dets`` is the label."""
    return nms_ops.nms_rotated(dets[:, :5], scores, iou_threshold, labels=dets[:, 5] if multi_label else None)


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    ious.copy_(box_iou_rotated_op(boxes1, boxes2, mode=_MODES[mode_flag], is_aligned=aligned).flatten())


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    ious.copy_(bbox_overlaps_op(bboxes1, bboxes2, mode=_MODES[mode], is_aligned=aligned, offset=offset))


def iou3d_boxes_overlap_bev_forward(boxes_a: Tensor, boxes_b: Tensor, ans_iou: Tensor) -> None:
    """Fills ``ans_iou`` [M, N] with areas, in spite of its name."""
    ans_iou.copy_(iou3d_ops.boxes_overlap_bev(boxes_a, boxes_b))


def iou3d_nms3d_forward(boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float) -> None:
    """Boxes come sorted by score; fills the first ``num_out`` entries of ``keep``."""
    _fill_kept(iou3d_ops.nms3d(boxes, _falling_scores(boxes), nms_overlap_thresh), keep, num_out)


def iou3d_nms3d_normal_forward(boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float) -> None:
    _fill_kept(iou3d_ops.nms3d_normal(boxes, _falling_scores(boxes), nms_overlap_thresh), keep, num_out)


def _falling_scores(boxes: Tensor) -> Tensor:
    return torch.arange(len(boxes), 0, -1, device=boxes.device, dtype=torch.float64)


def _fill_kept(kept: Tensor, keep: Tensor, num_out: Tensor) -> None:
    keep[: len(kept)] = kept
    num_out.fill_(len(kept))


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


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    output.copy_(sigmoid_focal_loss(input, target, gamma=gamma, alpha=alpha, weight=_weight_or_none(weight)))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    weights = _weight_or_none(weight)
    grad_input.copy_(sigmoid_focal_loss_gradient(input, target, gamma=gamma, alpha=alpha, weight=weights))


def _weight_or_none(weight: Tensor) -> Tensor | None:
    """mmcv passes an empty tensor for no class weights."""
    return weight if weight.numel() else None
