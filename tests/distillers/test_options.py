"""One worked number for every option of the methods that no other test pins, through the registered method.

Maps are 20 x 20 cells of 1 m around the origin, so that cell (10 + y, 10 + x) begins at (x, y).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceptkd.core.distiller import Step
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.registry import DISTILLERS

Make = Callable[..., Any]
Cell = tuple[int, int]
EXTENT = (-10.0, -10.0, 10.0, 10.0)
CENTRE = (10, 10)
CAR = (0.5, 0.5, 4.62, 1.95, 0.0)  # a Gaussian of 1 cell with an overlap of 0.7, of 3 x 3 cells with 0.1
ONE, THREE, FIVE = 1.0, 1.614604, 4.350453  # sums of Gaussians of radius 0, 1 and 2 (F7)
SURE = 0.8  # of a teacher


def painted(cells: dict[Cell, Sequence[float]], *, channels: int, elsewhere: float = 0.0) -> Tensor:
    """A map [1, C, 20, 20] with the channels of some cells given."""
    bev_map = torch.full((1, channels, 20, 20), elsewhere)
    for (row, column), values in cells.items():
        bev_map[0, :, row, column] = torch.tensor(values)
    return bev_map


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def run(
    method: str,
    options: dict,
    step: Step,
    student: dict,
    teacher: dict,
    *,
    labels: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Terms of a method as a config names it, on the values of taps; boxes are of class 0 unless said otherwise."""
    (sample,) = step.data_samples
    sample.gt_instances_3d.labels_3d = torch.tensor(labels or [0] * len(sample.gt_instances_3d))
    taps = (
        {alias: Tap(TapSpec(alias, layout="yx", extent=EXTENT), [value]) for alias, value in side.items()}
        for side in (student, teacher)
    )
    return DISTILLERS.build({"type": f"perceptkd.{method}", **options}).loss(*taps, step)


@pytest.mark.parametrize(
    ("options", "student", "teacher", "expected"),
    [
        ({}, 0.0, -40.0, 0.4999 / ONE),
        ({"clamp": 0.1}, 0.0, -40.0, 0.4 / ONE),
        ({"clamp": 0.1}, -40.0, 0.0, 0.4 / ONE),
        ({"clamp": 0.1, "legacy": True}, 0.0, -40.0, 0.4 / ONE),
        ({"clamp": 0.1, "legacy": True}, -40.0, 0.0, 0.4999 / ONE),  # the released clamp of the student is fixed
        ({"overlap": 0.1}, 0.0, -40.0, 0.4999 / THREE),
        ({"min_radius": 2}, 0.0, -40.0, 0.4999 / FIVE),
        ({"eps": 1.0}, 0.0, -40.0, 0.4999 / (ONE + 1)),
    ],
)
def test_unidistill_response(make_step: Make, options: dict, student: float, teacher: float, expected: float) -> None:
    """Logits of one class, which differ at the centre of the box alone."""
    sides = []
    for value in (student, teacher):
        bev_map = torch.zeros(1, 1, 20, 20)
        head = ([{"heatmap": painted({CENTRE: [value]}, channels=1), "reg": bev_map}],)
        sides.append({"low": bev_map, "high": bev_map, "response": head})
    terms = run("UniDistill", options, make_step([[CAR]]), *sides)
    assert terms["response_cls"].item() == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(("options", "temperature"), [({}, 0.5), ({"temperature": 2.0}, 2.0)])
def test_distillbev_temperature(make_step: Make, options: dict, temperature: float) -> None:
    """A box of one cell, with 1 in the student's map and 0 in the teacher's; all other cells are 0."""
    options = {**options, "levels": ("neck",), "false_positive_levels": ()}
    student, teacher = {"neck": painted({CENTRE: [1.0]}, channels=1)}, {"neck": painted({}, channels=1)}
    found = run("DistillBEV", options, make_step([[(0.5, 0.5, 1.0, 1.0, 0.0)]]), student, teacher)
    prominent = math.exp(1 / temperature)
    attention = (400 * prominent / (prominent + 399) + 1) / 2
    assert found["foreground"].item() == pytest.approx(attention, rel=1e-5)


BUS = (0.5, 0.5, 12.0, 3.8, 0.0)  # a Gaussian of radius 2 with an overlap of 0.1, of 3 with 0.3
CONE = (1.5, 1.5, 0.7, 0.7, 0.0)
BESIDE = (12, 10)  # a cell 2 m to the left of the bus, and next to the cone across a corner


