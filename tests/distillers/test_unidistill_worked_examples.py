"""UniDistill's worked numbers (W1 to W6), corrected and as released, through the method itself."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from perceptkd.core.bev import gaussian_mask, sample_points
from perceptkd.distillers.unidistill import (
    UniDistill,
    _similarity,
    class_probability,
    key_points,
    response_loss,
)

BOX_A = (10.0, 5.0, 4.0, 2.0, math.pi / 6)
CAR = (10.0, 5.0, 4.62, 1.95, math.pi / 6)
HASH_BOXES = [BOX_A, (-20.0, 30.0, 8.0, 3.0, 1.0), (53.8, -53.0, 4.0, 2.0, 0.3)]
MOTORCYCLE_TASK, TRAILER_TASK = 4, 2

Make = Callable[..., Any]


def ramp() -> tuple[Tensor, Tensor]:
    """(column index, row index) of every cell, [180, 180] each."""
    row, column = torch.meshgrid(torch.arange(180.0), torch.arange(180.0), indexing="ij")
    return column, row


def hash_map(seed: int) -> Tensor:
    """The portable map [1, 8, 180, 180] of the worked examples."""
    column, row = ramp()
    channel = torch.arange(8).view(8, 1, 1)
    return (((7 * column + 13 * row + 17 * channel + 29 * seed) % 31) / 31 - 0.5).unsqueeze(0)


@pytest.fixture
def run(make_taps: Make, make_head: Make, make_step: Make) -> Make:
    """run(student map, teacher map, boxes, legacy=...) -> all terms, the map standing for both levels."""

    def run(student: Tensor, teacher: Tensor, boxes: list, *, legacy: bool = False, layout: str = "yx") -> dict:
        head = make_head(0.0, 0.0)
        return UniDistill(legacy=legacy).loss(
            make_taps(student, student, head, layout=layout),
            make_taps(teacher, teacher, head, layout=layout),
            make_step([boxes]),
        )

    return run


@pytest.fixture
def respond(make_taps: Make, make_step: Make) -> Make:
    """respond(student head, teacher head, boxes per sample) -> (class term, regression term)."""

    def respond(student: tuple, teacher: tuple, boxes: list, **options: Any) -> tuple[float, float]:
        bev_map = torch.zeros(len(boxes), 1, 180, 180)
        terms = UniDistill(**options).loss(
            make_taps(bev_map, bev_map, student), make_taps(bev_map, bev_map, teacher), make_step(boxes)
        )
        return terms["response_cls"].item(), terms["response_reg"].item()

    return respond


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize(("legacy", "expected"), [(False, 106.156051), (True, 97.823551)])
def test_w1_feature_on_a_ramp(run: Make, legacy: bool, expected: float) -> None:
    column = ramp()[0].expand(1, 1, 180, 180)
    assert run(column, torch.zeros(1, 1, 180, 180), [BOX_A], legacy=legacy)["feature"].item() == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_w1_two_channels_cannot_tell_the_swap(run: Make, legacy: bool) -> None:
    student = torch.stack(ramp()).unsqueeze(0)
    terms = run(student, torch.zeros_like(student), [BOX_A], legacy=legacy)
    assert terms["feature"].item() == pytest.approx(101.989801, rel=1e-6)


@pytest.mark.parametrize(("legacy", "expected"), [(False, 0.0601762), (True, 0.0316571)])
def test_w2_relation(run: Make, legacy: bool, expected: float) -> None:
    column, row = ramp()
    student = torch.stack((column - 100, row - 95)).unsqueeze(0)
    teacher = torch.stack((torch.ones_like(column), 0.02 * (column - 100))).unsqueeze(0)
    terms = run(student, teacher, [BOX_A], legacy=legacy)
    assert terms["relation"].item() == pytest.approx(expected, abs=5e-7)


def test_w2_similarities_of_the_centre() -> None:
    """Row 4, the centre, of the student's 9 x 9 matrix: with itself it is 1 up to eps."""
    column, row = ramp()
    bev_map = torch.stack((column - 100, row - 95)).unsqueeze(0)
    points, first = key_points(torch.tensor([BOX_A])), torch.zeros(1, dtype=torch.long)
    read = sample_points(bev_map, points, first, extent=(-54, -54, 54, 54))
    expected = [0.878570, 0.925998, 0.980961, 0.991427, 0.999971, 0.996003, 0.970061, 0.999507, 0.972562]
    assert _similarity(read, "intra", 1e-4)[0, 4].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("legacy", "feature", "relation"), [(False, 0.0791548, 0.1458205), (True, 0.0898331, 0.1625793)]
)
def test_w3_hash_maps(run: Make, legacy: bool, feature: float, relation: float) -> None:
    terms = run(hash_map(1), hash_map(2), HASH_BOXES, legacy=legacy)
    assert terms["feature"].item() == pytest.approx(feature, abs=5e-7)
    assert terms["relation"].item() == pytest.approx(relation, abs=5e-7)


@pytest.mark.parametrize(
    ("box", "feature", "relation"),
    zip(HASH_BOXES, (0.097542, 0.102645, 0.037285), (0.176149, 0.218124, 0.043203)),
)
def test_w3_box_by_box(run: Make, box: tuple, feature: float, relation: float) -> None:
    """The values of single boxes are those before the division by N + eps; fp32 is 1.1e-6 off for one of them."""
    terms = run(hash_map(1), hash_map(2), [box])
    assert terms["feature"].item() * 1.0001 == pytest.approx(feature, abs=1e-6)
    assert terms["relation"].item() * 1.0001 == pytest.approx(relation, abs=2e-6)


