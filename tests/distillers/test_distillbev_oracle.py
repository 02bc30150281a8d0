"""DistillBEV against the authors' functions where present.

The authors' repository is not part of this project; PERCEPTKD_DISTILLBEV_REFERENCE may name a local clone of it.
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
from torch import Tensor, nn

from perceptkd.core.bev import gaussian_mask
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.distillbev import DistillBEV

EXTENT = (-25.6, -25.6, 25.6, 25.6)
CRITERIA = {"feat_criterion": "MSELoss", "spatial_criterion": "L1Loss", "channel_criterion": "L1Loss"}
GRID = {
    "grid_size": [512, 512, 40],
    "voxel_size": [0.1, 0.1, 0.2],
    "point_cloud_range": [-25.6, -25.6, -5, 25.6, 25.6, 3],
}
SCRIPT = {
    "spatial_t": 0.5,
    "spatial_student_ratio": 1.0,
    "channel_t": 1e6,  # 0.5 in the script: makes the channel attention 1, which the release leaves in one term
    "spatial_attentions": ["teacher_student"],
    "foreground_mask": "gt",
    "background_mask": "logical_not",
    "scale_mask": "combine_gt",
    "transpose_mask": False,
    "spatial_mask": True,
    "channel_mask": False,
    "context_length": 0,
    "context_weight": 0,
    "non_empty_weight": 0,
    "fp_as_foreground": ["teacher"],
    "output_threshold": 0.1,
    "groundtruth_threshold": None,
    "fp_weight": 1.0,
    "fp_epoch": 0,
    "fp_scale_mode": "average",
    "affinity_mode": ["none"],
}


def taps(**values: Any) -> dict[str, Tap]:
    return {alias: Tap(TapSpec(alias, layout="yx", extent=EXTENT), [value]) for alias, value in values.items()}


@pytest.fixture(scope="module")
def reference(authors_file: Callable[[str, str], Path]) -> Callable[..., dict]:
    """The authors' ``fgd_distill_loss`` for one level, loaded from a local clone without importing its modules."""
    from mmdet3d.models.utils import clip_sigmoid
    from mmdet3d.structures.ops import box_np_ops
    from mmdet3d.structures.points import LiDARPoints

    path = authors_file("DISTILLBEV", "bevdet_distill.py")
    wanted = {"foreground_scale_mask", "add_fp_as_fg", "fgd_distill_loss"}
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    methods = [node for node in nodes if node.name in wanted]
    assert {node.name for node in methods} == wanted
    names = {"torch": torch, "np": np, "F": F, "LiDARPoints": LiDARPoints, "box_np_ops": box_np_ops}
    names |= {"clip_sigmoid": clip_sigmoid, "deepcopy": lambda value: value.copy()}
    names["build_loss"] = lambda config: getattr(nn, config["type"])(reduction=config["reduction"])
    exec(compile(ast.Module(methods, []), str(path), "exec"), names)

    def run(student: Tensor, teacher: Tensor, logits: Tensor, target: Tensor, boxes: list) -> dict:
        """With the options of the script centerpoint2bevdepth.sh, all weights 1, for its last level."""
        losses = {name: {"type": kind, "reduction": "none"} for name, kind in CRITERIA.items()}
        weights = {f"{name}_loss_weights": [1.0] for name in ("fg_feat", "bg_feat", "channel", "spatial")}
        detector = SimpleNamespace(
            distill_params={**SCRIPT, **losses, **weights},
            pts_bbox_head=SimpleNamespace(train_cfg=GRID),
            teacher_adaptations=[nn.Identity()],
            channel_wise_adaptations=[nn.Identity()],
            spatial_wise_adaptations=[nn.Identity()],
            _epoch=1,
        )
        for name in wanted:
            setattr(detector, name, names[name].__get__(detector))
        heads = [[{"heatmap": logits.clone()}]]  # it takes the sigmoid in place
        canvas = torch.ones(len(student), 1, *student.shape[2:])
        return detector.fgd_distill_loss(teacher, student, boxes, None, canvas, [target[:, None]], heads, heads, 0)

    return run


@pytest.mark.parametrize("seed", range(2))
def test_golden_terms(reference: Callable, make_step: Callable, seed: int) -> None:
    """Boxes that do not overlap, on 64 x 64 cells of 0.8 m; the release's cells are half a cell further."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.cartesian_prod(torch.arange(-18.0, 19, 12), torch.arange(-18.0, 19, 12))
    samples = []
    for count in (16, 5):
        centre = places[:count] + 2 * torch.rand(count, 2, generator=generator)
        size, yaw = 1 + 7 * torch.rand(count, 2, generator=generator), 6 * torch.rand(count, 1, generator=generator)
        samples.append(torch.cat((centre, size, yaw), dim=1))
    student, teacher = torch.randn(2, 2, 8, 64, 64, generator=generator)
    logits = torch.randn(2, 3, 64, 64, generator=generator) - 4
    index = torch.tensor([0] * 16 + [1] * 5)
    target = gaussian_mask(torch.cat(samples), index, shape=(2, 64, 64), extent=EXTENT, overlap=0.1, min_radius=2)
    step = make_step([boxes.tolist() for boxes in samples])
    shift = torch.tensor([0.4, 0.4, 0, 0, 0])
    shifted = make_step([(boxes - shift).tolist() for boxes in samples])
    truth = [sample.gt_instances_3d.bboxes_3d for sample in shifted.data_samples]
    expected = reference(student, teacher, logits, target, truth)
    method = DistillBEV(levels=("neck",))
    nn.init.dirac_(method.attention_convs["neck"].weight)
    nn.init.zeros_(method.attention_convs["neck"].bias)
    terms = method.loss(taps(neck=student), taps(neck=teacher, response=([{"heatmap": logits}],)), step)
    names = ("kd_fg_feat_loss", "kd_fp_bg_feat_loss", "kd_bg_feat_loss", "kd_spatial_loss")
    assert {term: value.item() for term, value in terms.items()} == pytest.approx(
        {term: float(expected[name]) for term, name in zip(method.weights, names)}, rel=1e-4
    )
