"""Foreground distillation: which cells count, what its losses ignore, and how far the teacher is believed."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.foreground import ForegroundDistill, box_weights, class_divergence, map_losses

Make = Callable[..., Any]
EXTENT = (-6.0, -6.0, 6.0, 6.0)
SIZE = 24  # cells of 0.5 m
CAR = (1.0, -2.0, 4.0, 2.0, 0.0)


def weights_of(*boxes: tuple[float, ...], enlarge: float = 1.0, samples: list[int] | None = None) -> torch.Tensor:
    index = torch.tensor(samples or [0] * len(boxes), dtype=torch.long)
    shape = (2, SIZE, SIZE)
    return box_weights(torch.tensor(boxes).view(-1, 5), index, shape=shape, extent=EXTENT, enlarge=enlarge)


class TestBoxWeights:
    def test_cells_of_a_box(self) -> None:
        weight = weights_of(CAR)[0]
        rows, columns = weight.nonzero(as_tuple=True)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 9, 10, 17)  # y -3..-1, x -1..3
        assert len(rows) == 4 * 8
        assert weight[rows, columns].tolist() == pytest.approx([1 / 32] * 32)

    def test_a_quarter_turn_exchanges_the_sides(self) -> None:
        turned = weights_of((*CAR[:4], math.pi / 2))[0]
        rows, columns = turned.nonzero(as_tuple=True)
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (8, 4)

    def test_yaw_is_counter_clockwise(self) -> None:
        weight = weights_of((0.0, 0.0, 8.0, 1.0, math.pi / 4))[0]
        rows, columns = weight.nonzero(as_tuple=True)
        assert torch.corrcoef(torch.stack([rows.float(), columns.float()]))[0, 1] > 0.9

    @pytest.mark.parametrize("size", [(12.0, 3.0), (0.5, 0.5), (0.1, 0.1)])
    def test_every_box_weighs_one_whatever_its_size(self, size: tuple[float, float]) -> None:
        assert weights_of((0.3, 0.2, *size, 0.4)).sum().item() == pytest.approx(1.0)

    def test_a_small_box_on_a_corner_of_cells_has_a_cell_however_it_is_turned(self) -> None:
        corners = [(0.5 * column, 0.5 * row, 0.1, 0.1, math.pi / 4) for column in range(-8, 9) for row in range(-8, 9)]
        assert weights_of(*corners).sum().item() == pytest.approx(len(corners))

    def test_boxes_add_up_each_in_its_sample(self) -> None:
        weight = weights_of(CAR, CAR, CAR, samples=[0, 1, 1])
        assert weight.sum(dim=(1, 2)).tolist() == pytest.approx([1.0, 2.0])

    def test_margin(self) -> None:
        assert (weights_of(CAR, enlarge=1.5) > 0).sum() == 12 * 6

    def test_off_the_map_and_no_boxes(self) -> None:
        assert weights_of((50.0, 0.0, 4.0, 2.0, 0.0)).sum() == 0
        assert weights_of().sum() == 0


class TestLosses:
    def test_maps_by_hand(self) -> None:
        """Two channels on 1 x 3 cells; a box with two cells, and one cell of background."""
        student = torch.tensor([[[[1.0, 2.0, 3.0]], [[0.0, 0.0, 5.0]]]], requires_grad=True)
        teacher = torch.zeros(1, 2, 1, 3, requires_grad=True)
        weight = torch.tensor([[[0.5, 0.5, 0.0]]])
        feature, background = map_losses(student, teacher, weight, num_boxes=2.0, num_cells=3.0)
        assert feature.item() == pytest.approx((0.5 * 0.5 + 0.5 * 1.0) / 2)
        assert background.item() == pytest.approx(4.0 / 3)
        (feature + background).backward()
        assert teacher.grad is None
        torch.testing.assert_close(student.grad[0, 0, 0], torch.tensor([1 / 8, 1 / 8, 1 / 6]))

    def test_divergence_is_zero_for_equal_logits_and_pulls_towards_the_teacher(self) -> None:
        teacher, weight = torch.randn(5), torch.ones(5)
        assert class_divergence(teacher, teacher, weight, total_weight=5).item() == pytest.approx(0, abs=1e-6)
        student = torch.randn(5, requires_grad=True)
        class_divergence(student, teacher, weight, total_weight=5).backward()
        torch.testing.assert_close(student.grad, (student.detach().sigmoid() - teacher.sigmoid()) / 5)

    def test_divergence_by_hand(self) -> None:
        student, teacher = torch.tensor([0.0]), torch.tensor([math.log(3)])  # 1/2 and 3/4
        expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
        assert class_divergence(student, teacher, torch.tensor([2.0]), total_weight=2).item() == pytest.approx(expected)


def make_taps(low: torch.Tensor, high: torch.Tensor, logits: torch.Tensor, regression: torch.Tensor) -> dict[str, Tap]:
    response = ([{"heatmap": logits[:, :1], "reg": regression}], [{"heatmap": logits[:, 1:], "reg": regression}])
    values = {"low": low, "high": high, "response": response}
    return {name: Tap(TapSpec(name, layout="yx", extent=EXTENT), [value]) for name, value in values.items()}


def random_sides() -> list[list[torch.Tensor]]:
    return [[torch.randn(1, channels, SIZE, SIZE, requires_grad=True) for channels in (8, 6, 3, 2)] for _ in range(2)]


def step_with(make_step: Make, boxes: list[tuple[float, ...]], labels: list[int]) -> Any:
    step = make_step([boxes])
    step.data_samples[0].gt_instances_3d.labels_3d = torch.tensor(labels, dtype=torch.long)
    return step


def test_terms_train_the_student_alone(make_step: Make) -> None:
    student, teacher = random_sides()
    terms = ForegroundDistill().loss(make_taps(*student), make_taps(*teacher), step_with(make_step, [CAR], [1]))
    assert set(terms) == {"feature", "background", "relation", "response_cls", "response_reg"}
    assert all(value > 0 for value in terms.values())
    sum(terms.values()).backward()
    assert all(side.grad.abs().sum() > 0 for side in student)
    assert all(side.grad is None for side in teacher)


def test_a_teacher_that_missed_the_object_teaches_nothing_about_it(make_step: Make) -> None:
    student, teacher = random_sides()
    step = step_with(make_step, [CAR], [1])
    with torch.no_grad():
        teacher[2][:] = -20.0
    missed = ForegroundDistill().loss(make_taps(*student), make_taps(*teacher), step)
    assert missed["response_cls"] < 1e-6
    assert missed["response_reg"] < 1e-6
    with torch.no_grad():
        teacher[2][:, 0] = 5.0  # a peak of another class is no better
    wrong_class = ForegroundDistill().loss(make_taps(*student), make_taps(*teacher), step)
    assert wrong_class["response_cls"] < 1e-6
    with torch.no_grad():
        teacher[2][:, 1] = 5.0
    found = ForegroundDistill().loss(make_taps(*student), make_taps(*teacher), step)
    assert found["response_cls"] > 0.1
    assert found["response_reg"] > 0.1


def test_only_the_channel_of_the_class_gets_gradient(make_step: Make) -> None:
    student, teacher = random_sides()
    step = step_with(make_step, [CAR], [7])
    method = ForegroundDistill(channel_labels=[9, 8, 7])
    method.loss(make_taps(*student), make_taps(*teacher), step)["response_cls"].backward()
    reached = student[2].grad.abs().amax(dim=(0, 2, 3)) > 0
    assert reached.tolist() == [False, False, True]


def test_unknown_labels_are_left_out_of_the_response(make_step: Make) -> None:
    student, teacher = random_sides()
    terms = ForegroundDistill().loss(make_taps(*student), make_taps(*teacher), step_with(make_step, [CAR], [-1]))
    assert terms["response_cls"] == 0
    assert terms["feature"] > 0


def test_pedestrians_cover_more_than_one_cell(make_step: Make) -> None:
    student, teacher = random_sides()
    step = step_with(make_step, [(0.2, 0.2, 0.7, 0.7, 0.0)], [0])
    ForegroundDistill().loss(make_taps(*student), make_taps(*teacher), step)["response_cls"].backward()
    assert (student[2].grad[0, 0] != 0).sum() == 9


def test_teacher_map_of_another_area(make_step: Make) -> None:
    """It is read where the student's cells are: the same scene twice as far gives the same features."""
    student, _ = random_sides()
    step = step_with(make_step, [CAR], [1])
    wide = torch.zeros(1, 8, 2 * SIZE, 2 * SIZE)
    wide[:, :, SIZE // 2 : -SIZE // 2, SIZE // 2 : -SIZE // 2] = student[0].detach()
    teacher = make_taps(wide, *student[1:])
    teacher["low"] = Tap(TapSpec("low", layout="yx", extent=(-12.0, -12.0, 12.0, 12.0)), [wide])
    found = ForegroundDistill().loss(make_taps(*student), teacher, step)
    assert found["feature"] < 1e-3
    assert found["background"] < 1e-3


def test_a_teacher_that_sees_less_is_refused(make_step: Make) -> None:
    """The student's map is not pulled to 0 where the teacher has none."""
    student, _ = random_sides()
    teacher = make_taps(*student)
    teacher["low"] = Tap(TapSpec("low", layout="yx", extent=(-6.0, -3.0, 6.0, 3.0)), [student[0][:, :, ::2]])
    with pytest.raises(ValueError, match=r"'low': .*the teacher's \(-6.0, -3.0, 6.0, 3.0\) leaves out a part"):
        ForegroundDistill().loss(make_taps(*student), teacher, step_with(make_step, [CAR], [1]))


def test_without_regression(make_step: Make) -> None:
    """Heads that give class logits alone have the terms that they had, but one."""
    sides, step = [make_taps(*side) for side in random_sides()], step_with(make_step, [CAR], [1])
    expected = ForegroundDistill().loss(*sides, step)
    del expected["response_reg"]
    for side in sides:
        for task in side["response"].value:
            del task[0]["reg"]
    method = ForegroundDistill(reg_keys=())
    found = method(*sides, step)
    assert found.keys() == expected.keys() == method.weights.keys()
    assert all(torch.equal(found[term], value) for term, value in expected.items())
    with pytest.raises(ValueError, match=r"reg_keys=\(\) leaves regression out, where the method allows it"):
        ForegroundDistill().loss(*sides, step)


@pytest.mark.parametrize("wrong", [{"enlarge": 0.0}, {"min_radius": -1}, {"overlap": 1.0}])
def test_options_out_of_range(wrong: dict) -> None:
    with pytest.raises(ValueError, match="enlarge is positive, min_radius at least 0 and overlap between 0 and 1"):
        ForegroundDistill(**wrong)


def test_heads_of_other_classes(make_step: Make) -> None:
    student, teacher = random_sides()
    step = step_with(make_step, [CAR], [1])
    fewer = [*teacher[:2], torch.randn(1, 4, SIZE, SIZE), *teacher[3:]]
    with pytest.raises(ValueError, match=r"'heatmap' is .*equal tasks, classes and grids$"):
        ForegroundDistill().loss(make_taps(*student), make_taps(*fewer), step)
    with pytest.raises(ValueError, match=r"both heads need 'hm' \(heatmap_key=\)"):
        ForegroundDistill(heatmap_key="hm").loss(make_taps(*student), make_taps(*teacher), step)
    with pytest.raises(ValueError, match="2 channel_labels for heads with 3 class channels"):
        ForegroundDistill(channel_labels=[0, 1]).loss(make_taps(*student), make_taps(*teacher), step)


def test_maps_of_another_size_are_not_read_at_the_wrong_cells(make_step: Make) -> None:
    student, teacher = random_sides()
    finer = [torch.nn.functional.interpolate(teacher[0], scale_factor=2), *teacher[1:]]
    with pytest.raises(ValueError, match=r"'low' is .*24, 24\) in the student, .*48, 48\) in the teacher"):
        ForegroundDistill().loss(make_taps(*student), make_taps(*finer), step_with(make_step, [CAR], [1]))
