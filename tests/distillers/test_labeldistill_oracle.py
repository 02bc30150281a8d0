"""LabelDistill against the authors' classes and functions where present.

The authors' repository is not part of this project; PERCEPTKD_LABELDISTILL_REFERENCE may name a local clone of it.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones.resnet import BasicBlock
from mmdet.models.losses import GaussianFocalLoss, L1Loss
from torch import Tensor, nn

from perceptkd.core.distiller import Step
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.labeldistill import LabelDistill, LabelEncoder, draw_labels, feature_loss

EXTENT = (-8.0, -8.0, 8.0, 8.0)  # 16 x 16 cells of 1 m
BOXES = [[(3.2, 2.1, 4.6, 2.0, 0.5), (-4.0, 5.0, 3.0, 1.5, 1.0)], [(0.3, -3.0, 4.6, 2.0, 0.1)]]
OPTIONS = {"student_channels": (12, 7), "teacher_channels": (5, 6), "num_classes": 3, "hidden_channels": 8}
HEADS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}


def head_of(bev_map: Tensor) -> tuple:
    """Outputs of two tasks with 1 and 2 classes, each a fixed mix of the channels of a map."""
    return tuple(
        [{name: bev_map[:, :1].expand(-1, size, -1, -1) * (task + 1.5) for name, size in sizes.items()}]
        for task, sizes in enumerate(({"heatmap": 1, **HEADS}, {"heatmap": 2, **HEADS}))
    )


def taps_of(fine: Tensor, coarse: Tensor) -> dict[str, Tap]:
    values = {"fine": fine, "coarse": coarse, "response": head_of(fine)}
    return {name: Tap(TapSpec(name, layout="yx", extent=EXTENT), [value]) for name, value in values.items()}


@pytest.fixture(scope="module")
def reference(authors_file: Callable[[str, str], Path]) -> dict[str, Any]:
    """The authors' classes and methods, without importing their modules; on the CPU, for one process."""
    wanted = {
        "label_backbone.py": ("Mlp", "LabelBackbone"),
        "adaptor.py": ("DistillAdaptor",),
        "kd_head.py": ("response_loss",),
        "bev_mask.py": ("gen_labelinput",),
        "LabelDistill_r50_128x128_e24_4key.py": ("get_feature_distill_loss",),
    }
    names = {"torch": torch, "nn": nn, "F": F, "BasicBlock": BasicBlock, "reduce_mean": lambda value: value}
    names |= {"np": np, "one_hot": F.one_hot, "polygon": pytest.importorskip("skimage.draw").polygon}
    names["clip_sigmoid"] = lambda logits: logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    for file, parts in wanted.items():
        path = authors_file("LABELDISTILL", file)
        nodes = list(ast.walk(ast.parse(path.read_text().replace("'cuda'", "'cpu'"))))
        found = [node for node in nodes if getattr(node, "name", None) in parts]
        assert len(found) == len(parts)
        exec(compile(ast.Module(found, []), str(path), "exec"), names)
    return names


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """In the order of registration; the layer norms per cell, which are ones and zeros, have no counterpart."""
    for theirs, ours in zip(source.parameters(), target.parameters(), strict=True):
        if theirs.shape == ours.shape:
            ours.data.copy_(theirs.data)


def test_golden_encoder_and_adapter(reference: dict) -> None:
    torch.manual_seed(0)
    theirs = reference["LabelBackbone"](3, 9, 8, out_features=[5, 6], stride=[1, 2], feature_size=16)
    ours = LabelEncoder(3, (5, 6), 8)
    copy_parameters(theirs, ours)
    boxes, labels = torch.randn(2, 16, 16, 9), torch.randn(2, 16, 16, 3)
    for first, second in zip(ours(torch.cat((boxes, labels), dim=-1)), theirs(boxes, labels, None), strict=True):
        assert torch.allclose(first, second, atol=1e-5)
    adapter = reference["DistillAdaptor"]([4, 2], [5, 6], [1, 1])
    for level, block in zip(("fine", "coarse"), adapter.blocks):
        mine = LabelDistill(**OPTIONS).thirds[f"label_{level}"]
        copy_parameters(block, mine)
        features = torch.randn(2, block[0].in_channels, 8, 8)
        assert torch.allclose(mine(features), block(features), atol=1e-5)


