"""Overlap and NMS of 3D boxes in the bird's-eye view.

A box is (x, y, z, dx, dy, dz, heading); z and dz play no part here. Heading turns from x towards y, in radians.
"""

import torch
from torch import Tensor

from perceptkd.ops.box_iou_rotated import rotated_intersection
from perceptkd.ops.checks import check_rows
from perceptkd.ops.nms import as_floats, nms, nms_rotated


def boxes_overlap_bev(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Area shared by the footprints of 3D boxes, [M, N] in square metres.

    >>> boxes_overlap_bev(torch.tensor([[0., 0, 0, 4, 2, 1, 0]]), torch.tensor([[1., 0, 0, 4, 2, 1, 0]])).tolist()
    [[6.0]]
    """
    return rotated_intersection(bev_boxes("boxes_a", boxes_a), bev_boxes("boxes_b", boxes_b))


def nms3d(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """NMS by the IoU of the footprints; returns kept indices int64 [K] by falling score."""
    return nms_rotated(bev_boxes("boxes", boxes), scores, iou_threshold)


def nms3d_normal(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """NMS by the IoU of the footprints with every heading set to 0; returns kept indices int64 [K] by falling score."""
    footprint = as_floats(bev_boxes("boxes", boxes))
    centre, half_size = footprint[:, :2], footprint[:, 2:4] / 2
    return nms(torch.cat((centre - half_size, centre + half_size), dim=1), scores, iou_threshold)


def bev_boxes(name: str, boxes: Tensor) -> Tensor:
    """Footprints (x, y, dx, dy, heading) of 3D boxes [N, 7]."""
    check_rows(name, boxes, 7)
    return boxes[:, [0, 1, 3, 4, 6]]
