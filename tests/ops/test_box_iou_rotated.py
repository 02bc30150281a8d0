"""Rotated IoU against polygon clipping by shapely, and the properties of an IoU."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import box_iou_rotated as module
from perceptkd.ops.bbox_overlaps import bbox_overlaps
from perceptkd.ops.box_iou_rotated import box_iou_rotated, rotated_intersection

sizes = st.floats(0.1, 6)
box = st.tuples(st.floats(-4, 4), st.floats(-4, 4), sizes, sizes, st.floats(-7, 7))
properties = settings(max_examples=60, deadline=None)


def random_boxes(count: int) -> Tensor:
    low = torch.tensor([-4.0, -4.0, 0.2, 0.2, -7.0], dtype=torch.float64)
    high = torch.tensor([4.0, 4.0, 5.0, 3.0, 7.0], dtype=torch.float64)
    return low + torch.rand(count, 5, dtype=torch.float64) * (high - low)


def intersection_by_shapely(a: list[float], b: list[float]) -> float:
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    polygons = []
    for x, y, width, height, angle in (a, b):
        rectangle = shapely.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        from shapely.affinity import rotate

        polygons.append(rotate(rectangle, angle, origin=(x, y), use_radians=True))
    return polygons[0].intersection(polygons[1]).area


def pair(a: tuple, b: tuple) -> tuple[Tensor, Tensor]:
    return torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)


def test_equals_polygon_clipping() -> None:
    boxes1, boxes2 = random_boxes(15), random_boxes(20)
    expected = [[intersection_by_shapely(a, b) for b in boxes2.tolist()] for a in boxes1.tolist()]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert (expected > 0).float().mean() > 0.1
    torch.testing.assert_close(rotated_intersection(boxes1, boxes2), expected, rtol=1e-9, atol=1e-9)


def test_torch_twin_agrees_and_carries_float32() -> None:
    boxes1, boxes2 = random_boxes(40), random_boxes(30)
    fast = rotated_intersection(boxes1, boxes2)
    twin = module._intersection_torch(boxes1[:, None], boxes2[None])
    torch.testing.assert_close(twin, fast, rtol=1e-9, atol=1e-9)
    single = module._intersection_torch(boxes1[:, None].float(), boxes2[None].float())
    torch.testing.assert_close(single.double(), fast, rtol=1e-4, atol=1e-4)


def test_aligned_is_the_diagonal_and_iof_divides_by_the_first() -> None:
    boxes1, boxes2 = random_boxes(12), random_boxes(12)
    for mode in ("iou", "iof"):
        every = box_iou_rotated(boxes1, boxes2, mode=mode)
        torch.testing.assert_close(box_iou_rotated(boxes1, boxes2, mode=mode, is_aligned=True), every.diagonal())
    area = boxes1[:, 2] * boxes1[:, 3]
    expected = rotated_intersection(boxes1, boxes2) / area[:, None]
    torch.testing.assert_close(box_iou_rotated(boxes1, boxes2, mode="iof"), expected.clamp(max=1))


@given(a=box, b=box)
@properties
def test_symmetric_and_between_0_and_1(a: tuple, b: tuple) -> None:
    boxes1, boxes2 = pair(a, b)
    iou = float(box_iou_rotated(boxes1, boxes2))
    assert 0 <= iou <= 1
    assert iou == pytest.approx(float(box_iou_rotated(boxes2, boxes1)), abs=1e-9)


@given(a=box, turns=st.integers(-3, 3))
@properties
def test_box_with_itself_is_1(a: tuple, turns: int) -> None:
    same = (*a[:4], a[4] + turns * math.pi)
    assert float(box_iou_rotated(*pair(a, same))) == pytest.approx(1, abs=1e-9)
    quarter = (a[0], a[1], a[3], a[2], a[4] + math.pi / 2)
    assert float(box_iou_rotated(*pair(a, quarter))) == pytest.approx(1, abs=1e-9)


@given(a=box, b=box, angle=st.floats(-4, 4), shift=st.floats(-100, 100))
@properties
def test_moving_both_boxes_changes_nothing(a: tuple, b: tuple, angle: float, shift: float) -> None:
    def moved(x: float, y: float, width: float, height: float, turn: float) -> tuple:
        cos, sin = math.cos(angle), math.sin(angle)
        return x * cos - y * sin + shift, x * sin + y * cos - shift, width, height, turn + angle

    before = float(box_iou_rotated(*pair(a, b)))
    assert float(box_iou_rotated(*pair(moved(*a), moved(*b)))) == pytest.approx(before, abs=1e-9)


def test_without_rotation_it_is_the_axis_aligned_iou() -> None:
    boxes = random_boxes(20)
    boxes[:, 4] = 0
    corners = torch.cat((boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2), dim=1)
    torch.testing.assert_close(box_iou_rotated(boxes, boxes), bbox_overlaps(corners, corners))


def test_boxes_without_area_overlap_nothing() -> None:
    line, square = torch.tensor([[0.0, 0.0, 0.0, 2.0, 0.3]]), torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0]])
    assert box_iou_rotated(line, square).item() == 0
    assert box_iou_rotated(line, line).item() == 0


def test_angle_turns_from_x_to_y() -> None:
    """A bar turned by 30 degrees covers a small square on its positive diagonal, not the one on the negative."""
    bar = torch.tensor([[0.0, 0.0, 10.0, 0.5, math.pi / 6]])
    squares = torch.tensor([[3.0, 3.0 * math.tan(math.pi / 6), 0.1, 0.1, 0.0], [3.0, -1.7, 0.1, 0.1, 0.0]])
    assert (rotated_intersection(squares, bar).flatten() > 0).tolist() == [True, False]


def test_mmcv_wrapper() -> None:
    from mmcv.ops import box_iou_rotated as mmcv_iou

    boxes1, boxes2 = random_boxes(4), random_boxes(6)
    torch.testing.assert_close(mmcv_iou(boxes1, boxes2), box_iou_rotated(boxes1, boxes2))
    mirror = torch.tensor([1.0, 1, 1, 1, -1], dtype=torch.float64)
    expected = box_iou_rotated(boxes1 * mirror, boxes2 * mirror)
    torch.testing.assert_close(mmcv_iou(boxes1, boxes2, clockwise=False), expected)
    aligned = mmcv_iou(boxes1, boxes2[:4], mode="iof", aligned=True)
    torch.testing.assert_close(aligned, box_iou_rotated(boxes1, boxes2[:4], mode="iof", is_aligned=True))


def test_no_gradient_and_any_float_type(device: str) -> None:
    """The area of a box of 300 by 300 is no float16."""
    boxes = random_boxes(6) * torch.tensor([1.0, 1, 100, 100, 1])
    boxes[0] = torch.tensor([0.0, 0, 300, 300, 0])
    assert not box_iou_rotated(boxes.to(device).requires_grad_(), boxes.to(device).requires_grad_()).requires_grad
    for dtype in (torch.float16, torch.bfloat16):
        half = boxes.to(device, dtype)
        for is_aligned in (False, True):
            found = box_iou_rotated(half, half, is_aligned=is_aligned)
            assert found.dtype == dtype
            expected = box_iou_rotated(half.float(), half.float(), is_aligned=is_aligned)
            torch.testing.assert_close(found, expected.to(dtype))


def test_empty() -> None:
    assert box_iou_rotated(torch.zeros(0, 5), torch.zeros(0, 5), is_aligned=True).shape == (0,)
    assert box_iou_rotated(torch.zeros(0, 5), torch.zeros(3, 5)).shape == (0, 3)
    assert box_iou_rotated(torch.zeros(3, 5), torch.zeros(0, 5)).shape == (3, 0)


def test_wrong_arguments_are_named() -> None:
    boxes = random_boxes(2)
    with pytest.raises(ValueError, match=r"boxes1 must be .* \[N, 5\], got shape \(2, 7\) and dtype float32"):
        box_iou_rotated(torch.zeros(2, 7), boxes)
    with pytest.raises(ValueError, match="aligned boxes must pair up"):
        box_iou_rotated(boxes, random_boxes(3), is_aligned=True)
    with pytest.raises(ValueError, match="mode must be"):
        box_iou_rotated(boxes, boxes, mode="giou")


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    boxes = random_boxes(200)
    torch.testing.assert_close(box_iou_rotated(boxes.cuda(), boxes.cuda()).cpu(), box_iou_rotated(boxes, boxes))
