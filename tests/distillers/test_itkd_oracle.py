"""itKD against the authors' modules where present.

The authors' repository is not part of this project; PERCEPTKD_ITKD_REFERENCE may name a local clone of it.
"""

import ast
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptkd.core.bev import batch_boxes, centre_cells
from perceptkd.core.distiller import Step
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.itkd import ItKD

EXTENT = (-5.0, -5.0, 5.0, 5.0)
WANTED = {
    "center_utils.py": ("_gather_feat", "_transpose_and_gather_feat"),
    "losses/centernet_loss.py": ("SSLoss", "AttentionLoss"),
    "kd_models.py": ("TSEncoder",),
}
#: Waymo's heads, which the authors' attention is written for.
REG = {"reg": 2, "height": 1, "dim": 3, "rot": 2}
BOXES = [[(0.5, 0.5, 4.0, 2.0, 0.0), (-3.5, 2.5, 4.0, 2.0, 1.0)], [(3.5, -1.5, 1.0, 1.0, 0.0)]]


@pytest.fixture
def reference(authors_file: Callable[[str, str], Path]) -> dict[str, Any]:
    """The authors' classes and functions, without importing their modules."""
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "math": math}
    for file, wanted in WANTED.items():
        path = authors_file("ITKD", file)
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if getattr(node, "name", None) in wanted]
        assert len(nodes) == len(wanted)
        exec(compile(ast.Module(nodes, []), str(path), "exec"), names)
    return names


@pytest.fixture
def case(make_step: Callable) -> tuple[ItKD, list[dict[str, Tap]], Step, Tensor, Tensor]:
    """Our distiller, taps, step, and the authors' padded indices and masks [B, 500] of objects."""
    torch.manual_seed(0)
    distiller = ItKD(
        student_channels=96, teacher_channels=384, task_classes=[3], reg_keys=tuple(REG), train_mixing=True
    )
    distiller.build_adapters()
    step = make_step(BOXES)
    for sample in step.data_samples:
        sample.gt_instances_3d.labels_3d = torch.zeros(len(sample.gt_instances_3d), dtype=torch.long)
    taps = []
    for channels in (96, 384):
        head = {name: torch.randn(2, count, 10, 10) for name, count in {"heatmap": 3, **REG}.items()}
        values = {"feature": torch.randn(2, channels, 10, 10), "response": ([head],)}
        taps.append({name: Tap(TapSpec(name, layout="yx", extent=EXTENT), [value]) for name, value in values.items()})
    boxes, sample = batch_boxes(step.data_samples, device=torch.device("cpu"))
    row, column, _ = centre_cells(boxes, shape=(10, 10), extent=EXTENT)
    indices, masks = torch.zeros(2, 500, dtype=torch.long), torch.zeros(2, 500)
    for number in range(2):
        mine = (10 * row + column)[sample == number]
        indices[number, : len(mine)], masks[number, : len(mine)] = mine, 1
    return distiller, taps, step, indices, masks


def test_golden_interchange(reference: dict, case: Any) -> None:
    distiller, (student, teacher), step, indices, masks = case
    module = reference["TSEncoder"](384, 96, out_channel=32)
    encoder = distiller.auto_encoder
    for theirs, ours in (
        (module.us_student, encoder.widen), (module.downsample, encoder.compress), (module.upsample, encoder.decompress)
    ):  # fmt: skip
        theirs.load_state_dict(ours.state_dict())
    mine = student["feature"].value.requires_grad_()
    example = {"mask": [masks], "ind": [indices]}
    expected = module(teacher["feature"].value, mine, example)
    terms = distiller.loss(student, teacher, step)
    found = terms["compression"] + terms["interchange"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, mine)[0] for loss in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-8)


def test_golden_head_attention(reference: dict, case: Any) -> None:
    """On equal footing: raw outputs of both sides."""
    distiller, (student, teacher), step, indices, masks = case
    module = reference["AttentionLoss"]()
    module.attn_weight.weight.data = distiller.mixing[0].weight.data[..., None].clone()
    module.attn_weight.bias.data = distiller.mixing[0].bias.data.clone()
    heads = [side["response"].value[0][0] for side in (student, teacher)]
    heads[0]["dim"].requires_grad_()
    stacked = [torch.cat([head[name] for name in ("heatmap", *REG)], dim=1) for head in heads]
    expected = module(*stacked, masks, indices)
    found = distiller.loss(student, teacher, step)["head"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, heads[0]["dim"])[0] for loss in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-7)
    assert gradients[1].abs().sum() > 0