@pytest.mark.parametrize("yaw", [0.0, 0.6, -2.2])
def test_golden_drawing(reference: dict, yaw: float) -> None:
    """The same rectangle, of half the length and width, up to the rounding of its corners."""
    box = torch.tensor([1.3, -0.8, 0.0, 12.0, 6.0, 1.5, yaw, 0.0, 0.0])
    length, width = box[3:5] / 0.25  # cells of 0.25 m, 64 x 64
    empty = np.zeros((64, 64)), torch.zeros(64, 64, 9), torch.zeros(64, 64, 10)
    theirs, _, _ = reference["gen_labelinput"](*empty, (box[:2] + 8) / 0.25, length, width, box, torch.tensor(2))
    bev, index = box[[0, 1, 3, 4, 6]][None], torch.tensor([0])
    ours = draw_labels(bev, torch.ones(1, 1), index, shape=(1, 64, 64), extent=EXTENT, fill=0.5)[0, ..., 0].numpy()
    assert (ours * theirs).sum() / np.maximum(ours, theirs).sum() > 0.85


@pytest.mark.parametrize("binary", [False, True])
def test_golden_features(reference: dict, binary: bool) -> None:
    """One level: the authors' mask of the second one is shifted."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 16, 16)
    heatmaps = [torch.rand(2, 1, 16, 16).where(torch.rand(2, 1, 16, 16) > 0.8, 0.0) for _ in range(2)]
    expected = reference["get_feature_distill_loss"](None, [teacher], [student], heatmaps, binary_mask=binary)
    weight = sum(heatmaps)[:, 0]
    weight = (weight > 0).float() if binary else weight
    ours = feature_loss(student, teacher, weight, total_weight=weight.sum())
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_golden_response(reference: dict, make_step: Callable[..., Step], label_teacher: nn.Module) -> None:
    torch.manual_seed(0)
    student, teacher = (
        [torch.randn(2, fine, 16, 16), torch.randn(2, coarse, 8, 8)] for fine, coarse in ((12, 7), (5, 6))
    )
    step = make_step(BOXES)
    step.teacher_models = {"teacher": label_teacher}
    for sample, classes in zip(step.data_samples, ([0, 2], [1])):
        sample.gt_instances_3d.labels_3d = torch.tensor(classes)
    model = label_teacher
    terms = LabelDistill(**OPTIONS).loss(taps_of(*student), taps_of(*teacher), step)
    heatmaps, boxes, indices, masks = [], [], [], []
    for target in model.bbox_head.get_targets([sample.gt_instances_3d for sample in step.data_samples]):
        heatmaps.append(target.heatmap)
        boxes.append(torch.zeros(2, 4, 10))
        index, mask = torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4, dtype=torch.uint8)
        for number, (sample, row, column) in enumerate(zip(target.sample, target.row, target.column)):
            index[sample, number], mask[sample, number] = row * 16 + column, 1
        indices.append(index)
        masks.append(mask)
    head = SimpleNamespace(
        loss_cls=GaussianFocalLoss(reduction="mean"),
        loss_bbox=L1Loss(reduction="mean", loss_weight=0.25),
        train_cfg={"code_weights": [1.0] * 10},
        _gather_feat=model.bbox_head._gather_feat,
    )
    predictions = [[[dict(task[0])] for task in head_of(side)] for side in (student[0], teacher[0])]
    _, expected = reference["response_loss"](head, (heatmaps, boxes, indices, masks), *predictions)
    ours = terms["response_cls"] + 0.25 * terms["response_reg"]
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
