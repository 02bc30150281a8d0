"""mmcv's ops on boxes: overlaps and non-maximum suppression."""

import torch
from torch import Tensor

from perceptkd.ops import iou3d as iou3d_ops
from perceptkd.ops import nms as nms_ops
from perceptkd.ops import nms_match as nms_match_ops
from perceptkd.ops import quadri as quadri_ops
from perceptkd.ops.bbox_overlaps import Mode
from perceptkd.ops.bbox_overlaps import bbox_overlaps as bbox_overlaps_op
from perceptkd.ops.box_iou_rotated import box_iou_rotated as box_iou_rotated_op

_MODES: tuple[Mode, ...] = ("iou", "iof")
_SOFT_NMS_METHODS: tuple[nms_ops.SoftMethod, ...] = ("naive", "linear", "gaussian")


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


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """``dets`` [N, 5] are boxes and scores; mmcv makes tensors of the lists."""
    return [group.tolist() for group in nms_match_ops.nms_match(dets[:, :4], dets[:, 4], iou_threshold)]


def nms_quadri(
    dets: Tensor, scores: Tensor, order: Tensor, dets_sorted: Tensor, iou_threshold: float, multi_label: bool
) -> Tensor:
    """``order`` and ``dets_sorted`` are not needed; with ``multi_label`` the ninth column of ``dets`` is the label."""
    return quadri_ops.nms_quadri(dets[:, :8], scores, iou_threshold, labels=dets[:, 8] if multi_label else None)


def box_iou_quadri(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    ious.copy_(quadri_ops.box_iou_quadri(boxes1, boxes2, mode=_MODES[mode_flag], is_aligned=aligned).flatten())


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
