"""Points in rotated 3D boxes against a loop, and mmcv's three entry points."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import points_in_boxes as module
from perceptkd.ops.points_in_boxes import box_of_points, points_in_boxes


def is_inside(point: list[float], box: list[float]) -> bool:
    x, y, z, length, width, height, yaw = box
    dx, dy = point[0] - x, point[1] - y
    along = dx * math.cos(-yaw) - dy * math.sin(-yaw)
    across = dx * math.sin(-yaw) + dy * math.cos(-yaw)
    return abs(along) < length / 2 and abs(across) < width / 2 and z <= point[2] <= z + height


def random_scene(points: int, boxes: int) -> tuple[Tensor, Tensor]:
    low = torch.tensor([0.0, 0.0, -1.0, 1.0, 1.0, 1.0, -4.0], dtype=torch.float64)
    high = torch.tensor([6.0, 6.0, 0.0, 5.0, 3.0, 2.0, 4.0], dtype=torch.float64)
    cloud = torch.rand(points, 3, dtype=torch.float64) * torch.tensor([6.0, 6.0, 3.0]) - torch.tensor([0.0, 0.0, 1.0])
    return cloud, low + torch.rand(boxes, 7, dtype=torch.float64) * (high - low)


@given(points=st.integers(0, 30), boxes=st.integers(0, 6), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_equals_a_loop(device: str, points: int, boxes: int, seed: int) -> None:
    torch.manual_seed(seed)
    cloud, all_boxes = (part.to(device) for part in random_scene(points, boxes))
    expected = [[is_inside(point, box) for box in all_boxes.tolist()] for point in cloud.tolist()]
    inside = points_in_boxes(cloud, all_boxes)
    assert inside.shape == (points, boxes)
    assert inside.tolist() == expected
    assert box_of_points(cloud, all_boxes).tolist() == [row.index(True) if any(row) else -1 for row in expected]


def test_moving_points_and_boxes_changes_nothing() -> None:
    cloud, boxes = random_scene(200, 5)
    angle, shift = 0.7, torch.tensor([10.0, -3.0])
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    moved_cloud, moved_boxes = cloud.clone(), boxes.clone()
    moved_cloud[:, :2] = cloud[:, :2] @ turn + shift
    moved_boxes[:, :2] = boxes[:, :2] @ turn + shift
    moved_boxes[:, 6] += angle
    assert torch.equal(points_in_boxes(moved_cloud, moved_boxes), points_in_boxes(cloud, boxes))


def test_faces_sides_are_open_bottom_and_top_closed() -> None:
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    points = torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 2], [0, 0, -0.001]])
    assert points_in_boxes(points, box)[:, 0].tolist() == [False, False, True, True, False]


def bordering_scene(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Boxes turned by multiples of 30 degrees, and points on their faces and edges, as near as the dtype comes."""
    cloud, boxes = (part.to(dtype) for part in random_scene(300, 24))
    boxes[:, 6] = torch.arange(24).to(dtype) * (math.pi / 6)
    boxes[20, 3:6], boxes[21, 0], boxes[22, 6] = 0, torch.nan, torch.inf
    steps = torch.cartesian_prod(*[torch.tensor([-0.5, 0.0, 0.5], dtype=dtype)] * 3)
    local = steps * boxes[:, None, 3:6]
    cosine, sine = boxes[:, 6, None].cos(), boxes[:, 6, None].sin()
    x = boxes[:, None, 0] + local[..., 0] * cosine - local[..., 1] * sine
    y = boxes[:, None, 1] + local[..., 0] * sine + local[..., 1] * cosine
    z = boxes[:, None, 2] + boxes[:, None, 5] * (steps[:, 2] + 0.5)
    return torch.cat((cloud, torch.stack((x, y, z), dim=-1).flatten(0, 1))), boxes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numba_equals_torch(dtype: torch.dtype) -> None:
    """Bit by bit, where rounding decides, too."""
    cloud, boxes = bordering_scene(dtype)
    prepared = module._prepare(cloud, boxes)
    inside = points_in_boxes(cloud, boxes)
    assert torch.equal(inside, module._inside_torch(*prepared))
    assert torch.equal(box_of_points(cloud, boxes), module._first_torch(*prepared))
    assert (inside.sum(1) > 1).any()
    assert not inside[:, 20:23].any()
    assert torch.equal(module._first_torch(*module._prepare(cloud, boxes[:0])), box_of_points(cloud, boxes[:0]))


def test_half_types_mixed_dtypes_and_any_layout(device: str) -> None:
    cloud, boxes = (part.to(device) for part in random_scene(200, 6))
    halves = cloud.half(), boxes.half()
    assert torch.equal(points_in_boxes(*halves), points_in_boxes(*(part.float() for part in halves)))
    assert torch.equal(points_in_boxes(cloud.float(), boxes), points_in_boxes(cloud.float().double(), boxes))
    wide = torch.rand(7, 200, device=device).T
    assert torch.equal(points_in_boxes(wide, boxes), points_in_boxes(wide[:, :3].contiguous(), boxes))


def test_mmcv_entry_points(device: str) -> None:
    from mmcv.ops import points_in_boxes_all, points_in_boxes_cpu, points_in_boxes_part

    scenes = [random_scene(50, 4) for _ in range(2)]
    cloud, boxes = (torch.stack(parts).float().to(device) for parts in zip(*scenes))
    inside = torch.stack([points_in_boxes(*scene) for scene in zip(cloud, boxes)]).int()
    assert torch.equal(points_in_boxes_all(cloud, boxes), inside)
    assert torch.equal(points_in_boxes_cpu(cloud, boxes), inside)
    assert torch.equal(points_in_boxes_part(cloud, boxes), torch.stack([box_of_points(*s) for s in zip(cloud, boxes)]))
    assert inside.any()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"boxes must be .* \[N, 7\], got shape \(2, 6\) and dtype float32"):
        points_in_boxes(torch.zeros(3, 3), torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"points must be .* \[N, >=3\], got shape \(3, 2\)"):
        points_in_boxes(torch.zeros(3, 2), torch.zeros(2, 7))
