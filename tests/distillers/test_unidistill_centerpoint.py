"""mmdet3d's own CenterPoint as a teacher: its taps have the sizes and layouts that the configs declare."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from perceptkd.core.batch import RawBatch
from perceptkd.registry import DATASETS, MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "unidistill"
#: Channels and cells of low and high level, and cells of the heads.
SIZES = {
    "centerpoint": {"low": (256, 180, 180), "high": (512, 180, 180), "response": (180, 180)},
    "centerpoint_pillar": {"low": (64, 512, 512), "high": (384, 128, 128), "response": (128, 128)},
}


def build(teacher: str) -> Any:
    """The distillation model with random weights on both sides."""
    config = Config.fromfile(CONFIGS / f"unidistill_{teacher}2camera_full.py")
    init_default_scope("mmdet3d")
    config.model.teachers.centerpoint.update(checkpoint=None, allow_random=True)
    config.model.student.camera_encoder.backbone.init_cfg = None
    return MODELS.build(config.model)


def collect(model: Any, batch: dict) -> dict[str, Any]:
    """The teacher's taps by alias."""
    taps = model.distillers.teachers["centerpoint"].collect(batch)
    return {alias.removeprefix("unidistill/"): tap for alias, tap in taps.items()}


def check_taps(model: Any, batch: dict, sizes: dict) -> dict:
    """The teacher's taps, after a look at their sizes; the student's must lie on the same metres."""
    taps = collect(model, batch)
    for alias in ("low", "high"):
        assert tuple(taps[alias].value.shape[1:]) == sizes[alias]
    assert [tuple(task[0]["heatmap"].shape[2:]) for task in taps["response"].value] == [sizes["response"]] * 6
    assert {tap.layout for tap in taps.values()} == {"yx"}
    assert {tap.extent for tap in taps.values()} == {model.student.grid.extent}
    assert model.student.grid.shape == sizes["response"]
    return taps


@pytest.mark.parametrize("teacher", SIZES)
def test_taps_of_centerpoint(teacher: str, make_batch: Any) -> None:
    check_taps(build(teacher), make_batch(1), SIZES[teacher])


@pytest.mark.parametrize("teacher", SIZES)
def test_rows_are_y(teacher: str, make_batch: Any) -> None:
    """Points at x = 30 m, y = -10 m light up the low-level map there, and not at the mirrored place."""
    model, batch = build(teacher), make_batch(1)
    cloud = batch["inputs"]["points"][0]
    cloud[:, 0], cloud[:, 1] = 30 + torch.rand(len(cloud)), -10 + torch.rand(len(cloud))
    taps = collect(model, batch)
    energy = taps["low"].value[0].abs().sum(0)
    x0, y0, x1, y1 = taps["low"].extent
    height, width = energy.shape

    def at(x: float, y: float) -> float:
        column, row = int((x - x0) / (x1 - x0) * width), int((y - y0) / (y1 - y0) * height)
        return energy[row - 2 : row + 3, column - 2 : column + 3].sum().item()

    assert at(30.5, -9.5) > 0
    assert at(-9.5, 30.5) == 0


@pytest.mark.slow
@pytest.mark.parametrize("teacher", SIZES)
def test_a_step_on_the_real_frame(
    teacher: str, real_data: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shapes on a real cloud, and finite terms that train the student."""
    monkeypatch.chdir(repository)
    config = Config.fromfile(repository / "configs/bev/camera_frame.py")
    dataset = DATASETS.build(config.train_dataloader.dataset)
    dataset.set_epoch(0, seed=0)
    batch = pseudo_collate([dataset[0]])
    model = build(teacher).train()
    check_taps(model, batch, SIZES[teacher])
    losses = model(RawBatch(batch, True), mode="loss")
    terms = {name: value for name, value in losses.items() if name.startswith("loss_kd/")}
    assert len(terms) == 4
    assert all(value.isfinite() and value > 0 for value in terms.values())
    sum(terms.values()).backward()
    trained = [weight for weight in model.student.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in trained)