@pytest.mark.parametrize(
    ("options", "boxes", "probability", "expected"),
    [
        ({}, [], 0.2, 1.0),
        ({}, [], 0.05, 0.0),
        ({"threshold": 0.01}, [], 0.05, 1.0),
        ({"threshold": 0.3}, [], 0.2, 0.0),
        ({}, [BUS], 0.2, 1.0),
        ({"overlap": 0.3}, [BUS], 0.2, 0.0),
        ({}, [CONE], 0.2, 0.0),
        ({"min_radius": 1}, [CONE], 0.2, 1.0),
    ],
)
def test_distillbev_false_positives(
    make_step: Make, options: dict, boxes: list, probability: float, expected: float
) -> None:
    """The teacher sees something in one cell, where alone the maps differ, by 1: a false positive or not."""
    options = {"levels": ("neck",), "temperature": 1e6, **options}
    heatmap = painted({BESIDE: [logit(probability)]}, channels=1, elsewhere=-9.0)
    student, teacher = {"neck": painted({BESIDE: [1.0]}, channels=1)}, {"neck": painted({}, channels=1)}
    teacher["response"] = ([{"heatmap": heatmap}],)
    found = run("DistillBEV", options, make_step([boxes]), student, teacher)
    assert found["false_positive"].item() == pytest.approx(expected, rel=1e-5)


def foreground_sides(
    regression: dict[Cell, Sequence[float]], sure: Sequence[Cell], *, low: dict[Cell, Sequence[float]] | None = None
) -> list[dict[str, Any]]:
    """Student and teacher of two classes; the teacher is sure of both in some cells, and its regression is 0."""
    sides = []
    for is_student in (True, False):
        certain = {} if is_student else {cell: [logit(SURE)] * 2 for cell in sure}
        head = {
            "heatmap": painted(certain, channels=2, elsewhere=-20.0),
            "reg": painted(regression if is_student else {}, channels=2),
        }
        features = painted((low or {}) if is_student else {}, channels=2)
        features[:, 0] += 1.0
        features[:, 1] -= 1.0
        sides.append({"low": features, "high": features, "response": ([head],)})
    return sides


@pytest.mark.parametrize(
    ("options", "labels", "differs", "sure", "expected"),
    [
        ({}, [0], CENTRE, CENTRE, 2 / THREE),  # a mean over the two channels, 1 and 3
        ({}, [0], (10, 11), CENTRE, 2 * math.exp(-2) / THREE),
        ({}, [0], CENTRE, (11, 11), 2 / THREE),  # sure in the next cell
        ({}, [0], CENTRE, (10, 12), 0.0),
        ({}, [0, 1], CENTRE, CENTRE, 2 / (2 * THREE)),  # the larger weight of two classes counts
        ({"overlap": 0.7, "min_radius": 0}, [0], CENTRE, CENTRE, 2 / ONE),
        ({"min_radius": 2}, [0], CENTRE, CENTRE, 2 / FIVE),
    ],
)
def test_foreground_regression(
    make_step: Make, options: dict, labels: list[int], differs: Cell, sure: Cell, expected: float
) -> None:
    """The regression outputs differ in one cell, by 1 and 3; the teacher is sure in one cell."""
    sides = foreground_sides({differs: [1.0, 3.0]}, [sure])
    found = run("ForegroundDistill", options, make_step([[CAR] * len(labels)]), *sides, labels=labels)
    assert found["response_reg"].item() == pytest.approx(SURE * expected, rel=2e-4, abs=1e-6)


@pytest.mark.parametrize(("options", "cells"), [({}, 7 * 3), ({"enlarge": 1.0}, 5 * 1), ({"enlarge": 2.0}, 11 * 3)])
def test_foreground_enlarge(make_step: Make, options: dict, cells: int) -> None:
    """5.5 x 1.8 m: the features of one cell inside have the other sign."""
    sides = foreground_sides({}, [], low={(10, 12): [-2.0, 2.0]})
    found = run("ForegroundDistill", options, make_step([[(0.5, 0.5, 5.5, 1.8, 0.0)]]), *sides)
    assert found["feature"].item() == pytest.approx(2 / cells, rel=1e-3)


@pytest.mark.parametrize(("label", "channel"), [(0, 3), (1, 0), (2, 1), (3, 2)])
@pytest.mark.parametrize("source", ["channel_labels", "head of the student"])
def test_foreground_labels(make_step: Make, source: str, label: int, channel: int) -> None:
    """Tasks of car, pedestrian, truck and bus for a data set of bus, car, pedestrian and truck: not its own inverse."""
    labels, step, options = [1, 2, 3, 0], make_step([[CAR]]), {"reg_keys": ()}
    if source == "channel_labels":
        options["channel_labels"] = labels
    else:
        step.student_model = nn.Module()
        step.student_model.response = nn.Module()
        step.student_model.response.task_label_to_dataset = torch.tensor(labels)
    maps, heatmap = torch.zeros(1, 4, 20, 20), torch.zeros(1, 4, 20, 20, requires_grad=True)
    sides = ({"low": maps, "high": maps, "response": ([{"heatmap": logits}],)} for logits in (heatmap, maps + 1))
    run("ForegroundDistill", options, step, *sides, labels=[label])["response_cls"].backward()
    assert heatmap.grad.abs().amax(dim=(0, 2, 3)).nonzero().flatten().tolist() == [channel]
