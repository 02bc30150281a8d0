"""UniDistill against a second implementation in float64 numpy (F15), and against the authors' functions where present.

The second implementation follows the text: one box, one key point at a time, no shared code, no padding. The authors'
repository is not part of this project; PERCEPTKD_UNIDISTILL_REFERENCE may name a local clone of it.
"""

import ast
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perceptkd.core.bev import gaussian_mask, sample_points
from perceptkd.distillers.unidistill import feature_loss, key_points, relation_loss

EXTENT = (-54.0, -54.0, 54.0, 54.0)
SCRIPT = "BEVFusion_nuscenes_centerhead_camera_exp_distill_lidar.py"


def oracle_points(box: np.ndarray) -> list[tuple[float, float]]:
    x, y, length, width, yaw = (float(value) for value in box)
    corners = []
    for forward, left in ((-1, -1), (-1, 1), (1, 1), (1, -1)):
        a, b = forward * length / 2, left * width / 2
        corners.append((x + math.cos(yaw) * a - math.sin(yaw) * b, y + math.sin(yaw) * a + math.cos(yaw) * b))
    middles = [
        tuple((corners[i][axis] + corners[j][axis]) / 2 for axis in (0, 1)) for i, j in ((0, 1), (1, 2), (2, 3), (0, 3))
    ]
    return [*corners, (x, y), *middles]


def oracle_read(bev_map: np.ndarray, point: tuple[float, float], *, legacy: bool) -> np.ndarray:
    """Bilinear value [C] of ``bev_map`` [C, H, W] at a metric point, written as a sum over the four cells around it."""
    u, v = ((coordinate + 54) / 0.6 for coordinate in point)
    column, row = (v - 0.5, u - 0.5) if legacy else (u - 0.5, v - 0.5)
    value = np.zeros(bev_map.shape[0])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < bev_map.shape[1] and 0 <= j < bev_map.shape[2]:
                value += (1 - abs(row - i)) * (1 - abs(column - j)) * bev_map[:, i, j]
    return value


def oracle_losses(
    student: np.ndarray, teacher: np.ndarray, boxes: list[np.ndarray], *, legacy: bool
) -> tuple[float, float]:
    feature, relation, count = 0.0, 0.0, sum(map(len, boxes))
    for sample, sample_boxes in enumerate(boxes):
        for box in sample_boxes:
            points = oracle_points(box)
            sides = [
                [oracle_read(side[sample], point, legacy=legacy) for point in points] for side in (student, teacher)
            ]
            feature += np.mean([np.abs(a - b).mean() for a, b in zip(*sides)])
            units = [[f / (np.sqrt((f * f).sum()) + 1e-4) for f in side] for side in sides]
            relation += np.mean(
                [abs(units[0][i] @ units[0][j] - units[1][i] @ units[1][j]) for i in range(9) for j in range(9)]
            )
    return feature / (count + 1e-4), relation / (count + 1e-4)


def random_batch(seed: int, *, channels: int = 32) -> SimpleNamespace:
    """Two samples with 5 and 3 boxes, some of them over the edge of the map."""
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        columns = [rng.uniform(-56, 56, (count, 2)), rng.uniform(0.4, 12, (count, 2)), rng.uniform(-4, 4, (count, 1))]
        return np.concatenate(columns, axis=1).astype(np.float32)

    student, teacher = rng.standard_normal((2, 2, channels, 180, 180)).astype(np.float32)
    return SimpleNamespace(student=student, teacher=teacher, boxes=[boxes(5), boxes(3)])


def our_losses(batch: SimpleNamespace, *, legacy: bool) -> tuple[float, float]:
    boxes = torch.from_numpy(np.concatenate(batch.boxes))
    index = torch.tensor([0] * 5 + [1] * 3)
    student, teacher = (
        sample_points(torch.from_numpy(side), key_points(boxes), index, extent=EXTENT, swap=legacy)
        for side in (batch.student, batch.teacher)
    )
    return feature_loss(student, teacher, num_boxes=8).item(), relation_loss(student, teacher, num_boxes=8).item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("legacy", [False, True])
def test_f15_agrees_with_float64_numpy(seed: int, legacy: bool) -> None:
    batch = random_batch(seed)
    expected = oracle_losses(batch.student, batch.teacher, batch.boxes, legacy=legacy)
    assert our_losses(batch, legacy=legacy) == pytest.approx(expected, abs=1.4e-6)


@pytest.fixture(scope="module")
def reference(authors_file: Callable[[str, str], Path]) -> dict:
    """The authors' functions, loaded from a local clone without importing its modules; on the CPU, for one process."""
    path = authors_file("UNIDISTILL", SCRIPT)
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    for call in (node for function in functions for node in ast.walk(function)):
        if isinstance(call, ast.Attribute) and call.attr == "cuda":
            call.attr = "cpu"
    names = {"np": np, "torch": torch, "nn": torch.nn, "reduce_mean": lambda value: value}
    exec(compile(ast.Module(functions, []), str(path), "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("legacy", [False, True])
def test_golden_losses(reference: dict, seed: int, legacy: bool) -> None:
    """As released in legacy; corrected, the authors' functions agree on transposed maps (relation and feature)."""
    batch = random_batch(seed)
    padded, valid = np.zeros((2, 5, 5), np.float32), torch.zeros(2, 5, dtype=torch.bool)
    for sample, boxes in enumerate(batch.boxes):
        padded[sample, : len(boxes)], valid[sample, : len(boxes)] = boxes, True
    corners = torch.stack(
        [
            reference["center_to_corner_box2d"](rows[:, :2], rows[:, 2:4], rows[:, 4], origin=(0.5, 0.5))
            for rows in padded
        ]
    )
    sides = [torch.from_numpy(side) for side in (batch.student, batch.teacher)]
    if not legacy:
        sides = [side.transpose(2, 3).contiguous() for side in sides]
    expected = [
        reference[name](*sides, (corners.float() + 54) / 0.6, valid).item()
        for name in ("FeatureDistillLoss", "BEVDistillLoss")
    ]
    assert our_losses(batch, legacy=legacy) == pytest.approx(expected, abs=1.4e-6)


def test_golden_mask(reference: dict) -> None:
    rng = np.random.default_rng(0)
    centre, size = rng.uniform(-58, 58, (300, 2)), rng.uniform(0.1, 20, (300, 2))
    boxes = np.concatenate([centre, size, np.zeros((300, 1))], axis=1).astype(np.float32)
    target = np.zeros((1, 300, 10), np.float32)
    target[0, :, [0, 1, 3, 4]] = boxes[:, :4].T
    for kept in (slice(0, 1), slice(10, 11), slice(20, 40), slice(0, 300)):
        expected = reference["calculate_box_mask_gaussian"](
            (1, 1, 180, 180), target[:, kept], [-54, -54, -5, 54, 54, 3], [0.075, 0.075, 0.2], 8
        )
        drawn = torch.from_numpy(boxes[kept])
        index = torch.zeros(len(drawn), dtype=torch.long)
        assert torch.equal(gaussian_mask(drawn, index, shape=(1, 180, 180), extent=EXTENT), expected)