def test_f14_layout_xy_of_transposed_maps_changes_nothing(run: Make) -> None:
    student, teacher = hash_map(1), hash_map(2)
    expected = run(student, teacher, HASH_BOXES)
    transposed = run(student.transpose(2, 3), teacher.transpose(2, 3), HASH_BOXES, layout="xy")
    assert {term: value.item() for term, value in transposed.items()} == {t: v.item() for t, v in expected.items()}


def test_f14_the_swap_equals_transposed_maps(run: Make) -> None:
    student, teacher = hash_map(1), hash_map(2)
    swapped = run(student, teacher, HASH_BOXES, legacy=True)
    transposed = run(student.transpose(2, 3), teacher.transpose(2, 3), HASH_BOXES)
    for term in ("feature", "relation"):
        assert swapped[term].item() == pytest.approx(transposed[term].item(), abs=5e-7)


class TestResponse:
    def test_w4_constant_maps(self, respond: Make, make_head: Make) -> None:
        student, teacher = make_head(logit(0.1), 0.5), make_head(-2.19, 0.2)
        cls, reg = respond(student, teacher, [[CAR]], legacy=True)
        assert cls == pytest.approx(0.1506686, abs=5e-7)
        assert reg == pytest.approx(0.2999815, abs=5e-7)

    def test_w4_corrected_compares_both_sides_at_one_temperature(self, respond: Make, make_head: Make) -> None:
        student, teacher = make_head(logit(0.1), 0.5), make_head(-2.19, 0.2)
        total = 1.6146036
        for temperature in (1.0, 2.0):
            cls, reg = respond(student, teacher, [[CAR]], temperature=temperature)
            gap = 1 / (1 + math.exp(2.19 / temperature)) - 1 / (1 + math.exp(-logit(0.1) / temperature))
            assert cls == pytest.approx(gap * total / (total + 1e-4), abs=5e-7)
            assert reg == pytest.approx(0.2999815, abs=5e-7)

    def test_w4_peaks_at_the_centre(self, respond: Make, make_head: Make) -> None:
        student, teacher = make_head(logit(0.1), 0.5), make_head(-2.19, 0.2)
        teacher[MOTORCYCLE_TASK][0]["heatmap"][0, 0, 98, 106] = 3.0
        teacher[TRAILER_TASK][0]["dim"][0, 1, 98, 106] = 1.2
        cls, reg = respond(student, teacher, [[CAR]], legacy=True)
        assert cls == pytest.approx(0.5017525, abs=5e-7)
        assert reg == pytest.approx(0.3037348, abs=5e-7)

    def test_w5_released_asymmetry(self, respond: Make, make_head: Make) -> None:
        head = make_head(-2.19, 0.3)
        assert respond(head, head, [[CAR]], legacy=True) == (pytest.approx(0.1500165, abs=5e-7), 0.0)
        assert respond(head, head, [[CAR]]) == (0.0, 0.0)
        half = make_head(-1.095, 0.3)
        assert respond(half, head, [[CAR]], legacy=True)[0] == pytest.approx(0, abs=5e-7)

    @pytest.mark.parametrize(("clamp", "expected"), [(1e-4, 9.99938e-5), (1e-3, 9.99938e-4)])
    def test_w5_clamp_of_the_teacher_beside_a_student_at_0(self, clamp: float, expected: float) -> None:
        mask = gaussian_mask(torch.tensor([CAR]), torch.tensor([0]), shape=(1, 180, 180), extent=(-54, -54, 54, 54))
        weight = mask[mask > 0]
        student, logits = torch.zeros(len(weight), 10), torch.full((len(weight), 10), -40.0)
        teacher = class_probability(logits, temperature=2.0, clamp=clamp)
        loss = response_loss(student, teacher, weight, total_weight=weight.sum(), mode="max")
        assert loss.item() == pytest.approx(expected, rel=5e-7)

    @pytest.mark.parametrize(("clamp", "expected"), [(1e-4, 0.0), (1e-3, 8.99944e-4)])
    def test_w5_clamp(self, respond: Make, make_head: Make, clamp: float, expected: float) -> None:
        """The method keeps the student 1e-4 away from 0, too."""
        head = make_head(-40.0, 0.0)
        assert respond(head, head, [[CAR]], clamp=clamp, legacy=True)[0] == pytest.approx(expected, rel=1e-5)

    def test_w6_a_zero_row_paints_the_ego_cell(self) -> None:
        boxes = torch.tensor([CAR, (0.0, 0.0, 0.0, 0.0, 0.0)])
        mask = gaussian_mask(boxes, torch.tensor([0, 0]), shape=(1, 180, 180), extent=(-54, -54, 54, 54))
        assert mask.sum().item() == pytest.approx(2.6146038, abs=1e-6)
        assert mask[0, 90, 90] == 1

    def test_w6_padding_counts_in_legacy_only(self, respond: Make, make_head: Make) -> None:
        """The first sample has a box less than the second; the heads differ at its ego cell alone."""
        student, teacher = make_head(0.0, 0.0, batch_size=2), make_head(0.0, 0.0, batch_size=2)
        teacher[0][0]["reg"][0, :, 90, 90] = 6.6
        boxes = [[CAR], [CAR, CAR]]
        assert respond(student, teacher, boxes)[1] == 0.0
        painted = 6.6 * 2 / 66 / (2 * 1.6146036 + 1 + 1e-4)
        assert respond(student, teacher, boxes, legacy=True)[1] == pytest.approx(painted, rel=1e-5)
