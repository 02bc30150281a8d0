"""SparseKD on mmdet3d's anchor heads: positive anchors, their scores and boxes, and a detector that trains."""

import copy
from typing import Any

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

import perceptkd.registry  # noqa: F401  (makes mmdet3d importable)
from perceptkd.core.distiller import Step
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import GeometryError
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.sparsekd import SparseKD, anchor_box_loss, positive_anchors
from perceptkd.registry import MODELS

SIZES = [[0.8, 0.6, 1.73], [3.9, 1.6, 1.56]]
#: x, y, bottom, length, width, height, yaw: a car and a pedestrian at the centres of anchors.
BOXES = torch.tensor([[2.5, 0.5, -1.78, 3.9, 1.6, 1.56, 0.0], [6.5, -2.5, -0.6, 0.8, 0.6, 1.73, 1.57]])


@pytest.fixture
def head() -> nn.Module:
    """PointPillars' head for two classes on 8 x 8 cells of 1 m, with four anchors each."""
    assigner = {"type": "mmdet3d.Max3DIoUAssigner", "iou_calculator": {"type": "mmdet3d.BboxOverlapsNearest3D"}}
    limits = [{"pos_iou_thr": 0.5, "neg_iou_thr": 0.35, "min_pos_iou": 0.35},
              {"pos_iou_thr": 0.6, "neg_iou_thr": 0.45, "min_pos_iou": 0.45}]  # fmt: skip
    ranges = [[0.5, -3.5, z, 7.5, 3.5, z] for z in (-0.6, -1.78)]
    config = ConfigDict(
        {
            "type": "mmdet3d.Anchor3DHead", "num_classes": 2, "in_channels": 4, "feat_channels": 4,
            "assign_per_class": True, "use_direction_classifier": True,
            "anchor_generator": {
                "type": "mmdet3d.Anchor3DRangeGenerator", "ranges": ranges, "sizes": SIZES, "rotations": [0, 1.57],
                "reshape_out": False,
            },
            "bbox_coder": {"type": "mmdet3d.DeltaXYZWLHRBBoxCoder"},
            "loss_cls": {"type": "mmdet.FocalLoss", "use_sigmoid": True},
            "train_cfg": {
                "assigner": [{**assigner, **each, "ignore_iof_thr": -1} for each in limits], "allowed_border": 0,
                "pos_weight": -1,
            },
        }
    )  # fmt: skip
    return MODELS.build(config)


def step_of(head: nn.Module, *samples: tuple[Tensor, list[int]]) -> Step:
    student = nn.Module()
    student.bbox_head = head
    found = []
    for boxes, labels in samples:
        sample = Det3DDataSample(metainfo={})
        sample.gt_instances_3d = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(boxes), labels_3d=torch.tensor(labels).long()
        )
        found.append(sample)
    return Step(data_samples=found, student_model=student)


