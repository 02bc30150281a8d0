"""BEV overlap and NMS of 3D boxes, as mmcv.ops.iou3d and mmdet3d call them."""

import pytest
import torch
from torch import Tensor

from perceptkd.ops.box_iou_rotated import box_iou_rotated, rotated_intersection
from perceptkd.ops.iou3d import bev_boxes, boxes_overlap_bev, nms3d, nms3d_normal
from perceptkd.ops.nms import nms_rotated


def random_boxes(count: int) -> Tensor:
    low = torch.tensor([0.0, 0.0, -1.0, 1.0, 1.0, 1.0, -4.0])
    high = torch.tensor([8.0, 8.0, 1.0, 5.0, 2.0, 2.0, 4.0])
    return low + torch.rand(count, 7) * (high - low)


def test_overlap_is_that_of_the_footprints() -> None:
    boxes_a, boxes_b = random_boxes(9), random_boxes(11)
    footprints = (boxes_a[:, [0, 1, 3, 4, 6]], boxes_b[:, [0, 1, 3, 4, 6]])
    assert torch.equal(boxes_overlap_bev(boxes_a, boxes_b), rotated_intersection(*footprints))


def test_mmcv_iou3d(device: str) -> None:
    """IoU of boxes that share half their height and a known footprint."""
    from mmcv.ops import boxes_iou3d
    from mmcv.ops import boxes_overlap_bev as mmcv_overlap

    box = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0.3]], device=device)
    raised = torch.tensor([[0.0, 0, 1, 4, 2, 2, 0.3]], device=device)
    assert float(boxes_iou3d(box, raised)) == pytest.approx(8 / 24, rel=1e-5)
    assert float(boxes_iou3d(box, box)) == pytest.approx(1, rel=1e-5)
    boxes = random_boxes(7)
    found = mmcv_overlap(boxes.to(device), boxes.to(device))
    torch.testing.assert_close(found.cpu(), boxes_overlap_bev(boxes, boxes), atol=1e-5, rtol=1e-5)


def test_mmdet3d_box_overlaps() -> None:
    from mmdet3d.structures import LiDARInstance3DBoxes

    boxes = LiDARInstance3DBoxes(random_boxes(8))
    iou = LiDARInstance3DBoxes.overlaps(boxes, boxes)
    torch.testing.assert_close(iou.diagonal(), torch.ones(8))
    torch.testing.assert_close(iou, iou.T)


def test_nms3d_and_mmcv_wrappers(device: str) -> None:
    from mmcv.ops import nms3d as mmcv_nms3d
    from mmcv.ops import nms3d_normal as mmcv_nms3d_normal

    boxes, scores = random_boxes(60).double(), torch.rand(60)
    moved = boxes.to(device), scores.to(device)
    expected = nms_rotated(bev_boxes("boxes", boxes), scores, 0.2)
    assert torch.equal(nms3d(*moved, 0.2).cpu(), expected)
    assert torch.equal(mmcv_nms3d(*moved, 0.2).cpu(), expected)
    assert torch.equal(mmcv_nms3d_normal(*moved, 0.2).cpu(), nms3d_normal(boxes, scores, 0.2))
    assert 1 < len(expected) < 60


def test_normal_nms_ignores_heading() -> None:
    boxes, scores = random_boxes(60), torch.rand(60)
    straight = boxes.clone()
    straight[:, 6] = 0
    assert torch.equal(nms3d_normal(boxes, scores, 0.2), nms3d(straight, scores, 0.2))


def test_mmdet3d_nms_in_the_bev() -> None:
    """nms_bev takes corners and a heading."""
    from mmdet3d.models.layers import nms_bev, nms_normal_bev

    boxes, scores = random_boxes(60), torch.rand(60)
    footprint = bev_boxes("boxes", boxes)
    low, high = footprint[:, :2] - footprint[:, 2:4] / 2, footprint[:, :2] + footprint[:, 2:4] / 2
    kept = nms_bev(torch.cat((low, high, footprint[:, 4:]), dim=1), scores, 0.2)
    assert kept.tolist() == nms3d(boxes, scores, 0.2).tolist()
    assert len(nms_normal_bev(torch.cat((low, high, footprint[:, 4:]), dim=1), scores, 0.2)) > 1
    rotated = box_iou_rotated(footprint[kept], footprint[kept]).fill_diagonal_(0)
    assert rotated.max() <= 0.2 + 1e-5


@pytest.mark.parametrize("suppress", [nms3d, nms3d_normal])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_suppressed_as_in_float32(device: str, suppress, dtype: torch.dtype) -> None:
    boxes, scores = random_boxes(60).to(device, dtype), torch.rand(60, device=device)
    boxes[:, :2] += 100  # corners beside these centres are no half types
    for threshold in (0.1, 0.2, 0.4):
        assert torch.equal(suppress(boxes, scores, threshold), suppress(boxes.float(), scores, threshold))


def test_no_gradient_and_half_areas(device: str) -> None:
    boxes = random_boxes(9).to(device)
    assert not boxes_overlap_bev(boxes.requires_grad_(), boxes).requires_grad
    half = boxes.detach().half()
    found = boxes_overlap_bev(half, half)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, boxes_overlap_bev(half.float(), half.float()).half())


def test_empty_and_wrong_arguments() -> None:
    assert nms3d(torch.zeros(0, 7), torch.zeros(0), 0.5).shape == (0,)
    assert nms3d_normal(torch.zeros(0, 7), torch.zeros(0), 0.5).shape == (0,)
    assert boxes_overlap_bev(torch.zeros(0, 7), random_boxes(2)).shape == (0, 2)
    with pytest.raises(ValueError, match=r"boxes_a must be .* \[N, 7\], got shape \(2, 9\) and dtype float32"):
        boxes_overlap_bev(torch.zeros(2, 9), random_boxes(2))
