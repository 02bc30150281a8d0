"""Overlap and NMS of quadrilaterals against polygon clipping, and mmcv's functions on top of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import quadri as module
from perceptkd.ops.box_iou_rotated import box_iou_rotated
from perceptkd.ops.nms import nms_rotated
from perceptkd.ops.quadri import box_iou_quadri, nms_quadri

Point = tuple[float, float]


def cross(origin: Point, a: Point, b: Point) -> float:
    return (a[0] - origin[0]) * (b[1] - origin[1]) - (a[1] - origin[1]) * (b[0] - origin[0])


def area(polygon: list[Point]) -> float:
    return sum(cross((0, 0), a, b) for a, b in zip(polygon, polygon[1:] + polygon[:1])) / 2


def intersection_by_clipping(first: list[float], second: list[float]) -> float:
    """Cuts the first by the half plane of each side of the second (Sutherland and Hodgman)."""
    polygon, clip = ([(box[k], box[k + 1]) for k in range(0, 8, 2)] for box in (first, second))
    if area(clip) < 0:
        clip.reverse()
    for start, stop in zip(clip, clip[1:] + clip[:1]):
        kept: list[Point] = []
        for a, b in zip(polygon, polygon[1:] + polygon[:1]):
            side_a, side_b = cross(start, stop, a), cross(start, stop, b)
            if side_a >= 0:
                kept.append(a)
            if (side_a > 0) != (side_b > 0) and side_a != side_b:
                t = side_a / (side_a - side_b)
                if 0 < t < 1:
                    kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
        polygon = kept
    return abs(area(polygon)) if polygon else 0.0


def iou_by_clipping(first: list[float], second: list[float], mode: str = "iou") -> float:
    areas = [abs(area([(box[k], box[k + 1]) for k in range(0, 8, 2)])) for box in (first, second)]
    shared = intersection_by_clipping(first, second)
    base = areas[0] if mode == "iof" else sum(areas) - shared
    return shared / base if min(areas) > 0 else 0.0


def random_boxes(count: int, spread: float = 4.0) -> Tensor:
    """Convex: corners on an ellipse, one in each quarter of its angles, either way round."""
    angle = (torch.arange(4) + torch.rand(count, 4, dtype=torch.float64) * 0.9) * (math.pi / 2)
    angle = torch.where(torch.rand(count, 1) < 0.5, angle, -angle)
    size = 0.5 + 2 * torch.rand(count, 2, 1, dtype=torch.float64)
    centre = torch.rand(count, 2, 1, dtype=torch.float64) * spread
    corners = centre + size * torch.stack((angle.cos(), angle.sin()), dim=1)
    return corners.transpose(1, 2).flatten(1)


def special_boxes() -> Tensor:
    square = [0.0, 0, 2, 0, 2, 2, 0, 2]
    boxes = [
        square,
        square[::-1],  # the other way round, mirrored
        [2.0, 0, 4, 0, 4, 2, 2, 2],  # shares a side
        [2.0, 2, 3, 2, 3, 3, 2, 3],  # shares a corner
        [0.5, 0.5, 1.5, 0.5, 1.5, 1.5, 0.5, 1.5],  # inside
        [1.0, 0, 2, 1, 1, 2, 0, 1],  # corners on the sides
        [0.0, 0, 2, 0, 2, 1, 0, 1],  # sides on sides
        [0.0, 0, 2, 0, 2, 2, 2, 2],  # a triangle
        [0.0, 0, 1, 1, 2, 2, 1, 1],  # no area
        [1.0, 1, 1, 1, 1, 1, 1, 1],
        [0.0, 0, 3, 0.5, 2.5, 2, 0.2, 1],
    ]
    return torch.tensor(boxes, dtype=torch.float64)


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("boxes", [random_boxes, lambda _: special_boxes()], ids=["random", "special"])
def test_equals_polygon_clipping(device: str, boxes, mode: str) -> None:
    boxes1, boxes2 = boxes(15), boxes(20)
    expected = [[iou_by_clipping(a, b, mode) for b in boxes2.tolist()] for a in boxes1.tolist()]
    expected = torch.tensor(expected, dtype=torch.float64)
    found = box_iou_quadri(boxes1.to(device), boxes2.to(device), mode=mode)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-9)
    assert (expected > 0).double().mean() > 0.1


@pytest.mark.parametrize("boxes", [random_boxes, lambda _: special_boxes()], ids=["random", "special"])
def test_aligned_and_torch_form_agree(boxes) -> None:
    boxes1, boxes2 = boxes(30), boxes(30)
    every = box_iou_quadri(boxes1, boxes2)
    torch.testing.assert_close(box_iou_quadri(boxes1, boxes2, is_aligned=True), every.diagonal())
    slabs = module._slabs(boxes2)
    fast = module._intersections(boxes1, boxes2, False)
    torch.testing.assert_close(module._intersection_torch(boxes1[:, None], slabs[None]), fast, rtol=1e-9, atol=1e-9)
    single = module._intersection_torch(boxes1.float()[:, None], module._slabs(boxes2.float())[None])
    torch.testing.assert_close(single.double(), fast, rtol=1e-4, atol=1e-4)


def turned(boxes: Tensor) -> Tensor:
    """Corners of rotated boxes [N, 5]."""
    x, y, width, height, angle = boxes.unbind(1)
    corners = []
    for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        right, down = u * width / 2, v * height / 2
        corners += [x + right * angle.cos() - down * angle.sin(), y + right * angle.sin() + down * angle.cos()]
    return torch.stack(corners, dim=1)


def random_rotated(count: int) -> Tensor:
    low = torch.tensor([-4.0, -4.0, 0.2, 0.2, -7.0], dtype=torch.float64)
    high = torch.tensor([4.0, 4.0, 5.0, 3.0, 7.0], dtype=torch.float64)
    return low + torch.rand(count, 5, dtype=torch.float64) * (high - low)


def test_rectangles_are_rotated_boxes(device: str) -> None:
    boxes1, boxes2 = random_rotated(20), random_rotated(25)
    found = box_iou_quadri(turned(boxes1).to(device), turned(boxes2).to(device))
    torch.testing.assert_close(found.cpu(), box_iou_rotated(boxes1, boxes2))


@given(seed=st.integers(0, 10**6), first=st.integers(0, 3), noise=st.sampled_from((0.0, 1e-15, 1e-9)))
@settings(max_examples=60, deadline=None)
def test_symmetric_and_1_with_itself(seed: int, first: int, noise: float) -> None:
    """Whichever corner comes first, and with sides that coincide up to rounding."""
    torch.manual_seed(seed)
    boxes = random_boxes(2)
    same = boxes.view(2, 4, 2).roll(first, 1).flatten(1) + noise * torch.randn(2, 8, dtype=torch.float64)
    torch.testing.assert_close(box_iou_quadri(boxes, same).diagonal(), torch.ones(2).double(), rtol=0, atol=1e-7)
    iou = box_iou_quadri(boxes, boxes)
    torch.testing.assert_close(iou, iou.T, rtol=1e-9, atol=1e-9)
    assert iou.min() >= 0
    assert iou.max() <= 1


def nms_by_definition(boxes: Tensor, scores: Tensor, iou_threshold: float, labels: list[int]) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda k: -float(scores[k])):
        rivals = (k for k in kept if labels[k] == labels[i])
        if all(iou_by_clipping(boxes[k].tolist(), boxes[i].tolist()) <= iou_threshold for k in rivals):
            kept.append(i)
    return kept


def test_nms_equals_a_loop(device: str) -> None:
    boxes, scores, labels = random_boxes(40), torch.randint(0, 20, (40,)).double(), torch.randint(0, 2, (40,))
    moved = boxes.to(device), scores.to(device), 0.2
    plain = nms_by_definition(boxes, scores, 0.2, [0] * 40)
    by_label = nms_by_definition(boxes, scores, 0.2, labels.tolist())
    assert nms_quadri(*moved).tolist() == plain
    assert nms_quadri(*moved, labels=labels.to(device)).tolist() == by_label
    assert 1 < len(plain) < len(by_label) < 40


def test_nms_of_rectangles_is_that_of_rotated_boxes() -> None:
    boxes, scores = random_rotated(80), torch.rand(80)
    assert torch.equal(nms_quadri(turned(boxes), scores, 0.1), nms_rotated(boxes, scores, 0.1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_and_no_gradient(device: str, dtype: torch.dtype) -> None:
    """Boxes of some 300 pixels, whose areas are no float16."""
    boxes, scores = (random_boxes(30) * 100).to(device, dtype).requires_grad_(), torch.rand(30, device=device)
    wide = boxes.detach().float()
    for is_aligned in (False, True):
        found = box_iou_quadri(boxes, boxes, is_aligned=is_aligned)
        assert found.dtype == dtype
        assert not found.requires_grad
        torch.testing.assert_close(found, box_iou_quadri(wide, wide, is_aligned=is_aligned).to(dtype))
    assert torch.equal(nms_quadri(boxes, scores.requires_grad_(), 0.2), nms_quadri(wide, scores, 0.2))


def test_mmcv_functions(device: str) -> None:
    from mmcv.ops import box_iou_quadri as mmcv_iou
    from mmcv.ops import nms_quadri as mmcv_nms

    boxes1, boxes2 = random_boxes(12).float().to(device), random_boxes(12).float().to(device)
    for mode in ("iou", "iof"):
        for aligned in (False, True):
            expected = box_iou_quadri(boxes1, boxes2, mode=mode, is_aligned=aligned)
            torch.testing.assert_close(mmcv_iou(boxes1, boxes2, mode, aligned), expected)
    boxes, scores = random_boxes(40).float().to(device), torch.rand(40, device=device)
    labels = torch.randint(0, 2, (40,), device=device)
    dets, kept = mmcv_nms(boxes, scores, 0.2)
    assert torch.equal(kept, nms_quadri(boxes, scores, 0.2))
    assert torch.equal(dets, torch.cat((boxes, scores[:, None]), dim=1)[kept])
    assert torch.equal(mmcv_nms(boxes, scores, 0.2, labels)[1], nms_quadri(boxes, scores, 0.2, labels=labels))


def test_empty_and_wrong_arguments() -> None:
    assert box_iou_quadri(torch.zeros(0, 8), random_boxes(3)).shape == (0, 3)
    assert box_iou_quadri(random_boxes(3), torch.zeros(0, 8)).shape == (3, 0)
    assert box_iou_quadri(torch.zeros(0, 8), torch.zeros(0, 8), is_aligned=True).shape == (0,)
    assert nms_quadri(torch.zeros(0, 8), torch.zeros(0), 0.5).shape == (0,)
    with pytest.raises(ValueError, match=r"boxes2 must be .* \[N, 8\], got shape \(2, 5\) and dtype float32"):
        box_iou_quadri(torch.zeros(2, 8), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="aligned boxes must pair up"):
        box_iou_quadri(torch.zeros(2, 8), torch.zeros(3, 8), is_aligned=True)
    with pytest.raises(ValueError, match="mode must be 'iou' or 'iof', got 'giou'"):
        box_iou_quadri(torch.zeros(2, 8), torch.zeros(2, 8), mode="giou")
    with pytest.raises(ValueError, match="scores must be a vector of 2 elements"):
        nms_quadri(torch.zeros(2, 8), torch.zeros(3), 0.5)
