"""Paths between sensors beside each method's first: their models meet at the taps, and a step trains every parameter.

UniDistill's are in test_unidistill_paths.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from perceptkd.core.batch import RawBatch
from perceptkd.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FROM_FUSION = sorted(
    path.parent.name for path in CONFIGS.glob("*/*_fusion2camera_sim.py") if path.parent.name != "unidistill"
)
PATHS = [
    *(f"{method}_fusion2camera" for method in FROM_FUSION),
    *("foreground_lidar2camera", "foreground_camera2lidar", "foreground_fusion2lidar"),
]


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / name.split("_")[0] / f"{name}_sim.py")


def test_every_method_of_camera_students_learns_from_fusion_too() -> None:
    assert FROM_FUSION == ["bevdistill", "distillbev", "foreground", "labeldistill", "tigbev"]


@pytest.mark.parametrize("name", PATHS)
def test_a_step_trains_every_parameter(
    name: str, repository: Path, make_batch_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    config = load(name)
    ((teacher, options),) = config.model.teachers.items()
    assert teacher == name.split("_")[1].split("2")[0]
    options.update(checkpoint=None, allow_random=True)
    model = MODELS.build(config.model).train()
    losses = model(RawBatch(make_batch_for(model.student, 1, boxes=4), True), mode="loss")
    (distiller,) = model.distillers.each()
    terms = {term: losses[f"kd/{distiller.name}/{term}"].item() for term in distiller.weights}
    assert all(0 < value < float("inf") for value in terms.values()), terms
    sum(value for key, value in losses.items() if "loss" in key).backward()
    for part in (model.student, distiller):
        for parameter, value in part.named_parameters():
            assert value.grad is not None, parameter
            assert value.grad.isfinite().all(), parameter


@pytest.mark.parametrize("path", ["lidar2camera", "fusion2camera", "fusion2lidar"])
def test_foreground_students_start_with_modules_of_the_teacher(
    path: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With those that the shipped configs name, and with nothing else of it."""
    monkeypatch.chdir(repository)
    config = load(f"foreground_{path}")
    ((name, options),) = config.model.teachers.items()
    options.update(checkpoint=None, allow_random=True)
    model = MODELS.build(config.model)
    teacher = model.distillers.teachers[name].model
    with torch.no_grad():
        for value in (*teacher.parameters(), *teacher.buffers()):
            value += 1  # no initialisation gives these
    model.init_weights()
    (distiller,) = model.distillers.each()
    assert distiller.inherit == ["backbone", "neck", "bbox_head"]
    theirs = teacher.state_dict()
    for key, value in model.student.state_dict().items():
        assert (key in theirs and torch.equal(value, theirs[key])) == key.startswith(tuple(distiller.inherit)), key


@pytest.mark.parametrize("method", FROM_FUSION)
def test_from_fusion_and_from_lidar_differ_in_the_teacher_alone(method: str) -> None:
    lidar, fusion = (load(f"{method}_{sensor}2camera").to_dict() for sensor in ("lidar", "fusion"))
    for config in (lidar, fusion):
        (name,) = config["model"].pop("teachers")
        assert config["model"]["distillers"][0].pop("teacher") == name
    for entry in ("model", "train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "default_hooks"):
        assert lidar[entry] == fusion[entry], entry
