"""``make demo``, on the tiny world."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from perceptkd.cli import demo as module
from perceptkd.cli.train import read_config
from perceptkd.registry import MODELS

METRICS = {"near_mAP", "mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE"}


@pytest.mark.slow
def test_the_demo_leaves_table_and_pictures_and_continues(
    tiny_comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(module, "CONFIG", str(tiny_comparison))
    monkeypatch.setattr(module, "write_world", lambda: None)
    folder = tmp_path / "demo"
    assert module.main(["--work-dir", str(folder)]) == 0
    printed = capfd.readouterr().out
    steps = [line for line in printed.splitlines() if line[1:3] == "/4"]
    assert [step.split()[0] for step in steps] == ["1/4", "2/4", "3/4", "4/4"]
    assert "Epoch(train)" in printed
    assert "Config:" not in printed
    assert "Config:" in next(folder.glob("runs/shared/control*/*/*.log")).read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert all(summary[name].keys() >= METRICS for name in ("teacher", "control", "distilled"))
    assert summary["gain"] == pytest.approx(summary["distilled"]["near_mAP"] - summary["control"]["near_mAP"])
    pictures = {path.stem for path in folder.glob("*.png")}
    assert pictures >= {"bev_0", "cameras_0", "curves", "comparison"}
    assert all(str(folder / f"{name}.png") in printed for name in pictures)
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pth")}
    (folder / "summary.json").write_text('{"demo_minutes": 12.5}')
    assert module.main(["--work-dir", str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pth")} == trained
    again = json.loads((folder / "summary.json").read_text())
    assert again["distilled"] == summary["distilled"]
    assert (summary["demo_minutes"] > 0, again["demo_minutes"]) == (True, 12.5)


def test_the_student_of_the_demo_can_inherit_what_its_config_says(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    model = read_config(module.CONFIG).model
    model.teachers.lidar.update(checkpoint=None, allow_random=True)
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        distilled = MODELS.build(model)
    distilled.init_weights()
    teacher = distilled.distillers.teachers["lidar"].model
    for path in model.distillers[0].inherit:
        theirs = teacher.get_submodule(path).state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in distilled.student.get_submodule(path).state_dict().items())


def test_an_interrupted_demo_has_no_time(tmp_path: Path) -> None:
    assert module.recorded_minutes(tmp_path) is None


def test_the_demo_stops_where_its_world_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    world = tmp_path / "simworld_demo"
    (world / "nuscenes").mkdir(parents=True)
    (world / "nuscenes/holiday.jpg").touch()
    monkeypatch.setattr(module, "WORLD", world)
    assert module.main(["--work-dir", str(tmp_path / "demo")]) == 2
    said = capsys.readouterr().err
    assert "is not ours to write to" in said
    assert f"the simulated world could not be written to {world}" in said
