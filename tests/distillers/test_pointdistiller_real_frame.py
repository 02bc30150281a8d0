"""PointDistiller on a real frame of KITTI and one of nuScenes, with mmdet3d's detectors at the published sizes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet3d.datasets import KittiDataset, NuScenesDataset
from mmengine.registry import init_default_scope

import perceptkd.registry  # noqa: F401  (makes mmdet3d importable)
from perceptkd.core import DistillModel
from perceptkd.core.batch import RawBatch
from perceptkd.distillers.pointdistiller import graph_weights

POINT_PILLARS = "mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
CENTER_POINT = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
FULL = 32  # points in a full pillar of PointPillars


def load(dataset: type, folder: Path, ann_file: str, dims: int, **options: Any) -> dict:
    """A batch of the one frame of a folder, with its annotated boxes."""
    init_default_scope("mmdet3d")
    points = {"load_dim": dims, "use_dim": dims}
    frame = dataset(
        data_root=str(folder),
        ann_file=ann_file,
        data_prefix={"pts": ""},
        pipeline=[
            {"type": "LoadPointsFromFile", "coord_type": "LIDAR", **points},
            {"type": "LoadAnnotations3D"},
            {"type": "ObjectNameFilter", "classes": dataset.METAINFO["classes"]},
            {"type": "Pack3DDetInputs", "keys": ["points", "gt_bboxes_3d", "gt_labels_3d"]},
        ],
        **options,
    )[0]
    return {"inputs": {"points": [frame["inputs"]["points"]]}, "data_samples": [frame["data_samples"]]}


def build(config: str, distiller: dict) -> DistillModel:
    """A detector with a fourth of the parameters learns from the whole one."""
    teacher = {"config": config, "allow_random": True}
    distiller = {"type": "perceptkd.PointDistiller", "teacher": "wide", **distiller}
    model = DistillModel({"config": config, "compression": 4}, teachers={"wide": teacher}, distillers=[distiller])
    return model.train()


def watch_items(model: DistillModel, monkeypatch: pytest.MonkeyPatch) -> list:
    """What the distiller compares in the steps to come, level by level."""
    seen: list = []
    (distiller,) = model.distillers.each()
    gap = distiller._gap
    monkeypatch.setattr(distiller, "_gap", lambda items, *encoders: (seen.append(items), gap(items, *encoders))[1])
    return seen


def check_gradients(model: DistillModel, losses: dict[str, Any], before_tap: tuple[str, ...]) -> None:
    """The term trains what lies before its tap and nothing else, and all losses together every weight."""
    weights = dict(model.student.named_parameters())
    term = losses["loss_kd/pointdistiller/graph"]
    gradients = torch.autograd.grad(term, list(weights.values()), retain_graph=True, allow_unused=True)
    assert {name for name, each in zip(weights, gradients) if each is not None} == {
        name for name in weights if name.startswith(before_tap)
    }
    assert all(each.isfinite().all() and each.abs().sum() > 0 for each in gradients if each is not None)
    terms = [sum(value) if isinstance(value, list) else value for name, value in losses.items() if "loss" in name]
    assert all(term.isfinite().all() for term in terms)
    sum(term.sum() for term in terms).backward()
    assert [n for n, weight in model.student.named_parameters() if weight.grad is None] == []
    assert all(weight.grad.isfinite().all() for weight in model.student.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("released", [False, True])
def test_kitti(real_data: Path, monkeypatch: pytest.MonkeyPatch, released: bool) -> None:
    """3945 pillars, of which 56 are full. Those share all weight in the release, and half of it otherwise."""
    batch = load(KittiDataset, real_data / "mmdet3d_demo" / "kitti", "000008.pkl", 4)
    assert len(batch["data_samples"][0].gt_instances_3d) == 6
    model = build(POINT_PILLARS, {"student_channels": 32, "teacher_channels": 64, "released": released})
    seen = watch_items(model, monkeypatch)
    losses = model(RawBatch(batch, True), mode="loss")
    (items,) = seen
    (distiller,) = model.distillers.each()
    graphs = list(distiller._graphs(items, torch.Generator()))
    assert (items.student.shape, items.teacher.shape) == ((3945, 32), (3945, 64))
    assert int((items.importance == FULL).sum()) == 56
    assert (len(graphs), *graphs[0].neighbour.shape) == ((1, 3945, 128) if released else (1, 1000, 128))
    full = graphs[0].weight[items.importance[graphs[0].centre] == FULL].sum() / graphs[0].weight.sum()
    assert full > 0.999 if released else full < 0.6
    mode = {"mode": "raw", "tau": 0.01} if released else {"mode": "standard"}
    assert torch.equal(graphs[0].weight, graph_weights(items.importance[graphs[0].centre], **mode))
    assert 0 < losses["loss_kd/pointdistiller/graph"] < 20
    check_gradients(model, losses, ("voxel_encoder.",))


@pytest.mark.slow
def test_nuscenes(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CenterPoint on pillars: a map of 128 x 128 cells of 0.8 m, of whose cells 256 are centres."""
    folder, name = real_data / "mmdet3d_demo" / "nuscenes", "n015-2018-07-24-11-22-45+0800.pkl"
    batch = load(NuScenesDataset, folder, name, 5, with_velocity=True)
    assert len(batch["data_samples"][0].gt_instances_3d) == 65
    taps = {"student_taps": {"feature": "pts_neck[0]"}, "teacher_taps": {"feature": "pts_neck[0]"}}
    model = build(CENTER_POINT, {"on": "maps", "student_channels": 192, "teacher_channels": 384, **taps})
    seen = watch_items(model, monkeypatch)
    losses = model(RawBatch(batch, True), mode="loss")
    (items,) = seen
    (distiller,) = model.distillers.each()
    (graph,) = distiller._graphs(items, torch.Generator())
    assert (items.student.shape, items.teacher.shape) == ((128 * 128, 192), (128 * 128, 384))
    assert (len(graph.centre), *graph.neighbour.shape) == (256, 256, 128)
    assert 0 < losses["loss_kd/pointdistiller/graph"] < 20
    check_gradients(model, losses, ("pts_voxel_encoder.", "pts_backbone.", "pts_neck."))
