"""LabelDistill: worked numbers, float64 loops after the formulas, and properties."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.losses import GaussianFocalLoss
from torch import Tensor, nn

from perceptkd.core.distiller import Step
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import GeometryError
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.labeldistill import (
    LabelDistill,
    LabelEncoder,
    box_loss,
    draw_labels,
    feature_loss,
    soft_focal_loss,
)
from perceptkd.registry import DISTILLERS

Make = Callable[..., Any]
EXTENT = (-8.0, -8.0, 8.0, 8.0)  # 16 x 16 cells of 1 m
BOXES = [[(3.2, 2.1, 4.6, 2.0, 0.5), (-4.0, 5.0, 3.0, 1.5, 1.0)], [(0.3, -3.0, 4.6, 2.0, 0.1)]]
LABELS = [[0, 2], [1]]
OPTIONS = {"student_channels": (12, 7), "teacher_channels": (5, 6), "num_classes": 3, "hidden_channels": 8}
HEADS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
TERMS = {"encoder", "label", "lidar", "response_cls", "response_reg"}


def head_of(bev_map: Tensor) -> tuple:
    """Outputs of the two tasks, each a fixed mix of the channels of a map."""
    return tuple(
        [{name: bev_map[:, :1].expand(-1, channels, -1, -1) * (task + 1.5) for name, channels in sizes.items()}]
        for task, sizes in enumerate(({"heatmap": 1, **HEADS}, {"heatmap": 2, **HEADS}))
    )


def taps_of(fine: Tensor, coarse: Tensor, response: Any = None, *, extent: Any = EXTENT) -> dict[str, Tap]:
    values = {"fine": fine, "coarse": coarse, "response": head_of(fine) if response is None else response}
    return {name: Tap(TapSpec(name, layout="yx", extent=extent), [value]) for name, value in values.items()}


@pytest.fixture
def sides() -> tuple[list[Tensor], list[Tensor]]:
    """Maps (fine, coarse) of student and teacher for two samples."""
    torch.manual_seed(0)
    student = [torch.randn(2, 12, 16, 16), torch.randn(2, 7, 8, 8)]
    teacher = [torch.randn(2, 5, 16, 16).relu(), torch.randn(2, 6, 8, 8).relu()]
    return [side.requires_grad_() for side in student], [side.requires_grad_() for side in teacher]


@pytest.fixture
def labelled(make_step: Make, label_teacher: nn.Module) -> Callable[..., Step]:
    """labelled(boxes, labels) -> a step with a teacher that can decode."""

    def make(boxes: Sequence = BOXES, labels: Sequence = LABELS) -> Step:
        step = make_step(boxes)
        step.teacher_models = {"teacher": label_teacher}
        for sample, classes in zip(step.data_samples, labels):
            sample.gt_instances_3d.labels_3d = torch.tensor(classes, dtype=torch.long)
        return step

    return make


def drawn(boxes: Sequence, *, samples: Sequence[int], fill: float = 1.0, batch_size: int = 1) -> Tensor:
    """Number of the box in each cell, from 1 on [B, 16, 16]."""
    tensor = torch.tensor(boxes).reshape(-1, 5)
    numbers = torch.arange(1.0, len(tensor) + 1)[:, None]
    shape = (batch_size, 16, 16)
    return draw_labels(tensor, numbers, torch.tensor(samples), shape=shape, extent=EXTENT, fill=fill)[..., 0]


class TestDrawing:
    def test_fills_the_cells_with_their_centre_inside(self) -> None:
        """4 x 2 m around (2, 1): x from 0 to 4 m, y from 0 to 2 m."""
        expected = torch.zeros(16, 16)
        expected[8:10, 8:12] = 1
        assert torch.equal(drawn([(2.0, 1.0, 4.0, 2.0, 0.0)], samples=[0])[0], expected)
        turned = drawn([(2.0, 1.0, 2.0, 4.0, math.pi / 2)], samples=[0])[0]
        assert torch.equal(turned, expected)

    def test_fill_scales_the_box(self) -> None:
        expected = torch.zeros(16, 16)
        expected[8:10, 9:11] = 1
        assert torch.equal(drawn([(2.0, 1.0, 4.0, 4.0, 0.0)], samples=[0], fill=0.5)[0], expected)

    def test_a_small_box_has_the_cell_of_its_centre(self) -> None:
        cells = drawn([(2.9, -3.9, 0.2, 0.2, 0.3), (1.0, 1.0, 0.2, 0.2, 0.0)], samples=[0, 0])[0].nonzero().tolist()
        assert cells == [[4, 10], [9, 9]]

    def test_the_last_box_stays_and_samples_are_apart(self) -> None:
        box = (2.0, 1.0, 2.0, 2.0, 0.0)
        first, second = drawn([box, box, box, (30.0, 0.0, 4.0, 2.0, 0.0)], samples=[0, 0, 1, 1], batch_size=2)
        assert first.unique().tolist() == [0, 2]
        assert second.unique().tolist() == [0, 3]

    def test_agrees_with_a_loop(self) -> None:
        rng = np.random.default_rng(0)
        boxes = np.concatenate([rng.uniform(-9, 9, (6, 2)), rng.uniform(1, 7, (6, 2)), rng.uniform(-4, 4, (6, 1))], 1)
        expected = np.zeros((16, 16))
        for number, (x, y, length, width, yaw) in enumerate(boxes, start=1):
            for row in range(16):
                for column in range(16):
                    a, b = column - 7.5 - x, row - 7.5 - y
                    along, across = math.cos(yaw) * a + math.sin(yaw) * b, math.cos(yaw) * b - math.sin(yaw) * a
                    own = math.floor(x + 8) == column and math.floor(y + 8) == row
                    if own or (abs(along) <= 0.4 * length and abs(across) <= 0.4 * width):
                        expected[row, column] = number
        assert drawn(boxes.tolist(), samples=[0] * 6, fill=0.8)[0].tolist() == expected.tolist()


class TestLosses:
    def test_feature_worked_example(self) -> None:
        """Two cells with squared distances 1 + 4 and 9 + 0, weights 1 and 0.5, over a total weight of 2."""
        student = torch.tensor([[1.0, 3.0], [2.0, 0.0]]).view(1, 2, 1, 2).requires_grad_()
        teacher = torch.zeros(1, 2, 1, 2, requires_grad=True)
        weight, total = torch.tensor([[[1.0, 0.5]]]), torch.tensor(2.0)
        loss = feature_loss(student, teacher, weight, total_weight=total)
        assert loss.item() == pytest.approx((5 + 4.5) / 2)
        loss.backward()
        assert student.grad.flatten().tolist() == pytest.approx([1.0, 1.5, 2.0, 0.0])
        assert teacher.grad is None

    def test_soft_focal_worked_example(self) -> None:
        """p = 1/2: (1 - q g)^4 log(2) / 4, with q = 1/2 and g = 1, 1/2 and 0, over two peaks."""
        logits = torch.zeros(1, 1, 1, 3, requires_grad=True)
        gaussian = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3)
        loss = soft_focal_loss(logits, torch.zeros(1, 1, 1, 3), gaussian, num_peaks=torch.tensor(2.0))
        assert loss.item() == pytest.approx((0.5**4 + 0.75**4 + 1) * math.log(2) / 4 / 2)
        loss.backward()
        assert (logits.grad > 0).all()

    def test_soft_focal_is_mmdets_loss_on_soft_targets(self) -> None:
        torch.manual_seed(0)
        student, teacher, gaussian = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
        target = teacher.sigmoid() * gaussian
        expected = GaussianFocalLoss(reduction="mean")(student.sigmoid(), target, avg_factor=3.0)
        ours = soft_focal_loss(student, teacher, gaussian, num_peaks=torch.tensor(3.0))
        assert ours.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_boxes_worked_example(self) -> None:
        student = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
        assert box_loss(student, torch.zeros(2, 2), num_boxes=torch.tensor(2.0)).item() == pytest.approx(3.0)
        assert box_loss(student[:0], student[:0], num_boxes=torch.tensor(0.0)) == 0


class TestMethod:
    def test_builds_with_the_published_options(self) -> None:
        method = DISTILLERS.build(
            {"type": "perceptkd.LabelDistill", "student_channels": (150, 300), "teacher_channels": (128, 256)}
        )
        assert method.weights == {
            "encoder": 1.0, "label": 0.3, "lidar": 0.3, "response_cls": 1.0, "response_reg": 0.25,
        }  # fmt: skip
        assert [method.thirds[f"lidar_{level}"][0].in_channels for level in ("fine", "coarse")] == [50, 100]
        assert [level[0].out_channels for level in method.encoder.levels] == [128, 256]
        assert method.encoder.mix[0].in_features == 256

    def test_encoder_makes_maps_like_the_backbone(self) -> None:
        first, second = LabelEncoder(3, (5, 6), 8)(torch.randn(2, 16, 16, 12))
        assert first.shape == (2, 5, 16, 16)
        assert second.shape == (2, 6, 8, 8)

    def test_terms_reach_what_they_should(self, sides: tuple, labelled: Make) -> None:
        (fine, coarse), teacher = sides
        method, step = LabelDistill(**OPTIONS), labelled()
        terms = method.loss(taps_of(fine, coarse), taps_of(*teacher), step)
        assert set(terms) == TERMS
        adapters = {term: method.thirds[f"{term}_fine"][0].weight for term in ("label", "lidar")}
        sources = [fine, coarse, *adapters.values(), method.encoder.box[0].weight, *teacher]
        reached = {}
        for term, value in terms.items():
            assert value.shape == ()
            assert value > 0.01
            found = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
            reached[term] = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in found]
        assert reached == {
            "encoder": [False, False, False, False, True, False, False],
            "label": [True, True, True, False, False, False, False],
            "lidar": [True, True, False, True, False, False, False],
            "response_cls": [True, False, False, False, False, False, False],
            "response_reg": [True, False, False, False, False, False, False],
        }
        assert all(not parameter.requires_grad for parameter in step.teacher_models["teacher"].parameters())

    def test_channels_are_partitioned(self, sides: tuple, labelled: Make) -> None:
        """12 channels: 0-3 labels, 4-7 LiDAR. 7 channels: 0-1 and 2-3. The rest is the images' own."""
        (fine, coarse), teacher = sides
        terms = LabelDistill(**OPTIONS).loss(taps_of(fine, coarse), taps_of(*teacher), labelled())
        for term, own in (("label", (range(4), range(2))), ("lidar", (range(4, 8), range(2, 4)))):
            gradients = torch.autograd.grad(terms[term], (fine, coarse), retain_graph=True)
            for gradient, channels in zip(gradients, own):
                assert gradient.abs().amax(dim=(0, 2, 3)).nonzero().flatten().tolist() == list(channels)

    def test_features_count_near_annotated_boxes_alone(self, sides: tuple, labelled: Make) -> None:
        """A teacher that differs where the heatmap is zero changes nothing; on the peak it does."""
        student, (fine, coarse) = sides
        method, step = LabelDistill(**OPTIONS).eval(), labelled([[(3.5, 2.5, 2.0, 1.0, 0.0)], []], [[0], []])
        expected = method.loss(taps_of(*student), taps_of(fine, coarse), step)["lidar"]
        for (row, column), same in (((2, 2), True), ((10, 11), False)):
            changed = fine.detach().clone()
            changed[0, :, row, column] += 3.0
            lidar = method.loss(taps_of(*student), taps_of(changed, coarse, head_of(fine)), step)["lidar"]
            assert bool(lidar == expected) is same

    def test_masks_are_the_heatmap_and_where_it_is_positive(self, sides: tuple, labelled: Make) -> None:
        """Both feature terms once more, cell by cell in float64."""
        student, teacher = sides
        method, step = LabelDistill(**OPTIONS).eval(), labelled()
        head = step.teacher_models["teacher"].bbox_head
        targets = head.get_targets([sample.gt_instances_3d for sample in step.data_samples])
        heat = sum(target.heatmap.double().sum(dim=1) for target in targets)
        masks = [heat, heat.view(2, 8, 2, 8, 2).mean(dim=(2, 4))]
        label_maps = method.encoder(method._draw(taps_of(*teacher)["fine"], step))
        expected = {"label": 0.0, "lidar": 0.0}
        for level, mask, side, theirs, labels in zip(("fine", "coarse"), masks, student, teacher, label_maps):
            third = side.shape[1] // 3
            for term, part, target, weight in (
                ("label", side[:, :third], labels, (mask > 0).double()),
                ("lidar", side[:, third : 2 * third], theirs, mask),
            ):
                adapted = method.thirds[f"{term}_{level}"](part)
                distance = (adapted.double() - target.double()).square().sum(dim=1)
                expected[term] += (distance * weight).sum().item() / weight.sum().item()
        terms = method.loss(taps_of(*student), taps_of(*teacher), step)
        assert {term: terms[term].item() for term in expected} == pytest.approx(expected, rel=1e-5)

    def test_the_encoder_reads_nine_values_and_the_class(self, sides: tuple, labelled: Make) -> None:
        """The gravity centre, not that of the bottom, in the cells of half the length and width."""
        student, teacher = sides
        step = labelled([[(2.0, 1.0, 4.0, 4.0, 0.0)], [(-3.5, -2.5, 0.6, 0.8, 0.3)]], [[2], [0]])
        for number, sample in enumerate(step.data_samples, start=1):
            sample.gt_instances_3d.bboxes_3d.tensor[:, 7:] = torch.tensor([3.0, -1.0]) * number
        drawn = []
        method = LabelDistill(**OPTIONS)
        method.encoder.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0]))
        method.loss(taps_of(*student), taps_of(*teacher), step)
        expected = torch.zeros(2, 16, 16, 12)
        bottom, height = -1.0, 1.5
        expected[0, 8:10, 9:11] = torch.tensor(
            [2.0, 1.0, bottom + height / 2, 4.0, 4.0, height, 0.0, 3.0, -1.0, 0.0, 0.0, 1.0]
        )
        expected[1, 5, 4] = torch.tensor(
            [-3.5, -2.5, bottom + height / 2, 0.6, 0.8, height, 0.3, 6.0, -2.0, 1.0, 0.0, 0.0]
        )
        torch.testing.assert_close(drawn[0], expected)

    def test_response_at_the_annotated_centres(self, sides: tuple, labelled: Make) -> None:
        """Task 0 has a box at cell (10, 11), task 1 those at (13, 4) and (5, 8); its outputs are 1.5 and 2.5 x."""
        (fine, coarse), teacher = sides
        terms = LabelDistill(**OPTIONS).loss(taps_of(fine, coarse), taps_of(*teacher), labelled())
        gap = (fine[:, 0] - teacher[0][:, 0]).abs()
        expected = 10 * (1.5 * gap[0, 10, 11] / 1 + 2.5 * (gap[0, 13, 4] + gap[1, 5, 8]) / 2)
        assert terms["response_reg"].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_encoder_learns_to_invert_the_frozen_head(self, sides: tuple, labelled: Make) -> None:
        """The head is trained on maps of another encoder first: a random one has no inverse."""
        student, teacher = sides
        step = labelled()
        model = step.teacher_models["teacher"]

        def train(method: LabelDistill, parameters: list[nn.Parameter]) -> list[float]:
            optimizer = torch.optim.Adam(parameters, lr=1e-2)
            losses = []
            for _ in range(50):
                loss = method.loss(taps_of(*student), taps_of(*teacher), step)["encoder"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            return losses

        first, second = (LabelDistill(**OPTIONS, fill=1.0) for _ in range(2))
        fitted = train(first, [*first.encoder.parameters(), *model.requires_grad_(True).parameters()])
        model.requires_grad_(False)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        losses = train(second, list(second.encoder.parameters()))
        assert losses[-1] < 0.5 * losses[0]
        assert losses[-1] < 2 * fitted[-1]
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_a_batch_without_boxes(self, sides: tuple, labelled: Make) -> None:
        student, teacher = sides
        method = LabelDistill(**OPTIONS)
        terms = method.loss(taps_of(*student), taps_of(*teacher), labelled([[], []], [[], []]))
        for term, value in terms.items():
            assert value.isfinite()
            assert bool(value == 0) is (term not in method.background_terms)
        (terms["label"] + terms["lidar"] + terms["response_reg"]).backward()
        assert all(side.grad.abs().max() == 0 for side in student)
        assert all(parameter.grad.abs().max() == 0 for parameter in method.thirds.parameters())

    def test_boxes_without_a_class_are_left_out(self, sides: tuple, labelled: Make) -> None:
        student, teacher = sides
        method = LabelDistill(**OPTIONS).eval()
        steps = labelled([[*BOXES[0], (0.0, 0.0, 4.0, 2.0, 0.0)], BOXES[1]], [[*LABELS[0], -1], LABELS[1]]), labelled()
        with_it, without = (method.loss(taps_of(*student), taps_of(*teacher), step) for step in steps)
        assert {term: value.item() for term, value in with_it.items()} == {
            term: pytest.approx(value.item()) for term, value in without.items()
        }

    def test_maps_of_another_layout_mean_the_same(self, sides: tuple, labelled: Make) -> None:
        (fine, coarse), teacher = sides
        method, step = LabelDistill(**OPTIONS).eval(), labelled()
        expected = method.loss(taps_of(fine, coarse), taps_of(*teacher), step)
        values = {"fine": fine.mT, "coarse": coarse.mT, "response": head_of(fine.mT)}
        turned = {name: Tap(TapSpec(name, layout="xy", extent=EXTENT), [value]) for name, value in values.items()}
        terms = method.loss(turned, taps_of(*teacher), step)
        assert {term: value.item() for term, value in terms.items()} == {
            term: pytest.approx(value.item(), rel=1e-5) for term, value in expected.items()
        }

    def test_what_it_cannot_use_is_named(self, sides: tuple, labelled: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        student, teacher = sides
        step = labelled()
        with pytest.raises(ValueError, match=r"BEVDetector that runs, not a cached one"):
            LabelDistill(**OPTIONS).loss(taps_of(*student), taps_of(*teacher), Step(data_samples=step.data_samples))
        other = step.teacher_models["teacher"]
        with monkeypatch.context() as patch:
            patch.setattr(other.bbox_head, "get_targets", lambda truth: [object()])
            with pytest.raises(ValueError, match="head must have CenterPoint's targets"):
                LabelDistill(**OPTIONS).loss(taps_of(*student), taps_of(*teacher), step)
        for wrong in ({"student_channels": (9, 7)}, {"teacher_channels": (5, 8)}):
            with pytest.raises(ValueError, match=r"is \(.*look at student_channels and teacher_channels"):
                LabelDistill(**{**OPTIONS, **wrong}).loss(taps_of(*student), taps_of(*teacher), step)
        half = [side[..., ::2, ::2] for side in student]
        with pytest.raises(ValueError, match=r"'fine' is \(12, 8, 8\) in the student, \(5, 16, 16\) in the teacher"):
            LabelDistill(**OPTIONS).loss(taps_of(*half), taps_of(*teacher), step)
        with pytest.raises(ValueError, match=r"equal tasks, classes and grids"):
            LabelDistill(**OPTIONS).loss(taps_of(*student, head_of(student[0])[:1]), taps_of(*teacher), step)
        with pytest.raises(InputError, match="num_classes=1, but a box has the label"):
            LabelDistill(**{**OPTIONS, "num_classes": 1}).loss(taps_of(*student), taps_of(*teacher), step)
        with pytest.raises(GeometryError):
            LabelDistill(**OPTIONS).loss(taps_of(*student, extent=(-9.0, -9.0, 9.0, 9.0)), taps_of(*teacher), step)

    @pytest.mark.parametrize(
        "options",
        [{"student_channels": (12,)}, {"student_channels": (12, 2)}, {"teacher_channels": (5,)}, {"eps": 1e-8}],
    )
    def test_wrong_options_raise(self, options: dict) -> None:
        with pytest.raises(ValueError, match="LabelDistill"):
            LabelDistill(**{**OPTIONS, **options})
