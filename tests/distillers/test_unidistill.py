"""Properties of UniDistill's losses (facts F1 to F14); its worked numbers are in test_unidistill_worked_examples.py."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from perceptkd.core.bev import gaussian_mask, sample_points
from perceptkd.distillers.unidistill import (
    UniDistill,
    class_probability,
    feature_loss,
    key_points,
    relation_loss,
    response_loss,
)
from perceptkd.registry import DISTILLERS

EXTENT = (-54.0, -54.0, 54.0, 54.0)
BOX = torch.tensor([[10.0, 5.0, 4.0, 2.0, math.pi / 6]])
BOXES = torch.tensor([[10.0, 5.0, 4.0, 2.0, math.pi / 6], [-20.0, 30.0, 8.0, 3.0, 1.0]])
CAR = torch.tensor([[10.0, 5.0, 4.62, 1.95, 0.4]])


def first(boxes: Tensor) -> Tensor:
    """All boxes belong to sample 0."""
    return torch.zeros(len(boxes), dtype=torch.long)


def read(bev_map: Tensor, boxes: Tensor) -> Tensor:
    return sample_points(bev_map, key_points(boxes), first(boxes), extent=EXTENT)


def features(student: Tensor, teacher: Tensor, boxes: Tensor) -> Tensor:
    return feature_loss(read(student, boxes), read(teacher, boxes), num_boxes=len(boxes))


def relations(student: Tensor, teacher: Tensor, boxes: Tensor, *, scope: str = "intra") -> Tensor:
    student, teacher = read(student, boxes), read(teacher, boxes)
    return relation_loss(student, teacher, num_boxes=len(boxes), scope=scope, sample_index=first(boxes))


def mask_of(boxes: Tensor) -> Tensor:
    return gaussian_mask(boxes, first(boxes), shape=(1, 180, 180), extent=EXTENT)[0]


def box(x: float, y: float, length: float = 4.62, width: float = 1.95) -> Tensor:
    return torch.tensor([[x, y, length, width, 0.0]])


def test_is_found_by_its_prefixed_name() -> None:
    assert DISTILLERS.get("perceptkd.UniDistill") is UniDistill


class TestKeyPoints:
    def test_order_without_rotation(self) -> None:
        expected = [(8, 4), (8, 6), (12, 6), (12, 4), (10, 5), (8, 5), (10, 6), (12, 5), (10, 4)]
        points = key_points(torch.tensor([[10.0, 5.0, 4.0, 2.0, 0.0]]))
        assert points[0].tolist() == [list(map(float, point)) for point in expected]

    def test_quarter_turn_is_counter_clockwise(self) -> None:
        points = key_points(torch.tensor([[10.0, 5.0, 4.0, 2.0, math.pi / 2]]))
        assert torch.allclose(
            points[0, :4], torch.tensor([(11.0, 3.0), (9.0, 3.0), (9.0, 7.0), (11.0, 7.0)]), atol=1e-5
        )

    def test_thirty_degrees(self) -> None:
        expected = [
            (8.7679, 3.1340), (7.7679, 4.8660), (11.2321, 6.8660), (12.2321, 5.1340), (10, 5),
            (8.2679, 4), (9.5, 5.8660), (11.7321, 6), (10.5, 4.1340),
        ]  # fmt: skip
        assert torch.allclose(key_points(BOX)[0], torch.tensor(expected), atol=6e-5)

    def test_centre_is_the_mean_of_all_and_of_the_corners(self) -> None:
        points = key_points(BOXES)
        assert torch.allclose(points.mean(dim=1), BOXES[:, :2], atol=1e-5)
        assert torch.allclose(points[:, :4].mean(dim=1), points[:, 4], atol=1e-5)

    def test_agree_with_the_corners_of_mmdet3d(self) -> None:
        from mmdet3d.structures import LiDARInstance3DBoxes

        boxes = LiDARInstance3DBoxes(torch.tensor([[10.0, 5.0, -1.0, 4.0, 2.0, 1.5, math.pi / 6]]))
        assert torch.allclose(key_points(boxes.bev)[:, :4], boxes.corners[:, [0, 3, 7, 4], :2], atol=1e-5)

    @pytest.mark.parametrize(
        "turned", [lambda b: (b[2], b[3], b[4] + math.pi), lambda b: (b[3], b[2], b[4] + math.pi / 2)]
    )
    def test_losses_ignore_how_a_box_is_written_down(self, turned: Callable) -> None:
        same = torch.stack([torch.stack([b[0], b[1], *turned(b)]) for b in BOXES])
        student, teacher = torch.randn(2, 1, 8, 180, 180)
        assert features(student, teacher, same) == pytest.approx(features(student, teacher, BOXES).item(), abs=1e-5)
        assert relations(student, teacher, same) == pytest.approx(relations(student, teacher, BOXES).item(), abs=1e-5)


class TestFeatureAndRelation:
    def test_moving_box_and_map_together_changes_nothing(self) -> None:
        student, teacher = torch.randn(2, 1, 8, 180, 180)
        moved = BOXES + torch.tensor([7 * 0.6, -4 * 0.6, 0, 0, 0])
        rolled = [torch.roll(bev_map, shifts=(-4, 7), dims=(2, 3)) for bev_map in (student, teacher)]
        assert features(*rolled, moved) == pytest.approx(features(student, teacher, BOXES).item(), abs=1e-5)
        assert relations(*rolled, moved) == pytest.approx(relations(student, teacher, BOXES).item(), abs=1e-5)

    def test_equal_maps_give_exactly_zero(self) -> None:
        bev_map = torch.randn(1, 8, 180, 180)
        assert features(bev_map, bev_map, BOXES) == 0
        assert relations(bev_map, bev_map, BOXES) == 0
        assert relations(bev_map, bev_map, BOXES, scope="inter") == 0

    def test_feature_loss_scales_with_its_inputs(self) -> None:
        student, teacher = torch.randn(2, 1, 8, 180, 180)
        scaled = features(-7 * student, -7 * teacher, BOXES)
        assert scaled.item() == pytest.approx(7 * features(student, teacher, BOXES).item(), rel=1e-5)

    def test_relation_loss_ignores_scale_and_orthogonal_mixing(self) -> None:
        student, teacher = torch.randn(2, 1, 16, 180, 180)
        plain = relations(student, teacher, BOXES).item()
        assert relations(7 * student, 0.3 * teacher, BOXES).item() == pytest.approx(plain, rel=3e-4)
        assert relations(student, 3 * student, BOXES) < 2e-5
        mixing = torch.linalg.qr(torch.randn(16, 16)).Q
        mixed = torch.einsum("dc,bchw->bdhw", mixing, student)
        assert relations(mixed, teacher, BOXES).item() == pytest.approx(plain, abs=1e-6)

    def test_relation_loss_is_at_most_two(self) -> None:
        assert 1.9 < relation_loss(torch.ones(1, 2, 1), torch.tensor([[[1.0], [-1.0]]]), num_boxes=0.5) < 2.0
        student, teacher = torch.randn(2, 1, 16, 180, 180)
        assert 0 <= relations(student, teacher, BOXES) <= 2

    def test_relation_loss_compares_maps_of_different_widths(self) -> None:
        assert relations(torch.randn(1, 4, 180, 180), torch.randn(1, 32, 180, 180), BOXES) > 0

    def test_inter_compares_boxes_of_one_sample_only(self) -> None:
        """Two samples whose boxes agree inside each, and differ across: nothing to learn between samples."""
        student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).unsqueeze(1)
        teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]).unsqueeze(1)
        apart = relation_loss(student, teacher, num_boxes=3, scope="inter", sample_index=torch.tensor([0, 0, 1]))
        together = relation_loss(student, teacher, num_boxes=3, scope="inter", sample_index=torch.tensor([0, 0, 0]))
        assert apart == pytest.approx(0, abs=1e-6)
        assert together.item() == pytest.approx(4 / 9, rel=1e-3)
        pair_and_single = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).unsqueeze(1)
        one_in_two = relation_loss(
            pair_and_single, teacher, num_boxes=3, scope="inter", sample_index=torch.tensor([0, 0, 1])
        )
        assert one_in_two.item() == pytest.approx((1 / 2 + 1 / 2 + 0) / 3, rel=1e-3)
        with pytest.raises(ValueError, match="sample_index"):
            relation_loss(student, teacher, num_boxes=3, scope="inter")

    @pytest.mark.parametrize("loss", [features, relations])
    def test_two_boxes_give_the_mean_of_one_each(self, loss: Callable) -> None:
        """Up to eps beside the number of boxes: (0.8031135, 0.7566238) give 0.7799077 (F5)."""
        student, teacher = torch.randn(2, 1, 8, 180, 180)
        single = [loss(student, teacher, BOXES[i : i + 1]).item() for i in range(2)]
        assert single[0] != pytest.approx(single[1], rel=1e-2)
        both = loss(student, teacher, BOXES).item()
        assert both == pytest.approx(sum(single) * (1 + 1e-4) / (2 + 1e-4), rel=1e-6)
        values = torch.tensor([0.8031135, 0.7566238]) * (1 + 1e-4)
        spread = values.view(2, 1, 1).expand(2, 9, 4)
        assert feature_loss(spread, torch.zeros(2, 9, 4), num_boxes=2).item() == pytest.approx(0.7799077, abs=1e-7)

    @pytest.mark.parametrize("axis", ["x", "y"])
    def test_a_flip_of_map_and_boxes_reorders_corners_and_changes_no_loss(self, axis: str) -> None:
        """F16: left and right change places in either flip, on both sides alike."""
        student, teacher = torch.randn(2, 1, 8, 180, 180)
        sign = torch.tensor([-1.0, 1.0] if axis == "x" else [1.0, -1.0])
        turned = math.pi - BOXES[:, 4:] if axis == "x" else -BOXES[:, 4:]
        flipped = torch.cat((BOXES[:, :2] * sign, BOXES[:, 2:4], turned), dim=1)
        order = [1, 0, 3, 2, 4, 5, 8, 7, 6]
        assert torch.allclose(key_points(flipped), (key_points(BOXES) * sign)[:, order], atol=1e-5)
        maps = [side.flip(3 if axis == "x" else 2) for side in (student, teacher)]
        for loss in (relations, features):
            assert loss(*maps, flipped).item() == pytest.approx(loss(student, teacher, BOXES).item(), abs=1e-5)
        assert relations(student, teacher, flipped).item() != pytest.approx(relations(*maps, flipped).item(), rel=1e-3)

    @pytest.mark.parametrize("loss", [features, relations])
    @pytest.mark.parametrize("boxes", [torch.zeros(0, 5), box(80, 0)])
    def test_nothing_to_compare_gives_a_connected_finite_zero(self, loss: Callable, boxes: Tensor) -> None:
        student = torch.randn(1, 4, 180, 180, requires_grad=True)
        value = loss(student, torch.randn(1, 4, 180, 180), boxes)
        value.backward()
        assert value == 0
        assert student.grad.abs().max() == 0

    def test_gradient_stays_within_one_pixel_of_the_points(self) -> None:
        student, teacher = torch.randn(2, 1, 4, 180, 180)
        student, teacher = student.requires_grad_(), teacher.requires_grad_()
        (features(student, teacher, BOX) + relations(student, teacher, BOX)).backward()
        row, column = student.grad.abs().sum(dim=(0, 1)).nonzero().unbind(dim=1)
        pixel = (key_points(BOX)[0] + 54) / 0.6 - 0.5
        distance = torch.maximum((pixel[:, 0, None] - column).abs(), (pixel[:, 1, None] - row).abs()).amin(dim=0)
        assert len(row) == 29
        assert distance.max() < 1
        assert teacher.grad is None


class TestResponse:
    def compare(self, student: Tensor, teacher: Tensor, mode: str) -> Tensor:
        mask = mask_of(CAR)
        cells = mask.nonzero(as_tuple=True)
        rows = [side.permute(1, 2, 0)[cells] for side in (student, teacher)]
        return response_loss(*rows, mask[cells], total_weight=mask.sum(), mode=mode)

    @pytest.mark.parametrize("mode", ["max", "sum", "mean"])
    def test_only_the_mask_counts(self, mode: str) -> None:
        teacher = torch.rand(10, 180, 180)
        student = torch.where(mask_of(CAR) > 0, teacher, torch.nan)
        assert self.compare(student, teacher, mode) == 0
        assert self.compare(student + 0.1, teacher, mode) > 0.09

    def test_max_ignores_which_class_peaks_and_sum_does_not(self) -> None:
        student, teacher = torch.zeros(2, 10, 180, 180)
        student[0], teacher[3] = 0.8, 0.8
        assert self.compare(student, teacher, "max") == 0
        assert self.compare(student, teacher, "sum").item() == pytest.approx(1.6, rel=1e-4)

    def test_only_the_largest_class_gets_gradient(self) -> None:
        student = torch.full((10, 180, 180), 0.1, requires_grad=True)
        self.compare(student, torch.full((10, 180, 180), 0.3), "max").backward()
        assert student.grad.abs().sum().item() == pytest.approx(0.999938, abs=1e-6)
        assert (student.grad != 0).sum(dim=0).max() == 1

    def test_probabilities_keep_their_distance_from_0_and_1(self) -> None:
        logits = torch.tensor([-40.0, 0.0, 40.0])
        assert class_probability(logits, clamp=1e-3).tolist() == pytest.approx([1e-3, 0.5, 1 - 1e-3])
        assert class_probability(logits[:1] / 8, temperature=2.0).item() == pytest.approx(1 / (1 + math.exp(2.5)))
