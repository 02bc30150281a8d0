"""The configs of one real key frame train for a step: the published sizes on real clouds, images and boxes."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from perceptkd.registry import DATASETS, MODELS

TERMS = {"feature", "relation", "response_cls", "response_reg"}
ENCODERS = {"lidar_voxel": ["middle_encoder"], "camera": ["backbone", "neck", "view_transform"]}


def one_step(path: Path) -> tuple[dict[str, float], set[str], set[str]]:
    """One step of a config on its own data with its own optimiser, which moves what has a gradient (no weight decay).

    Returns the logged values, the parts of the model, and those that moved. Within a part some weights stay: residual
    branches start at zero, and a task whose classes are not in the frame has nothing to regress.
    """
    config = Config.fromfile(path)
    init_default_scope(config.default_scope)
    for teacher in config.model.get("teachers", {}).values():
        teacher.update(checkpoint=None, allow_random=True)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    dataset.set_epoch(0, seed=0)
    config.optim_wrapper.optimizer.weight_decay = 0.0
    model = MODELS.build(config.model)
    model.init_weights()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    logs = model.train().train_step(pseudo_collate([dataset[0]]), build_optim_wrapper(model, config.optim_wrapper))
    moved = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
    return {name: value.item() for name, value in logs.items()}, parts(before), parts(moved)


def parts(names: Iterable[str]) -> set[str]:
    """The parts of a detector that parameters belong to, such as ``camera_encoder.neck``."""
    return {".".join(name.removeprefix("student.").split(".")[:2]) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lidar_voxel", "camera"])
def test_a_detector_trains_on_the_real_frame(
    name: str, real_data: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    logs, whole, moved = one_step(repository / f"configs/bev/{name}_frame.py")
    assert 0 < logs["loss"] < float("inf")
    assert all(logs[f"task{task}.loss_heatmap"] > 0 for task in range(6))
    assert moved == whole >= {f"{name.split('_')[0]}_encoder.{part}" for part in ENCODERS[name]}


@pytest.mark.slow
def test_lidar_teaches_camera_on_the_real_frame(
    real_data: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    logs, whole, moved = one_step(repository / "configs/unidistill/unidistill_lidar2camera_frame.py")
    terms = {key.split("/")[-1]: value for key, value in logs.items() if key.startswith("loss_kd/")}
    assert terms.keys() == TERMS
    assert all(0 < value < float("inf") for value in terms.values())
    assert logs["loss"] == pytest.approx(sum(value for key, value in logs.items() if "loss_" in key), rel=1e-4)
    assert moved == whole >= {f"camera_encoder.{part}" for part in ENCODERS["camera"]}
