"""Collecting the points of boxes against a loop, and mmcv's module on top."""

import math

import pytest
import torch
from torch import Tensor

from perceptkd.ops.roipoint_pool3d import roipoint_pool3d


def pooled_by_definition(points: Tensor, features: Tensor, boxes: Tensor, samples: int) -> tuple[list, list]:
    """One sample of the batch, in lists."""
    rows = torch.cat((points, features), dim=1).tolist()
    pooled, flags = [], []
    for x, y, z, length, width, height, yaw in boxes.tolist():
        inside = []
        for row in rows:
            along = (row[0] - x) * math.cos(yaw) + (row[1] - y) * math.sin(yaw)
            across = (row[1] - y) * math.cos(yaw) - (row[0] - x) * math.sin(yaw)
            if abs(along) < length / 2 and abs(across) < width / 2 and z <= row[2] <= z + height:
                inside.append(row)
        flags.append(0 if inside else 1)
        first = inside[:samples] or [[0.0] * len(rows[0])]
        pooled.append([first[k % len(first)] for k in range(samples)])
    return pooled, flags


def random_scene() -> tuple[Tensor, Tensor, Tensor]:
    """A batch of two, in each a box far away, one without volume, and one with faces that hold points."""
    low = torch.tensor([0.0, 0.0, -1.0, 1.0, 1.0, 1.0, -4.0], dtype=torch.float64)
    high = torch.tensor([6.0, 6.0, 0.0, 5.0, 3.0, 2.0, 4.0], dtype=torch.float64)
    boxes = low + torch.rand(2, 7, 7, dtype=torch.float64) * (high - low)
    boxes[:, 2, 0], boxes[:, 3, 3:6] = 100, 0
    boxes[:, 4] = torch.tensor([3.0, 3, 0, 2, 2, 1, 0], dtype=torch.float64)
    points = torch.rand(2, 300, 3, dtype=torch.float64) * torch.tensor([6.0, 6, 2]) - torch.tensor([0.0, 0.0, 1.0])
    points[:, 100:200] = points[:, 100:200].round()
    return points, torch.rand(2, 300, 4, dtype=torch.float64), boxes


@pytest.mark.parametrize("samples", [1, 5, 64])
def test_equals_a_loop(device: str, samples: int) -> None:
    scene = random_scene()
    pooled, is_empty = roipoint_pool3d(*(part.to(device) for part in scene), samples)
    expected = [pooled_by_definition(*parts, samples) for parts in zip(*scene)]
    assert pooled.tolist() == [parts[0] for parts in expected]
    assert is_empty.tolist() == [parts[1] for parts in expected]
    assert is_empty.dtype == torch.int32
    assert 0 < is_empty.sum() < is_empty.numel()


def test_gradcheck(device: str) -> None:
    points, features, boxes = (part[:1].to(device) for part in random_scene())
    leaves = [part[:, :60].clone().requires_grad_() for part in (points, features)]
    pooled = roipoint_pool3d(*leaves, boxes, 4)[0]
    assert pooled.any()
    assert torch.autograd.gradcheck(lambda *values: roipoint_pool3d(*values, boxes, 4)[0], leaves)


def test_mmcv_module(device: str) -> None:
    from mmcv.ops import RoIPointPool3d

    points, features, boxes = (part.float().to(device) for part in random_scene())
    pooled, is_empty = RoIPointPool3d(num_sampled_points=16)(points, features, boxes)
    ours = roipoint_pool3d(points, features, boxes, 16)
    assert torch.equal(pooled, ours[0])
    assert torch.equal(is_empty, ours[1])


def test_half_types_empty_input_and_wrong_arguments() -> None:
    points, features, boxes = random_scene()
    pooled, _ = roipoint_pool3d(points.half(), features.half(), boxes.half(), 3)
    assert pooled.dtype == torch.float16
    halves = [part.half().float() for part in (points, features, boxes)]
    assert torch.equal(pooled, roipoint_pool3d(*halves, 3)[0].half())
    pooled, is_empty = roipoint_pool3d(points[:, :0], features[:, :0], boxes, 3)
    assert pooled.shape == (2, 7, 3, 7)
    assert not pooled.any()
    assert is_empty.all()
    pooled = roipoint_pool3d(points, features.requires_grad_(), boxes[:, :0], 3)[0]
    assert pooled.shape == (2, 0, 3, 7)
    assert not torch.autograd.grad(pooled.sum(), features)[0].any()
    assert roipoint_pool3d(points[:0], features[:0], boxes[:0], 3)[1].shape == (0, 7)
    with pytest.raises(
        ValueError, match=r"features must be .* \[2, 300, C\], got shape \(2, 299, 4\) and dtype float64"
    ):
        roipoint_pool3d(points, features[:, :299], boxes, 3)
    with pytest.raises(ValueError, match=r"boxes must be .* \[2, M, 7\], got shape \(7, 7\)"):
        roipoint_pool3d(points, features, boxes[0], 3)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        roipoint_pool3d(points, features, boxes, 0)
