"""SparseKD's centre heads against the authors' functions where present.

The authors' repository is not part of this project; PERCEPTKD_SPARSEKD_REFERENCE may name a local clone of it.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceptkd.core.bev import batch_boxes, centre_cells, gaussian_mask
from perceptkd.core.distiller import Step
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.sparsekd import SparseKD, class_probability

EXTENT = (-8.0, -8.0, 8.0, 8.0)
WANTED = {
    "center_logit_kd_head.py": ("get_kd_loss_with_raw_prediction",),
    "center_kd_head.py": ("cal_fg_mask_from_target_heatmap_batch",),
    "kd_head.py": ("align_feature_map", "interpolate_feature_map", "sigmoid"),
    "loss_utils.py": ("_reg_loss", "_gather_feat", "_transpose_and_gather_feat", "RegLossCenterNet"),
}
REG = {"reg": 2, "height": 1, "dim": 3, "rot": 2}
BOXES = [
    [(0.3, 0.7, 4.0, 2.0, 0.4), (-5.2, 3.1, 2.0, 1.0, 1.0), (4.4, -6.1, 6.0, 2.5, 2.0)],
    [(2.2, 2.9, 4.0, 2.0, 0.0)],
]


class Options(dict):
    """Read by key or by attribute, as the authors' configs are."""

    __getattr__ = dict.__getitem__


@pytest.fixture
def reference(authors_file: Callable[[str, str], Path]) -> dict[str, Any]:
    """The authors' functions and methods, the latter as functions of (self, ...)."""
    names: dict[str, Any] = {"torch": torch, "nn": nn}
    for file, wanted in WANTED.items():
        path = authors_file("SPARSEKD", file)
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if getattr(node, "name", None) in wanted]
        assert len(nodes) == len(wanted)
        for node in nodes:
            if isinstance(node, ast.FunctionDef):
                node.decorator_list = []
        exec(compile(ast.Module(nodes, []), str(path), "exec"), names)
    names["loss_utils"] = SimpleNamespace(_transpose_and_gather_feat=names["_transpose_and_gather_feat"])
    return names


def head_of(size: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(2, channels, size, size, generator=generator)
        for name, channels in {"heatmap": 3, **REG}.items()
    }


def authors_loss(
    reference: dict, student: dict[str, Tensor], teacher: dict[str, Tensor], step: Step, **options: Any
) -> Tensor:
    """Their loss of one task, with targets of the teacher's grid, of Gaussians that are ours."""
    boxes, sample = batch_boxes(step.data_samples, device=torch.device("cpu"))
    size = teacher["heatmap"].shape[-1]
    gaussian = gaussian_mask(boxes, sample, shape=(2, size, size), extent=EXTENT, overlap=0.1, min_radius=2)
    row, column, _ = centre_cells(boxes, shape=(size, size), extent=EXTENT)
    indices, masks = torch.zeros(2, 2, 5, dtype=torch.long)
    for number in range(2):
        mine = (row * size + column)[sample == number]
        indices[number, : len(mine)], masks[number, : len(mine)] = mine, 1
    align = Options(MODE="interpolate", target="teacher", mode="bilinear", align_corners=True, align_channel=False)
    loss = Options(
        HM_LOSS=Options(type="MSELoss", weight=15.0, thresh=0.0, fg_mask=True, soft_mask=True, rank=-1, **options),
        REG_LOSS=Options(type="RegLossCenterNet", weight=0.2, code_weights=[1.0] * 8),
    )
    predictions = Options({**student, "hm": class_probability(student["heatmap"])})
    this = SimpleNamespace(
        model_cfg=Options(LOGIT_KD=Options(ALIGN=align), KD_LOSS=loss),
        dense_head=SimpleNamespace(
            forward_ret_dict={"pred_dicts": [predictions], "target_dicts": None},
            separate_head_cfg=SimpleNamespace(HEAD_ORDER=list(REG)),
            sigmoid=lambda logits: reference["sigmoid"](None, logits),
        ),
        kd_hm_loss_func=nn.MSELoss(reduction="none"),
        kd_hm_sort_loss_func=None,
        kd_reg_loss_func=reference["RegLossCenterNet"](),
        cal_fg_mask_from_target_heatmap_batch=reference["cal_fg_mask_from_target_heatmap_batch"],
        interpolate_feature_map=reference["interpolate_feature_map"],
        teacher_topk_channel_idx=None,
    )
    this.align_feature_map = lambda *arguments: reference["align_feature_map"](this, *arguments)
    targets = {"heatmaps": [gaussian[:, None]], "inds": [indices], "masks": [masks]}
    return reference["get_kd_loss_with_raw_prediction"](
        this, [Options({**teacher, "hm": teacher["heatmap"]})], loss, target_dict_tea=targets
    )[0]


def ours(student: dict[str, Tensor], teacher: dict[str, Tensor], step: Step, **options: Any) -> Tensor:
    distiller = SparseKD(**{"reg_keys": tuple(REG), **options})
    spec = TapSpec("bbox_head", layout="yx", extent=EXTENT)
    terms = distiller.loss({"response": Tap(spec, [([student],)])}, {"response": Tap(spec, [([teacher],)])}, step)
    return sum(distiller.weight(term, 0.0) * value for term, value in terms.items())


def labelled(make_step: Callable) -> Step:
    step = make_step(BOXES)
    for sample in step.data_samples:
        sample.gt_instances_3d.labels_3d = torch.zeros(len(sample.gt_instances_3d), dtype=torch.long)
    return step


def test_golden_loss_and_gradient(reference: dict, make_step: Callable) -> None:
    student, teacher, step = head_of(16, 0), head_of(16, 1), labelled(make_step)
    student["heatmap"].requires_grad_()
    student["dim"].requires_grad_()
    leaves = [student["heatmap"], student["dim"]]
    expected, found = authors_loss(reference, student, teacher, step), ours(student, teacher, step)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, theirs in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves)):
        assert torch.allclose(mine, theirs, atol=1e-7)
        assert theirs.abs().sum() > 0


def test_golden_student_with_larger_cells(reference: dict, make_step: Callable) -> None:
    """The release leaves regression out by itself."""
    student, teacher, step = head_of(8, 0), head_of(16, 1), labelled(make_step)
    expected = authors_loss(reference, student, teacher, step)
    assert ours(student, teacher, step, reg_keys=()).item() == pytest.approx(expected.item(), rel=1e-5)
