"""Points in rotated 3D boxes against a loop, and mmcv's three entry points."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

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
