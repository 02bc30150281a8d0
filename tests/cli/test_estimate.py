"""The estimate of the tiny distillation job, and what it says when it cannot make one."""

import logging
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.logging import MMLogger, print_log
from mmengine.registry import DefaultScope
from torch import nn

from perceptkd.cli.estimate import Line, build_dataset, epochs_of, estimate, main, quiet_libraries, report
from perceptkd.cli.train import read_config
from perceptkd.engine.footprint import Footprint


@pytest.fixture
def lines_and_cache(tiny_folder: Path) -> tuple[list[Line], dict[str, int]]:
    config = read_config(str(tiny_folder / "distill.py"))
    with DefaultScope.overwrite_default_scope("mmdet"):
        return estimate(config, build_dataset(config))


def test_rows_of_a_distillation(lines_and_cache: tuple) -> None:
    lines, _ = lines_and_cache
    student, teacher, together = lines
    assert [line.name for line in lines] == ["student's training step", "teacher 'big'", "distillation step"]
    assert student.parameters == teacher.parameters > 1000
    assert together.parameters >= student.parameters + teacher.parameters
    assert 0 < teacher.flops < student.flops  # forward alone, and not behind its last tap
    assert together.flops == pytest.approx(student.flops + teacher.flops, rel=0.05)
    assert together.memory(4) > student.memory(4) > student.memory(2)


def test_cache_is_that_of_the_taps(lines_and_cache: tuple) -> None:
    """The mimic taps the finest level: 8 channels of 8 x 8, two bytes a value."""
    assert lines_and_cache[1] == {"big": 8 * 8 * 8 * 2}


def estimate_with(folder: Path, options: dict) -> tuple[dict[str, Line], dict[str, int]]:
    """The rows by name, and the caches."""
    config = read_config(str(folder / "distill.py"), options=options)
    with DefaultScope.overwrite_default_scope("mmdet"):
        lines, cached = estimate(config, build_dataset(config))
    return {line.name: line for line in lines}, cached


def test_a_place_that_two_distillers_tap_is_cached_once(tiny_folder: Path) -> None:
    mimics = [{"type": "TinyMimic", "name": name, "teacher": "big"} for name in ("one", "two")]
    _, cached = estimate_with(tiny_folder, {"model.distillers": mimics})
    assert cached == {"big": 8 * 8 * 8 * 2}


def test_a_running_mean_stands_beside_a_frozen_teacher_and_has_no_cache(tiny_folder: Path) -> None:
    mimics = [{"type": "TinyMimic", "name": name, "teacher": name} for name in ("big", "mean")]
    rows, cached = estimate_with(
        tiny_folder, {"model.teachers.mean": {"role": "ema", "compile": True}, "model.distillers": mimics}
    )
    assert list(rows) == ["student's training step", "teacher 'big'", "teacher 'mean'", "distillation step"]
    student = rows["student's training step"].parameters
    assert rows["teacher 'mean'"].parameters == student
    assert rows["distillation step"].parameters == 3 * student
    assert list(cached) == ["big"]


def test_a_cached_teacher_is_read_in_the_step(tiny_folder: Path) -> None:
    rows, cached = estimate_with(
        tiny_folder, {"model.teachers.big.role": "cached", "model.teachers.big.cache": "not/written/yet"}
    )
    student, teacher, together = (
        rows["student's training step"],
        rows["teacher 'big' (cached)"],
        rows["distillation step"],
    )
    assert teacher.flops > 0.1 * student.flops
    assert together.flops == pytest.approx(student.flops, rel=0.01)
    assert together.parameters == student.parameters
    assert together.memory(8) > student.memory(8)
    assert cached == {"big": 8 * 8 * 8 * 2}


def test_each_run_in_bf16_casts_the_weights(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast keeps the copies as long as it lasts: a second run within it would not count them."""
    entered = []

    class Recorded(torch.autocast):
        def __enter__(self) -> None:
            entered.append(self._enabled)
            super().__enter__()

    monkeypatch.setattr(torch, "autocast", Recorded)
    config = read_config(str(tiny_folder / "distill.py"))
    with DefaultScope.overwrite_default_scope("mmdet"):
        lines, _ = estimate(config, build_dataset(config), autocast=True)
    assert entered.count(True) == 2 * len(lines)


def test_line_extrapolates_two_runs() -> None:
    line = Line("a", nn.Linear(9, 1, bias=False), [Footprint(10, 100), Footprint(17, 160)], optimizer="AdamW")
    assert line.flops == 7
    assert line.per_sample == 60
    assert line.memory(5) == 40 + 5 * 60 + 3 * 9 * 4


def test_report_counts_samples_and_epochs() -> None:
    text = report([], {"big": 2**20}, batch_size=1, samples=1024, epochs=3)[-1]
    assert "1.0 MiB a sample in fp16, 1.0 GiB for 1024 samples, 3.0 GiB where each of 3 epochs" in text


@pytest.mark.parametrize(
    ("loop", "processes", "expected"),
    [
        ({"max_epochs": 7}, 1, 7),
        ({"max_epochs": 7}, 4, 7),
        ({"max_iters": 500}, 1, 10),
        ({"max_iters": 500}, 4, 40),
        ({"max_iters": 520}, 1, 11),
        ({"max_iters": 1}, 1, 1),
    ],
)
def test_epochs(loop: dict, processes: int, expected: int) -> None:
    config = Config({"train_cfg": loop})
    assert epochs_of(config, samples=100, batch_size=2, processes=processes) == expected


def test_libraries_are_quiet_but_for_warnings(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MMLogger, "_instance_dict", OrderedDict())
    with quiet_libraries():
        print_log("The number of instances per category", logger="current")
        print_log("split val has no truck", logger="current", level=logging.WARNING)
    print_log("afterwards", logger="current")
    said = capsys.readouterr().out
    assert "number of instances" not in said
    assert "no truck" in said
    assert "afterwards" in said


def test_command(tiny_folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = CocoDataset.load_data_list
    monkeypatch.setattr(CocoDataset, "load_data_list", lambda self: loads.append(self) or load(self))
    loop = "train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': 8, '_delete_': True}"
    arguments = ["--batch-size", "3", "--bf16", "--processes", "4", "--cfg-options", loop]
    assert main([str(tiny_folder / "distill.py"), *arguments]) == 0
    output = capsys.readouterr().out
    assert "for 6 samples" in output
    assert "each of 16 epochs" in output
    assert "a batch of 3" in output
    assert "distillation step" in output
    assert "cache of whole maps of teacher 'big'" in output
    assert len(loads) == 1


def test_without_data_or_with_an_unknown_optimiser(tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    config = str(tiny_folder / "distill.py")
    assert main([config, "--cfg-options", "train_dataloader.dataset.ann_file=gone.json"]) == 2
    assert "gone.json does not exist" in capsys.readouterr().err
    assert main([config, "--cfg-options", "optim_wrapper.optimizer.type=Lion"]) == 2
    assert "what Lion keeps per parameter is not known; known are Adam, AdamW" in capsys.readouterr().err
