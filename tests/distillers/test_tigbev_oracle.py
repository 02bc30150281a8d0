"""TiG-BEV against the authors' functions where present.

The authors' repository is not part of this project; PERCEPTKD_TIGBEV_REFERENCE may name a local clone of it.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmdet3d.structures import LiDARInstance3DBoxes
from torch import nn

from perceptkd.distillers.tigbev import (
    box_grid,
    expected_depth,
    foreground_depth,
    inner_depth_loss,
    inter_channel_loss,
    inter_keypoint_loss,
)


@pytest.fixture(scope="module")
def reference(authors_file: Callable[[str, str], Path]) -> dict[str, Any]:
    """The authors' methods as functions of (self, ...), without importing their modules."""
    wanted = {
        "tig_bev.py": (
            "get_inner_depth_loss",
            "get_gt_sample_grid",
            "get_inter_keypoint_loss",
            "get_inter_channel_loss",
        ),
        "loading.py": ("points2map",),
    }
    names = {"torch": torch, "F": F}
    for file, methods in wanted.items():
        path = authors_file("TIGBEV", file)
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        found = [node for node in nodes if node.name in methods]
        assert len(found) == len(methods)
        for node in found:
            node.decorator_list = []
        exec(compile(ast.Module(found, []), str(path), "exec"), names)
    return names


def test_golden_relations(reference: dict) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, 4, 3)  # 5 boxes, 7 channels, 4 x 3 key points
    detector = SimpleNamespace(
        x_sample_num=4, y_sample_num=3, embed=nn.Identity(), inter_keypoint_weight=1.0, inter_channel_weight=1.0
    )
    rows = [side.flatten(2).mT for side in (student, teacher)]
    for name, ours in (("inter_keypoint", inter_keypoint_loss), ("inter_channel", inter_channel_loss)):
        expected = reference[f"get_{name}_loss"](detector, student, teacher)
        assert ours(*rows, num_boxes=torch.tensor(5.0)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_golden_key_points(reference: dict) -> None:
    """In metres, undoing the division by one cell less than there are."""
    size, cell = torch.tensor(128), torch.tensor(0.8)
    axis = [torch.tensor(-51.2) + cell / 2] * 2
    transformer = SimpleNamespace(bx=axis, dx=[cell] * 2, nx=[size] * 2)
    detector = SimpleNamespace(img_view_transformer=transformer, x_sample_num=24, y_sample_num=24)
    box = LiDARInstance3DBoxes(torch.tensor([[10.0, -5.0, -1.0, 4.6, 2.0, 1.5, 0.4]]))
    grid = reference["get_gt_sample_grid"](detector, box.enlarged_box(1.6).corners[0][[0, 2, 4, 6], :-1])
    expected = ((grid[0] + 1) / 2 * (size - 1) * cell - 51.2).view(-1, 2)
    assert torch.allclose(box_grid(box.bev, num_points=(24, 24), margin_m=1.6)[0], expected, atol=1e-4)


def test_golden_depth(reference: dict) -> None:
    """Points in one view to the loss. The released pixel of a point is its place over the stride, rounded."""
    torch.manual_seed(0)
    height, width, stride, bounds = 4, 6, 16, [1.0, 60.0, 1.0]
    points = torch.rand(300, 3) * torch.tensor([width * stride, height * stride, 58.0]) + torch.tensor([0.0, 0.0, 0.5])
    box = torch.randint(-1, 3, (300,))
    inside = torch.stack([box == number for number in range(3)]).int()
    loader = SimpleNamespace(downsample=stride, grid_config={"dbound": bounds})
    depth_map, object_map = reference["points2map"](loader, inside, points, height * stride, width * stride)
    logits = torch.randn(1, 59, height, width)
    detector = SimpleNamespace(
        img_view_transformer=SimpleNamespace(grid_config={"dbound": bounds}), inner_depth_weight=1.0
    )
    expected = reference["get_inner_depth_loss"](detector, object_map[None, None], depth_map[None, None], logits)

    rows, columns = (torch.arange(count) * float(stride) for count in (height, width))
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    bins = torch.arange(*bounds)
    frustum = torch.stack([torch.stack((u, v, torch.full_like(u, depth)), dim=-1) for depth in bins])
    pixel, depth, target = foreground_depth([points[None]], [box], frustum)
    estimate = expected_depth(logits.permute(0, 2, 3, 1).reshape(-1, 59)[pixel], bins)
    ours = inner_depth_loss(estimate, depth, target, num_pixels=torch.tensor(float(len(depth))))
    assert len(depth) > 10
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
