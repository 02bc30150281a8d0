"""DistillBEV: worked numbers, a float64 loop, properties and errors."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perceptkd.core.bev import gaussian_mask
from perceptkd.core.geometry import GeometryError
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.distillbev import (
    DistillBEV,
    attention_loss,
    box_scale,
    false_positive_mask,
    imitation_loss,
    region_weights,
    spatial_attention,
)
from perceptkd.registry import DISTILLERS

Make = Callable[..., Any]
EXTENT = (-12.0, -8.0, 12.0, 8.0)  # 16 x 24 cells of 1 m, 8 x 12 at the deep level
CAR, TRUCK = (-5.6, 3.2, 4.6, 2.0, 0.5), (6.3, -2.4, 8.0, 3.0, 1.0)
TERMS = {"foreground", "false_positive", "background", "attention"}
SHAPES = {"shallow": (2, 16, 24), "deep": (3, 8, 12), "neck": (4, 16, 24)}


def random_levels(batch_size: int, *, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {alias: torch.randn(batch_size, *shape, generator=generator) for alias, shape in SHAPES.items()}


def random_logits(batch_size: int, *, seed: int = 5) -> Tensor:
    """Two tasks of 1 and 2 classes, about one cell in eight above the threshold."""
    return torch.randn(batch_size, 3, 16, 24, generator=torch.Generator().manual_seed(seed)) - 4


def taps(
    levels: dict[str, Tensor], logits: Tensor | None = None, *, layout: str | None = "yx", extent: Any = EXTENT
) -> dict:
    values: dict[str, Any] = dict(levels)
    if logits is not None:
        values["response"] = ([{"heatmap": logits[:, :1]}], [{"heatmap": logits[:, 1:]}])
    return {alias: Tap(TapSpec(alias, layout=layout, extent=extent), [value]) for alias, value in values.items()}


def identity(method: DistillBEV) -> DistillBEV:
    """The method with convolutions of the channel means that change nothing."""
    for conv in method.attention_convs.values():
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    return method


def scale_of(*samples: Sequence[Sequence[float]], size: tuple[int, int] = (16, 24)) -> Tensor:
    boxes = torch.tensor([box for sample in samples for box in sample]).view(-1, 5)
    index = torch.tensor([i for i, sample in enumerate(samples) for _ in sample], dtype=torch.long)
    return box_scale(boxes, index, shape=(len(samples), *size), extent=EXTENT)


def test_builds_with_the_weights_of_the_released_script() -> None:
    method = DISTILLERS.build({"type": "perceptkd.DistillBEV", "teacher": "lidar"})
    assert method.weights == {"foreground": 6e-3, "false_positive": 6e-2, "background": 4e-2, "attention": 2.5e-3}
    levels = {"shallow": "backbone[0]", "deep": "backbone[1]", "neck": "neck[0]"}
    assert {alias: str(spec) for alias, spec in method.student_taps.items()} == levels
    assert {alias: str(spec) for alias, spec in method.teacher_taps["lidar"].items()} == {
        **levels,
        "response": "bbox_head",
    }
    assert (method.temperature, method.threshold, method.false_positive_levels) == (0.5, 0.1, {"neck"})


def test_scale_of_a_box_by_hand() -> None:
    """4 x 2 m around (0, 1): columns 10 to 13, rows 8 and 9 of 1 m cells, each 1 / sqrt(8)."""
    scale = scale_of([(0.0, 1.0, 4.0, 2.0, 0.0)])[0]
    expected = torch.zeros(16, 24)
    expected[8:10, 10:14] = 1 / math.sqrt(8)
    assert torch.allclose(scale, expected)
    turned = scale_of([(0.0, 1.0, 4.0, 2.0, math.pi / 2)])[0]
    assert torch.equal(turned.nonzero()[[0, -1]], torch.tensor([[7, 11], [10, 12]]))
    coarse = scale_of([(0.0, 1.0, 4.0, 2.0, 0.0)], size=(8, 12))[0]
    assert coarse[4, 5:7].tolist() == pytest.approx([1 / math.sqrt(2)] * 2)
    assert (coarse > 0).sum() == 2


def test_scale_of_overlapping_boxes_is_that_of_the_smaller_one_in_any_order() -> None:
    large, small = (0.0, 0.0, 8.0, 8.0, 0.0), (1.0, 1.0, 2.0, 2.0, 0.0)
    scale = scale_of([large, small])
    assert torch.equal(scale, scale_of([small, large]))
    assert scale[0, 8, 12] == 0.5
    assert scale[0, 5, 12] == 0.125
    assert torch.equal(scale_of([large], [], [small]), torch.cat([scale_of([large]), scale_of([]), scale_of([small])]))


def test_false_positives_by_hand() -> None:
    """The largest class decides: seen and annotated, seen only, neither, annotated only."""
    probability = torch.tensor([[[[0.05, 0.3, 0.02, 0.0]], [[0.5, 0.05, 0.09, 0.0]]]])
    target = torch.tensor([[[1.0, 0.0, 0.0, 0.8]]])
    assert false_positive_mask(probability.logit(eps=1e-6), target).tolist() == [[[False, True, False, False]]]


def test_region_weights_by_hand() -> None:
    """One box cell, which a false positive does not take away, two false positives, three of background."""
    scale = torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    false_positive = torch.tensor([[[True, True, True], [False, False, False]]])
    weights = region_weights(scale, false_positive)
    assert torch.equal(weights["foreground"], scale)
    assert weights["false_positive"].tolist() == [[[0, 0.5, 0.5], [0, 0, 0]]]
    assert weights["background"][0].tolist() == [[0, 0, 0], [pytest.approx(1 / 3)] * 3]


def test_regions_cover_each_cell_once_and_may_be_empty() -> None:
    scale, everywhere = scale_of([CAR], []), torch.ones(2, 16, 24, dtype=torch.bool)
    weights = region_weights(scale, random_logits(2).amax(dim=1).sigmoid() > 0.1)
    assert torch.equal(sum((weight > 0).long() for weight in weights.values()), everywhere.long())
    for region in ("false_positive", "background"):
        assert weights[region].sum(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    assert region_weights(scale, everywhere)["background"].sum() == 0
    assert region_weights(scale, ~everywhere)["false_positive"].sum() == 0


def test_attention_by_hand() -> None:
    """Two cells: means of |F| are (1, 2) in the student, (0, 0) in the teacher; 2 softmax at tau = 0.5."""
    student = torch.tensor([[[[1.0, -2.0]], [[-1.0, 2.0]]]])
    attention = spatial_attention(student, torch.zeros_like(student), temperature=0.5)
    share = math.exp(2) / (math.exp(2) + math.exp(4))
    assert attention.flatten().tolist() == pytest.approx([(2 * share + 1) / 2, (2 * (1 - share) + 1) / 2])
    assert spatial_attention(*torch.randn(2, 3, 4, 5, 6)).mean(dim=(1, 2)).tolist() == pytest.approx([1] * 3)


def test_losses_by_hand() -> None:
    student, teacher = torch.tensor([[[[1.0, 3.0]], [[2.0, 7.0]]]]), torch.tensor([[[[0.0, 1.0]], [[4.0, 7.0]]]])
    weights = {"foreground": torch.tensor([[[0.5, 0.0]]]), "background": torch.tensor([[[0.0, 2.0]]])}
    losses = imitation_loss(student, teacher, weights, batch_size=2)
    assert losses == {"foreground": (1 + 4) * 0.5 / 2, "background": 4 * 2 / 2}
    assert attention_loss(student[:, :1], teacher[:, :1], batch_size=2) == (1 + 2) / 2


def oracle_terms(
    student: dict[str, Tensor], teacher: dict[str, Tensor], logits: Tensor, samples: list
) -> dict[str, float]:
    """The formulas of the paper, one cell at a time, in float64. False positives count at the neck."""
    terms = dict.fromkeys(TERMS, 0.0)
    for alias, (_, height, width) in SHAPES.items():
        cell = 24 / width
        for b, boxes in enumerate(samples):
            sides = [side[alias][b].double().numpy() for side in (student, teacher)]
            shares = []
            for side in sides:
                exponent = np.exp(np.abs(side).mean(axis=0) / 0.5)
                shares.append(height * width * exponent / exponent.sum())
            regions: dict[str, list[tuple[float, float]]] = {term: [] for term in TERMS - {"attention"}}
            index, count = torch.zeros(len(boxes), dtype=torch.long), torch.tensor(boxes).view(-1, 5)
            target = gaussian_mask(count, index, shape=(1, 16, 24), extent=EXTENT, overlap=0.1, min_radius=2)[0]
            for row in range(height):
                for column in range(width):
                    x, y = -12 + (column + 0.5) * cell, -8 + (row + 0.5) * cell
                    scales = [0.0]
                    for box_x, box_y, length, box_width, yaw in boxes:
                        along = math.cos(yaw) * (x - box_x) + math.sin(yaw) * (y - box_y)
                        across = math.cos(yaw) * (y - box_y) - math.sin(yaw) * (x - box_x)
                        if abs(along) < length / 2 and abs(across) < box_width / 2:
                            scales.append(cell / math.sqrt(length * box_width))
                    difference = ((sides[0][:, row, column] - sides[1][:, row, column]) ** 2).sum()
                    value = difference * (shares[0][row, column] + shares[1][row, column]) / 2
                    means = [side[:, row, column].mean() for side in sides]
                    terms["attention"] += abs(means[0] - means[1])
                    if max(scales) > 0:
                        regions["foreground"].append((max(scales), value))
                    elif alias == "neck" and logits[b, :, row, column].sigmoid().max() > 0.1 > target[row, column]:
                        regions["false_positive"].append((1.0, value))
                    else:
                        regions["background"].append((1.0, value))
            for region, cells in regions.items():
                weighted = sum(scale * value for scale, value in cells)
                terms[region] += weighted if region == "foreground" else weighted / max(len(cells), 1)
    return {term: total / len(samples) for term, total in terms.items()}


def test_method_is_the_formula_in_float64(make_step: Make) -> None:
    samples = [[CAR, TRUCK], []]
    student, teacher, logits = random_levels(2, seed=1), random_levels(2, seed=2), random_logits(2)
    terms = identity(DistillBEV()).loss(taps(student), taps(teacher, logits), make_step(samples))
    expected = oracle_terms(student, teacher, logits, samples)
    assert all(value > 0.1 for value in expected.values())
    assert {term: value.item() for term, value in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_equal_maps_give_zero(make_step: Make) -> None:
    levels = random_levels(1, seed=1)
    terms = identity(DistillBEV()).loss(taps(levels), taps(levels, random_logits(1)), make_step([[CAR]]))
    assert set(terms) == TERMS
    assert all(value == 0 for value in terms.values())


def test_each_term_trains_the_student_alone(make_step: Make) -> None:
    student, teacher = ({k: v.requires_grad_() for k, v in random_levels(1, seed=s).items()} for s in (1, 2))
    method = DistillBEV()
    terms = method.loss(taps(student), taps(teacher, random_logits(1).requires_grad_()), make_step([[CAR, TRUCK]]))
    for term, value in terms.items():
        found = torch.autograd.grad(value, student.values(), retain_graph=True)
        reached = {alias for alias, gradient in zip(student, found) if gradient.abs().sum() > 0}
        assert reached == ({"neck"} if term == "false_positive" else set(SHAPES)), term
    sum(terms.values()).backward()
    assert all(level.grad is None for level in teacher.values())
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())


def test_foreground_gradient_lies_in_the_boxes(make_step: Make) -> None:
    student = {alias: level.requires_grad_() for alias, level in random_levels(1, seed=1).items()}
    terms = DistillBEV().loss(taps(student), taps(random_levels(1, seed=2), random_logits(1)), make_step([[CAR]]))
    terms["foreground"].backward()
    for alias, (_, *size) in SHAPES.items():
        reached = student[alias].grad.abs().sum(dim=1) > 0
        assert torch.equal(reached, scale_of([CAR], size=tuple(size)) > 0), alias


def test_without_boxes_only_the_foreground_vanishes(make_step: Make) -> None:
    student = {alias: level.requires_grad_() for alias, level in random_levels(2, seed=1).items()}
    method = DistillBEV()
    terms = method.loss(taps(student), taps(random_levels(2, seed=2), random_logits(2)), make_step([[], []]))
    assert {term for term, value in terms.items() if value == 0} == TERMS - method.background_terms == {"foreground"}
    terms["foreground"].backward()
    assert all(level.grad.abs().max() == 0 for level in student.values())


@pytest.mark.parametrize(
    ("box", "cell"),
    [(CAR, (11, 6)), ((0.5, 0.5, 0.7, 0.7, 0.0), (9, 12)), ((0.5, 0.5, 16.0, 3.9, 0.0), (10, 12))],
    ids=["inside", "next to a small box", "next to a large box"],
)
def test_annotated_objects_are_no_false_positives(make_step: Make, box: tuple, cell: tuple[int, int]) -> None:
    """The teacher sees one cell only: a false positive until an object is annotated there, or a radius away."""
    logits = torch.full((1, 3, 16, 24), -9.0)
    logits[:, 0, *cell] = 3.0
    student, teacher = taps(random_levels(1, seed=1)), taps(random_levels(1, seed=2), logits)
    values = [DistillBEV().loss(student, teacher, make_step([boxes]))["false_positive"] for boxes in ([], [box])]
    assert values[0] > 0.1
    assert values[1] == 0


def test_a_heatmap_of_another_size_marks_the_cells_it_covers(make_step: Make) -> None:
    """One heatmap cell of 0.5 m lies in one cell of the neck, one of 2 m covers four."""
    found = []
    for size in ((32, 48), (8, 12)):
        logits = torch.full((1, 3, *size), -9.0)
        logits[:, 1, size[0] // 2, size[1] // 2] = 3.0
        student = {alias: level.requires_grad_() for alias, level in random_levels(1, seed=1).items()}
        terms = DistillBEV().loss(taps(student), taps(random_levels(1, seed=2), logits), make_step([[]]))
        (gradient,) = torch.autograd.grad(terms["false_positive"], student["neck"])
        found.append((gradient[0].abs().sum(dim=0) > 0).nonzero().tolist())
    assert found == [[[8, 12]], [[8, 12], [8, 13], [9, 12], [9, 13]]]


def test_levels_and_false_positives_may_be_left_out(make_step: Make) -> None:
    method = DistillBEV(levels=("neck",), false_positive_levels=(), adapters={"neck": None, "deep": None})
    assert set(method.student_taps) == set(method.teacher_taps["teacher"]) == {"neck"}
    assert method.adapter_configs == {"neck": None}
    student, teacher = random_levels(1, seed=1), random_levels(1, seed=2)
    terms = method.loss(taps(student), taps(teacher), make_step([[CAR]]))
    assert set(terms) == set(method.weights) == TERMS - {"false_positive"}
    neck = {"neck": student["neck"]}, {"neck": teacher["neck"]}
    again = method.loss(taps(neck[0]), taps(neck[1]), make_step([[CAR]]))
    assert terms == again


def test_layouts_may_differ(make_step: Make) -> None:
    student, teacher, logits = random_levels(1, seed=1), random_levels(1, seed=2), random_logits(1)
    turned = {alias: level.transpose(2, 3).contiguous() for alias, level in teacher.items()}
    method, step = DistillBEV(), make_step([[CAR, TRUCK]])
    expected = method.loss(taps(student), taps(teacher, logits), step)
    found = method.loss(taps(student), taps(turned, logits.transpose(2, 3).contiguous(), layout="xy"), step)
    assert {term: value.item() for term, value in found.items()} == pytest.approx(
        {term: value.item() for term, value in expected.items()}, rel=1e-5
    )


@pytest.mark.parametrize(
    "options",
    [
        {"levels": ()},
        {"levels": ("shallow", "nock")},
        {"levels": ("shallow",), "false_positive_levels": ("neck",)},
        {"threshold": 0.0},
        {"temperature": 0.0},
        {"overlap": 1.0},
        {"weights": {"channel": 1.0}},
    ],
)
def test_wrong_options_raise(options: dict) -> None:
    with pytest.raises(ValueError):
        DistillBEV(**options)


def test_maps_that_cannot_be_compared_raise(make_step: Make) -> None:
    levels, logits, step = random_levels(1, seed=1), random_logits(1), make_step([[CAR]])
    method = DistillBEV()
    with pytest.raises(ValueError, match=r"DistillBEV: 'deep' is .*give the distiller an adapter"):
        method.loss(taps({**levels, "deep": levels["deep"][:, :2]}), taps(levels, logits), step)
    with pytest.raises(GeometryError, match=r"12.*20"):
        method.loss(taps(levels), taps(levels, logits, extent=(-20.0, -8.0, 20.0, 8.0)), step)
    with pytest.raises(GeometryError, match="layout="):
        method.loss(taps(levels, layout=None), taps(levels, logits), step)
    elsewhere = {**taps(levels), "response": taps({}, logits, extent=(-20.0, -8.0, 20.0, 8.0))["response"]}
    with pytest.raises(GeometryError, match=r"head covers .*20"):
        method.loss(taps(levels), elsewhere, step)
    with pytest.raises(ValueError, match="no 'dense_heatmap'"):
        DistillBEV(heatmap_key="dense_heatmap").loss(taps(levels), taps(levels, logits), step)
