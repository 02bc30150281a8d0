"""IoU of axis-aligned boxes against a loop over the definition."""

import pytest
import torch
from torch import Tensor

from perceptkd.ops.bbox_overlaps import bbox_overlaps


def random_boxes(count: int) -> Tensor:
    low = torch.rand(count, 2, dtype=torch.float64) * 10
    return torch.cat((low, low + torch.rand(count, 2, dtype=torch.float64) * 6), dim=1)


def overlap_by_definition(a: list[float], b: list[float], mode: str, offset: int) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, 0)
    area_a = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
    area_b = (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
    intersection = width * height
    return intersection / (area_a + area_b - intersection if mode == "iou" else area_a)


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_equals_the_definition(device: str, mode: str, offset: int) -> None:
    boxes1, boxes2 = random_boxes(7), random_boxes(9)
    expected = [[overlap_by_definition(a, b, mode, offset) for b in boxes2.tolist()] for a in boxes1.tolist()]
    boxes1, boxes2 = boxes1.to(device), boxes2.to(device)
    found = bbox_overlaps(boxes1, boxes2, mode=mode, offset=offset)
    torch.testing.assert_close(found.cpu(), torch.tensor(expected, dtype=torch.float64))
    aligned = bbox_overlaps(boxes1, boxes2[:7], mode=mode, offset=offset, is_aligned=True)
    torch.testing.assert_close(aligned, found[:, :7].diagonal())


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("is_aligned", [False, True])
def test_gradcheck(device: str, mode: str, is_aligned: bool) -> None:
    leaves = [random_boxes(6).to(device).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *boxes: bbox_overlaps(*boxes, mode=mode, is_aligned=is_aligned), leaves)


def test_symmetric_and_between_0_and_1() -> None:
    boxes = random_boxes(50)
    iou = bbox_overlaps(boxes, boxes)
    assert torch.equal(iou, iou.T)
    assert ((iou >= 0) & (iou <= 1)).all()
    torch.testing.assert_close(iou.diagonal(), torch.ones(50, dtype=torch.float64))


def test_boxes_without_area_overlap_nothing() -> None:
    point = torch.tensor([[1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    overlap = bbox_overlaps(point, point)
    assert overlap.tolist() == [[0.0]]
    assert torch.autograd.grad(overlap.sum(), point)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_compute_in_float32(device: str, dtype: torch.dtype) -> None:
    """The area of these boxes, 300 x 300 pixels and more, is no float16."""
    boxes = torch.cat((torch.zeros(5, 2), 300 + 40 * torch.rand(5, 2)), dim=1).to(device, dtype)
    found = bbox_overlaps(boxes, boxes)
    assert found.dtype == dtype
    assert torch.equal(found, bbox_overlaps(boxes.float(), boxes.float()).to(dtype))
    assert found.diagonal().tolist() == [1.0] * 5


def test_mmcv_and_mmdet_agree() -> None:
    from mmcv.ops import bbox_overlaps as mmcv_overlaps
    from mmdet.structures.bbox import bbox_overlaps as mmdet_overlaps

    boxes1, boxes2 = random_boxes(5).float(), random_boxes(6).float()
    torch.testing.assert_close(mmcv_overlaps(boxes1, boxes2), mmdet_overlaps(boxes1, boxes2))
    assert mmcv_overlaps(torch.zeros(0, 4), boxes2).shape == (0, 6)


def test_empty() -> None:
    none, boxes = torch.zeros(0, 4, requires_grad=True), torch.zeros(3, 4)
    assert bbox_overlaps(none, boxes).shape == (0, 3)
    assert bbox_overlaps(boxes, none).shape == (3, 0)
    assert bbox_overlaps(none, none, is_aligned=True).shape == (0,)
    assert torch.autograd.grad(bbox_overlaps(none, boxes).sum(), none)[0].shape == (0, 4)


def test_wrong_arguments_are_named() -> None:
    boxes = random_boxes(2)
    with pytest.raises(ValueError, match=r"boxes2 must be .* \[N, 4\], got shape \(2, 5\) and dtype float32"):
        bbox_overlaps(boxes, torch.zeros(2, 5))
    with pytest.raises(ValueError, match="mode must be 'iou' or 'iof', got 'giou'"):
        bbox_overlaps(boxes, boxes, mode="giou")
    with pytest.raises(ValueError, match="aligned boxes must pair up"):
        bbox_overlaps(boxes, random_boxes(3), is_aligned=True)
