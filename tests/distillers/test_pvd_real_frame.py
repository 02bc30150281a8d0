"""PVD on a real KITTI cloud, opt-in: shapes of the taps, finite losses, gradients to every weight of the student."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.structures import Det3DDataSample, PointData
from mmengine.config import Config
from mmengine.registry import init_default_scope

from perceptkd.core.batch import RawBatch
from perceptkd.distillers.pvd import PVD
from perceptkd.registry import MODELS

SIDES = ("student", "teacher")


@pytest.fixture
def batch(real_data: Path) -> dict:
    """Frame 000008, whose points have no class in KITTI: here it goes by height."""
    path = real_data / "mmdet3d_demo" / "kitti" / "000008.bin"
    points = torch.from_numpy(np.fromfile(path, np.float32).reshape(-1, 4))
    points = points[points[:, :2].norm(dim=1) < 40]
    labels = ((points[:, 2] + 3) * 3).long().clamp(0, 18)
    sample = Det3DDataSample(gt_pts_seg=PointData(pts_semantic_mask=labels))
    return {"inputs": {"points": [points]}, "data_samples": [sample]}


@pytest.mark.parametrize("name", ["minkunet", "cylinder3d"])
def test_a_step_on_a_real_cloud(name: str, batch: dict, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_default_scope("mmdet3d")
    monkeypatch.chdir(repository)
    config = Config.fromfile(f"configs/pvd/pvd_{name}_sim.py")
    config.model.teachers.wide.update(checkpoint=None, allow_random=True)
    model = MODELS.build(config.model).train()
    seen = {}
    (distiller,) = model.distillers.each()
    method = distiller.loss
    monkeypatch.setattr(distiller, "loss", lambda *sides: seen.update(zip(SIDES, sides)) or method(*sides))
    losses = model(RawBatch(batch, True), mode="loss")
    cells = [len(seen[side]["cells"].value) for side in SIDES]
    assert cells[0] == cells[1] > 1000
    terms = [losses[f"loss_kd/pvd/{term}"] for term in PVD.default_weights]
    assert all(term.isfinite() and term > 0 for term in terms)
    sum(terms).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.student.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        halved = model(RawBatch(batch, True), mode="loss")
    assert float(halved["kd/pvd/voxel_output"]) == pytest.approx(float(losses["kd/pvd/voxel_output"]), rel=0.2)