def outputs(samples: int, seed: int) -> tuple[list[Tensor], ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple([torch.randn(samples, channels, 8, 8, generator=generator)] for channels in (8, 28, 8))


def taps(value: Any) -> dict[str, Tap]:
    return {"response": Tap(TapSpec("bbox_head"), [value])}


def test_positive_anchors_are_those_of_the_boxes(head: nn.Module) -> None:
    """At its own cell those of its size: of the car in its own turn, of the nearly square pedestrian in both."""
    step = step_of(head, (BOXES, [1, 0]), (BOXES[:0], []), (BOXES[:1], [-1]))
    before = copy.deepcopy(step.data_samples)
    positive = positive_anchors(head, [(8, 8)], step)
    cells = positive.view(3, 8, 8, 2, 2)  # row, column, size, turn
    assert cells[0, 4, 2].tolist() == [[False, False], [True, False]]
    assert cells[0, 1, 6].tolist() == [[True, True], [False, False]]
    assert not positive[1:].any()
    assert 2 <= positive[0].sum() < 20
    for sample, old in zip(step.data_samples, before):  # upstream's assignment writes into what it is given
        assert isinstance(sample.gt_instances_3d.bboxes_3d, LiDARInstance3DBoxes)
        assert torch.equal(sample.gt_instances_3d.bboxes_3d.tensor, old.gt_instances_3d.bboxes_3d.tensor)


def test_against_a_loop_over_anchors(head: nn.Module) -> None:
    step = step_of(head, (BOXES, [1, 0]), (BOXES[:1] + torch.tensor([1.0, 1, 0, 0, 0, 0, 0.1]), [1]), (BOXES[:0], []))
    student, teacher = outputs(3, seed=0), outputs(3, seed=1)
    positive = positive_anchors(head, [(8, 8)], step).view(3, 8, 8, 4)
    cls, reg = 0.0, 0.0
    for sample, row, column, anchor in positive.nonzero().tolist():
        place = sample, slice(2 * anchor, 2 * anchor + 2), row, column
        cls += (student[0][0][place].sigmoid() - teacher[0][0][place].sigmoid()).square().sum()
        place = sample, slice(7 * anchor, 7 * anchor + 7), row, column
        ours, theirs = student[1][0][place].double(), teacher[1][0][place].double()
        first, second = ours.clone(), theirs.clone()
        first[6], second[6] = ours[6].sin() * theirs[6].cos(), ours[6].cos() * theirs[6].sin()
        gap = (first - second).abs()
        reg += torch.where(gap < 1 / 9, 4.5 * gap**2, gap - 1 / 18).sum() / positive[sample].sum() / 3
    terms = SparseKD().loss(taps(student), taps(teacher), step)
    assert positive.sum() > 3
    assert terms["cls"].item() == pytest.approx((cls / positive.sum()).item(), rel=1e-4)
    assert terms["reg"].item() == pytest.approx(float(reg), rel=1e-5)
    assert SparseKD(reg_keys=()).loss(taps(student), taps(teacher), step).keys() == {"cls"}


def test_a_half_turn_of_a_box_costs_nothing() -> None:
    """The direction is another output."""
    code = torch.zeros(1, 7)
    turned = code.clone()
    turned[0, 6] = torch.pi
    assert anchor_box_loss(code, turned).item() < 1e-9


def test_no_positive_anchor_is_a_zero_with_a_gradient(head: nn.Module) -> None:
    student = outputs(2, seed=0)
    for level in (*student[0], *student[1]):
        level.requires_grad_()
    terms = SparseKD().loss(taps(student), taps(outputs(2, seed=1)), step_of(head, (BOXES[:0], []), (BOXES[:0], [])))
    sum(terms.values()).backward()
    assert all(value == 0 for value in terms.values())
    assert not student[0][0].grad.any()
    assert not student[1][0].grad.any()


def test_other_anchors(head: nn.Module) -> None:
    teacher = outputs(2, seed=1)
    teacher[1][0] = teacher[1][0][:, :14]
    with pytest.raises(InputError, match="both need the same anchors on the same grid"):
        SparseKD().loss(taps(outputs(2, seed=0)), taps(teacher), step_of(head, (BOXES, [1, 0]), (BOXES, [1, 0])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [[0.8, 0.6, 1.73], [4.6, 2.0, 1.7]]}, "the anchors differ"),
        ({"rotations": [0, 0.8]}, "the anchors differ"),
    ],
)
def test_other_anchors_of_the_same_number(head: nn.Module, change: dict, message: str) -> None:
    step, teacher = step_of(head, (BOXES, [1, 0])), nn.Module()
    teacher.bbox_head = copy.deepcopy(head)
    step.teacher_models = {"teacher": teacher}
    sides = taps(outputs(1, seed=0)), taps(outputs(1, seed=1))
    SparseKD().loss(*sides, step)
    vars(teacher.bbox_head.prior_generator).update(change)
    with pytest.raises(InputError, match=message):
        SparseKD().loss(*sides, step)


def test_anchors_elsewhere(head: nn.Module) -> None:
    step, specs = step_of(head, (BOXES, [1, 0])), []
    for layout, extent in (
        ("yx", (0.0, -4.0, 8.0, 4.0)),
        ("xy", (0.0, -4.0, 8.0, 4.0)),
        ("yx", (0.0, -5.0, 10.0, 5.0)),
    ):
        specs.append({"response": Tap(TapSpec("bbox_head", layout=layout, extent=extent), [outputs(1, seed=0)])})
    SparseKD().loss(specs[0], specs[0], step)
    for other in specs[1:]:
        with pytest.raises(GeometryError, match="anchors lie as"):
            SparseKD().loss(specs[0], other, step)
    with pytest.raises(InputError, match="leave class_map out"):
        SparseKD(class_map={"Car": ["Car", "Van"]}).loss(specs[0], specs[0], step)


@pytest.mark.parametrize("student", [nn.Linear(1, 1), None])
def test_a_head_without_anchors_to_assign(student: Any) -> None:
    with pytest.raises(InputError, match="must be mmdet3d's Anchor3DHead"):
        SparseKD().loss(
            taps(outputs(1, seed=0)), taps(outputs(1, seed=1)), Step(student_model=student, data_samples=[])
        )


def test_student_learns_it(head: nn.Module) -> None:
    """Sixty steps on the student's own layers bring its scores and boxes to the teacher's."""
    features, teacher = torch.randn(1, 4, 8, 8), outputs(1, seed=1)
    step = step_of(head, (BOXES, [1, 0]))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    totals = []
    for _ in range(60):
        terms = SparseKD().loss(taps(head([features])), taps(teacher), step)
        total = 15 * terms["cls"] + 0.2 * terms["reg"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.3 * totals[0]
