"""One of the two processes of test_distributed.py: every method on this rank's samples, and on all of them alone.

Usage: ddp_worker.py RANK FOLDER
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
import conftest

import perceptkd.distillers  # noqa: F401  (registers the methods)
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.engine.distributed import leave_processes
from perceptkd.models.bev.geometry import build_frustum
from perceptkd.registry import DISTILLERS

#: Samples of each rank; as many on both would hide what is averaged over samples.
RANKS = ([0], [1, 2])
EXTENT = (-8.0, -8.0, 8.0, 8.0)  # 16 x 16 cells of 1 m
IMAGE = (64, 128)
#: Boxes of the samples. There are many, since methods add an eps of up to 1e-4 to their counts.
CASES = {"unequal": (11, 30, 9), "one rank without boxes": (0, 30, 9)}
OPTIONS = {
    "ItKD": {"student_channels": 6, "teacher_channels": 6, "task_classes": [1, 2]},
    "LabelDistill": {"student_channels": (5, 6), "teacher_channels": (5, 6), "num_classes": 3, "hidden_channels": 8},
    "PVD": {"minority_classes": [2], "supervoxel_size": (4, 4, 1), "num_supervoxels": 16, "num_points": 99,
            "num_voxels": 16},
    "PointDistiller": {"on": "maps", "student_channels": 6, "teacher_channels": 6, "num_samples": 20, "k": 5},
}  # fmt: skip


class Scene:
    """The samples: boxes, points, cameras, and raw maps of student and teacher."""

    def __init__(self, boxes: Sequence[int]) -> None:
        from mmdet3d.structures import PointData

        torch.manual_seed(0)
        self.samples = [conftest.make_sample(count, IMAGE, 7.0) for count in boxes]
        for sample in self.samples:
            sample.gt_instances_3d.labels_3d %= 3
        self.points = [conftest.make_points(sample, 7.0, 400) for sample in self.samples]
        for sample, points in zip(self.samples, self.points):
            cell = (points[:, :2] + 8).floor().long()
            inside = ((cell >= 0) & (cell < 16)).all(dim=1)
            sample.point2voxel_map = torch.where(inside, cell[:, 1] * 16 + cell[:, 0], -1)
            sample.gt_pts_seg = PointData(pts_semantic_mask=torch.randint(3, (len(points),)))
            sample.gt_pts_seg.voxel_semantic_mask = torch.randint(3, (16 * 16,))
        self.student, self.teacher = torch.randn(2, len(boxes), 6, 16, 16)
        self.camera = nn.Module()
        self.camera.camera_encoder = nn.Module()
        self.camera.camera_encoder.view_transform = nn.Module()
        frustum = build_frustum(IMAGE, (8, 16), depth_bins_m=torch.arange(2.0, 18.0, 0.8))
        self.camera.camera_encoder.view_transform.register_buffer("frustum", frustum)
        self.depth = torch.randn(len(boxes), 6, len(frustum), 8, 16)

    def step(self, chosen: Sequence[int]) -> Step:
        return Step(
            batch={"inputs": {"points": [self.points[i] for i in chosen]}},
            data_samples=[self.samples[i] for i in chosen],
            student_model=self.camera,
            teacher_models={"teacher": conftest.build_label_teacher()},
        )


def values_by_alias(bev_map: Tensor) -> dict[str, Any]:
    """What every method taps, all made of one map [B, 6, 16, 16]."""
    half = F.avg_pool2d(bev_map, 2)
    names = {"reg": (3, 5), "height": (5, 6), "dim": (3, 6), "rot": (2, 4), "vel": (4, 6)}
    regression = {name: bev_map[:, first:last] for name, (first, last) in names.items()}
    heatmaps = (bev_map[:, :1] - 3, bev_map[:, 1:3] - 3)
    same = dict.fromkeys(("low", "high", "bev", "neck", "keypoint", "channel", "shallow", "feature"), bev_map)
    response = tuple([{"heatmap": heatmap, **regression}] for heatmap in heatmaps)
    rows = bev_map.permute(0, 2, 3, 1).flatten(0, 2)  # every cell is a voxel
    cells = torch.cartesian_prod(*(torch.arange(size) for size in (len(bev_map), 16, 16, 1)))
    voxels = {"logits": rows, "features": rows, "cells": cells}
    return {**same, **voxels, "deep": half, "fine": bev_map[:, :5], "coarse": half, "response": response}


def as_taps(values: dict[str, Any], wanted: Sequence[str]) -> dict[str, Tap]:
    return {alias: Tap(TapSpec(alias, layout="yx", extent=EXTENT), [values[alias]]) for alias in wanted}


def run(method: type[Distiller], scene: Scene, chosen: list[int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Term -> its value and its gradient [P] in a weight per channel of the student and in the method's own parts."""
    torch.manual_seed(1)
    distiller = method(**OPTIONS.get(method.__name__, {}))
    distiller.build_adapters()
    distiller.eval()  # batch norm is not synchronised
    scale = torch.ones(6, 1, 1, requires_grad=True)
    depth_scale = torch.ones(scene.depth.shape[2], 1, 1, requires_grad=True)
    student = values_by_alias(scene.student[chosen] * scale)
    student["depth"] = (scene.depth[chosen] * depth_scale).flatten(0, 1)
    teacher = values_by_alias(scene.teacher[chosen])
    taps = as_taps(student, distiller.student_taps), as_taps(teacher, distiller.teacher_taps["teacher"])
    terms = distiller.loss(*taps, scene.step(chosen))
    trained = [scale, depth_scale, *(weight for weight in distiller.parameters() if weight.requires_grad)]
    found = {}
    for term, value in terms.items():
        gradients = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True, materialize_grads=True)
        found[term] = value.detach(), torch.cat([gradient.flatten() for gradient in gradients])
    return found


def run_all(chosen: list[int]) -> dict[str, dict[str, dict[str, tuple[Tensor, Tensor]]]]:
    """Case -> method -> what :func:`run` returns."""
    methods = [cls for cls in DISTILLERS.module_dict.values() if cls.__module__.startswith("perceptkd.distillers.")]
    scenes = {case: Scene(boxes) for case, boxes in CASES.items()}
    return {case: {method.__name__: run(method, scene, chosen) for method in methods} for case, scene in scenes.items()}


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    joint = run_all([*RANKS[0], *RANKS[1]])  # before the processes meet: each is alone
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(RANKS))
    torch.save({"joint": joint, "own": run_all(RANKS[rank])}, f"{folder}/{rank}.pt")
    leave_processes()
