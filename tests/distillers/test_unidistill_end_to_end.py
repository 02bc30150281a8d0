"""UniDistill's own configs: a LiDAR detector teaches a camera detector for a few steps on a tiny simulated world."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope, init_default_scope
from torch import nn

from perceptkd.datasets.simworld.writers.nuscenes import write_nuscenes_world
from perceptkd.datasets.simworld.writers.plan import plan_mini
from perceptkd.registry import DATASETS, MODELS

TERMS = ("feature", "relation", "response_cls", "response_reg")
STEPS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames to train on."""
    root = tmp_path_factory.mktemp("simworld") / "nuscenes"
    write_nuscenes_world(plan_mini(1, num_keyframes=1, sweeps=0, image_size=(400, 225)), root)
    return root


@pytest.fixture
def config(world: Path, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """The config of the demo on the tiny world, with a teacher of random weights as its checkpoint."""
    monkeypatch.chdir(repository)
    config = Config.fromfile("configs/unidistill/unidistill_lidar2camera_demo.py")
    init_default_scope(config.get("default_scope") or "mmengine")
    torch.manual_seed(1)
    teacher = MODELS.build(Config.fromfile(config.model.teachers.lidar.config).model)
    teacher.init_weights()
    config.model.teachers.lidar.checkpoint = str(tmp_path / "teacher.pth")
    torch.save({"state_dict": teacher.state_dict()}, config.model.teachers.lidar.checkpoint)
    dataset = config.train_dataloader.dataset.dataset
    dataset.update(data_root=str(world), ann_file="nuscenes_infos_mini_train.pkl")
    yield config
    DefaultScope._instance_dict.clear()


def load_batch(config: Config) -> dict[str, Any]:
    """One sample of the config's own pipeline as a batch."""
    dataset = DATASETS.build(config.train_dataloader.dataset)
    dataset.set_epoch(0, seed=0)
    return pseudo_collate([dataset[0]])


def train(model: nn.Module, batch: dict[str, Any]) -> list[dict[str, float]]:
    """A few steps on one batch; the logged values of each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    logs = []
    for _ in range(STEPS):
        losses = model._run_forward(model.data_preprocessor(batch, True), mode="loss")
        total, log = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        logs.append({name: float(value.detach()) for name, value in log.items()})
    return logs


def test_lidar_teaches_camera(config: Config) -> None:
    config.model.distillers[0].pop("weights")  # the published ones: they rule the few steps of this test
    model = MODELS.build(config.model)
    model.init_weights()
    teacher = model.distillers.teachers["lidar"].model
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    logs = train(model.train(), load_batch(config))
    for term in TERMS:
        values = [log[f"kd/unidistill/{term}"] for log in logs]
        assert all(0 < value < 100 for value in values), (term, values)
        weight = {"feature": 100.0, "relation": 40.0}.get(term, 10.0)
        assert logs[0][f"loss_kd/unidistill/{term}"] == pytest.approx(weight * values[0], rel=1e-5)
    distillation = [sum(value for name, value in log.items() if name.startswith("loss_kd/")) for log in logs]
    assert distillation[-1] < distillation[0]
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not [name for name in model.state_dict() if not name.startswith(("student.", "distillers."))]


def test_the_same_student_trains_without_its_teacher(config: Config) -> None:
    config.model.distill = False
    model = MODELS.build(config.model)
    logs = train(model.train(), load_batch(config))
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert not [name for name in logs[0] if "kd/" in name]


def test_adapters_of_the_paper(config: Config) -> None:
    """3x3 convolution, BatchNorm and ReLU behind the low and the high map of the student, trained with it."""
    adapter = {"type": "conv", "kernel": 3, "norm": True}
    config.model.distillers[0].adapters = {
        "low": {**adapter, "in_channels": 64, "out_channels": 64},
        "high": {**adapter, "in_channels": 128, "out_channels": 128},
    }
    model = MODELS.build(config.model)
    names = [name for name, _ in model.distillers.named_parameters()]
    assert sum(name.endswith("weight") for name in names) == 4, names
    losses = model._run_forward(model.train().data_preprocessor(load_batch(config), True), mode="loss")
    model.parse_losses(losses)[0].backward()
    assert all(
        parameter.grad.abs().sum() > 0 for name, parameter in model.distillers.named_parameters() if "weight" in name
    )


@pytest.mark.parametrize("name", ["demo", "sim", "full", "frame"])
def test_every_config_builds_its_student_and_method(
    name: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    config = Config.fromfile(f"configs/unidistill/unidistill_lidar2camera_{name}.py")
    assert len(Path(config.filename).read_text().splitlines()) <= 40
    teacher = config.model.teachers.lidar
    assert Path(teacher.checkpoint).parent == Path("work_dirs/teachers") / Path(teacher.config).stem
    teacher_config = Config.fromfile(teacher.config)
    assert Path(teacher.checkpoint).name == f"epoch_{teacher_config.train_cfg.max_epochs}.pth"
    assert teacher_config.train_dataloader.dataset.dataset.get(
        "data_root"
    ) == config.train_dataloader.dataset.dataset.get("data_root")
    config.model.distill = False
    assert MODELS.build(config.model).student.camera_encoder is not None
