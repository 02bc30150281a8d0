"""SparseKD: worked numbers of centre heads, what each option does, and bad input."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from perceptkd.core.distiller import Step
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import GeometryError
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.sparsekd import SparseKD, class_probability, pivotal_class_loss, pivotal_weights

Make = Callable[..., Any]
EXTENT = (-5.0, -5.0, 5.0, 5.0)  # 10 x 10 cells of 1 m
CAR = (0.5, 0.5, 4.0, 2.0, 0.0)  # its centre is that of cell (5, 5)
FAR = (-3.5, -3.5, 4.0, 2.0, 0.0)  # of cell (1, 1)


def tap(value: Any, **options: Any) -> Tap:
    return Tap(TapSpec("bbox_head", layout="yx", **{"extent": EXTENT, **options}), [value])


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def head(probabilities: Sequence[float], *, reg: float = 0.0, size: int = 10, samples: int = 1) -> tuple:
    """Constant maps: one task per probability, of one class each."""
    return tuple(
        [{"heatmap": torch.full((samples, 1, size, size), logit(p)), "reg": torch.full((samples, 2, size, size), reg)}]
        for p in probabilities
    )


def step_of(make_step: Make, boxes: Sequence[Any], labels: Sequence[int]) -> Step:
    step = make_step([boxes])
    step.data_samples[0].gt_instances_3d.labels_3d = torch.tensor(labels).long()
    return step


def run(step: Step, student: Any, teacher: Any, **options: Any) -> dict[str, Tensor]:
    distiller = SparseKD(**{"min_radius": 0, **options})
    return distiller.loss({"response": tap(student)}, {"response": tap(teacher)}, step)


def test_published_weights() -> None:
    assert SparseKD().weights == {"cls": 15.0, "reg": 0.2}
    assert SparseKD(reg_keys=()).weights == {"cls": 15.0}


def test_constant_maps_differ_by_the_square_whatever_the_weights(make_step: Make) -> None:
    """A mean over cells: (0.6 - 0.9)^2; the regression differs by 2 in each of two channels."""
    terms = run(step_of(make_step, [CAR], [0]), head([0.6], reg=1.0), head([0.9], reg=3.0))
    assert terms["cls"].item() == pytest.approx(0.09, rel=1e-4)
    assert terms["reg"].item() == pytest.approx(4.0)


def test_classes_add_up_and_cells_weigh_by_gaussian_times_confidence() -> None:
    """Two cells: Gaussian 1 and 0.5, confidence 0.8 and 0.2, so weights 0.8 and 0.1."""
    teacher = torch.tensor([[[[0.8, 0.2]], [[0.5, 0.1]]]])
    student = torch.tensor([[[[0.6, 0.2]], [[0.1, 0.4]]]])
    weight = pivotal_weights(teacher, torch.tensor([[[1.0, 0.5]]]), positions=("foreground", "confidence"))
    assert torch.allclose(weight, torch.tensor([[[0.8, 0.1]]]))
    loss = pivotal_class_loss(student, teacher, weight, total_weight=weight.sum())
    assert loss.item() == pytest.approx((0.8 * (0.04 + 0.16) + 0.1 * 0.09) / 0.9, rel=1e-5)


@pytest.mark.parametrize(
    ("positions", "options", "expected"),
    [
        (("foreground",), {}, [1.0, 0.5, 0.0, 0.0]),
        (("confidence",), {}, [0.2, 0.9, 0.6, 0.4]),
        (("confidence",), {"threshold": 0.4}, [0.0, 0.9, 0.6, 0.0]),
        (("rank",), {"rank": 2}, [0.0, 1.0, 1.0, 0.0]),
        (("rank",), {"rank": 3}, [0.0, 1.0, 1.0, 0.0]),  # the third score is a second class of the second cell
        (("rank",), {"rank": 100}, [1.0, 1.0, 1.0, 1.0]),
        (("rank", "foreground"), {"rank": 2}, [0.0, 0.5, 0.0, 0.0]),
    ],
)
def test_pivotal_positions(positions: Sequence[str], options: dict, expected: list[float]) -> None:
    teacher = torch.tensor([[[[0.2, 0.9, 0.6, 0.4]], [[0.1, 0.5, 0.1, 0.1]]]])
    gaussian = torch.tensor([[[1.0, 0.5, 0.0, 0.0]]])
    assert torch.allclose(
        pivotal_weights(teacher, gaussian, positions=positions, **options)[0, 0], torch.tensor(expected)
    )


def test_every_sample_has_a_rank_of_its_own() -> None:
    teacher = torch.tensor([0.9, 0.8, 0.1, 0.2]).view(2, 1, 1, 2)
    weight = pivotal_weights(teacher, torch.zeros(2, 1, 2), positions=("rank",), rank=1)
    assert weight.flatten().tolist() == [1.0, 0.0, 0.0, 1.0]


def test_tasks_see_their_own_objects_and_the_mean_counts(make_step: Make) -> None:
    """One box of the second class: nothing to learn for the first task."""
    student, teacher = head([0.5, 0.6], reg=1.0), head([0.9, 0.9], reg=2.0)
    terms = run(step_of(make_step, [CAR], [1]), student, teacher)
    assert terms["cls"].item() == pytest.approx(0.09 / 2, rel=1e-4)
    assert terms["reg"].item() == pytest.approx(2.0 / 2)


def test_labels_of_the_data_set_find_their_channel(make_step: Make) -> None:
    terms = run(step_of(make_step, [CAR], [7]), head([0.5, 0.6]), head([0.5, 0.9]), channel_labels=[3, 7])
    assert terms["cls"].item() == pytest.approx(0.09 / 2, rel=1e-4)


def test_regression_counts_at_the_cells_of_centres_alone(make_step: Make) -> None:
    student, teacher = head([0.5]), head([0.5])
    teacher[0][0]["reg"][0, :, 5, 5] = torch.tensor([3.0, -1.0])
    teacher[0][0]["reg"][0, :, 5, 6] = 100.0
    terms = run(step_of(make_step, [CAR, FAR, (9.0, 9.0, 4.0, 2.0, 0.0)], [0, 0, 0]), student, teacher)
    assert terms["reg"].item() == pytest.approx(4.0 / 2)  # of the two boxes on the map


def test_only_cells_near_objects_get_gradient(make_step: Make) -> None:
    student = head([0.3])
    heatmap = student[0][0]["heatmap"].requires_grad_()
    teacher = head([0.9])
    teacher_map = teacher[0][0]["heatmap"].requires_grad_()
    run(step_of(make_step, [CAR], [0]), student, teacher, overlap=0.7)["cls"].backward()
    assert heatmap.grad[0, 0].nonzero().tolist() == [[5, 5]]
    assert teacher_map.grad is None


def test_no_objects_are_a_zero_with_a_gradient(make_step: Make) -> None:
    student = head([0.3], reg=1.0)
    leaves = [student[0][0][name].requires_grad_() for name in ("heatmap", "reg")]
    terms = run(step_of(make_step, [], []), student, head([0.9]))
    sum(terms.values()).backward()
    assert all(value == 0 for value in terms.values())
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_a_student_with_larger_cells_is_resized_as_probabilities(make_step: Make) -> None:
    student, teacher = head([0.5], size=5), head([0.5], size=10)
    student[0][0]["heatmap"] = torch.randn(1, 1, 5, 5)
    step = step_of(make_step, [CAR], [0])
    found = run(step, student, teacher, reg_keys=(), positions=("foreground",))
    larger = torch.nn.functional.interpolate(
        class_probability(student[0][0]["heatmap"]), size=(10, 10), mode="bilinear"
    )
    same = head([0.5])
    same[0][0]["heatmap"] = torch.logit(larger)
    expected = run(step, same, teacher, reg_keys=(), positions=("foreground",))
    assert found["cls"].item() == pytest.approx(expected["cls"].item(), rel=1e-4)
    with pytest.raises(InputError, match="'reg' is"):
        run(step, student, teacher)


@pytest.mark.parametrize(
    "options",
    [
        {"positions": ()},
        {"positions": "rank"},
        {"positions": ("peaks",)},
        {"rank": 0},
        {"min_radius": -1},
        {"overlap": 1.0},
        {"threshold": 1.0},
    ],
)
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError, match="SparseKD: "):
        SparseKD(**options)


def test_heads_of_two_kinds(make_step: Make) -> None:
    anchors = ([torch.zeros(1, 2, 10, 10)], [torch.zeros(1, 14, 10, 10)], [torch.zeros(1, 4, 10, 10)])
    with pytest.raises(InputError, match="one head has anchors, the other has not"):
        run(step_of(make_step, [CAR], [0]), head([0.5]), anchors)


def test_heads_of_another_area(make_step: Make) -> None:
    sides = {"response": tap(head([0.5]))}, {"response": tap(head([0.5]), extent=(0.0, -5.0, 10.0, 5.0))}
    with pytest.raises(GeometryError, match="the heads cover"):
        SparseKD().loss(*sides, step_of(make_step, [CAR], [0]))


def test_other_classes(make_step: Make) -> None:
    with pytest.raises(InputError, match="'heatmap' is"):
        run(step_of(make_step, [CAR], [0]), head([0.5]), head([0.5, 0.5]))
