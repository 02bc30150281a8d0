"""Checkpoints are whole or absent, the pointer names one that exists, and the student stands beside each of them."""

import json
import resource
import runpy
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import Runner

from perceptkd.atomic import WriteError
from perceptkd.core.checkpoint import CheckpointError
from perceptkd.core.errors import InputError
from perceptkd.engine.checkpoints import recorded_metrics
from perceptkd.engine.hooks import student_checkpoint_hook as module


@pytest.fixture
def distill_config(repository: Path, tmp_path: Path) -> Config:
    """The tiny detector taught by another one."""
    runpy.run_path(str(repository / "tests/assets/tiny_coco/mimic.py"))
    config = Config.fromfile(repository / "tests/assets/tiny_coco/distill.py")
    config.train_cfg.max_epochs = 1
    config.train_cfg.val_interval = 10
    config.log_level = "ERROR"
    return config


@METRICS.register_module(force=True)
class FallingMetric(BaseMetric):
    """-1, -2, -3, ... from one evaluation to the next."""

    default_prefix = "toy"
    evaluations = 0

    def process(self, data_batch: object, data_samples: object) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        self.evaluations += 1
        return {"error": float(-self.evaluations)}


def names(folder: Path, pattern: str = "*.pth*") -> set[str]:
    return {path.name for path in folder.glob(pattern)}


def pointer(folder: Path) -> str:
    return Path((folder / "last_checkpoint").read_text()).name


def test_the_student_beside_each_save(distill_config: Config, tmp_path: Path, train) -> None:
    train(distill_config, tmp_path / "run")
    assert names(tmp_path / "run") == {"epoch_1.pth", "epoch_1_student.pth"}
    full = torch.load(tmp_path / "run/epoch_1.pth", weights_only=False)["state_dict"]
    student = torch.load(tmp_path / "run/epoch_1_student.pth", weights_only=True)
    expected = {k.removeprefix("student."): v for k, v in full.items() if k.startswith("student.")}
    assert student["state_dict"].keys() == expected.keys()
    assert all(torch.equal(v, expected[k]) for k, v in student["state_dict"].items())
    assert student["meta"]["dataset_meta"]["classes"] == ("brick", "leaf")
    plain = Config.fromfile(tmp_path / "run/student.py")
    assert (plain.model.type, plain.default_scope) == ("RetinaNet", "mmdet")
    root = str(Path(__file__).parents[3])  # the data's paths name the checkout, which may be called perceptkd
    assert "perceptkd" not in plain.pretty_text.replace(root, "")


def test_averaged_weights_where_an_ema_runs(distill_config: Config, tmp_path: Path, train) -> None:
    distill_config.custom_hooks.append({"type": "EMAHook", "momentum": 0.5})
    train(distill_config, tmp_path / "run")
    full = torch.load(tmp_path / "run/epoch_1.pth", weights_only=False)
    student = torch.load(tmp_path / "run/epoch_1_student.pth", weights_only=True)
    key = "backbone.conv1.weight"
    raw = full["ema_state_dict"][f"module.student.{key}"]  # MMEngine keeps the weights in training in this place
    assert student["meta"]["ema"] is True
    assert torch.equal(student["state_dict"][key], full["state_dict"][f"student.{key}"])
    assert not torch.equal(student["state_dict"][key], raw)


def test_a_model_without_student_has_no_student_files(tiny_config: Config, tmp_path: Path, train) -> None:
    train(tiny_config, tmp_path / "run")
    assert names(tmp_path / "run") == {"epoch_1.pth", "epoch_2.pth"}
    assert not (tmp_path / "run/student.py").exists()


def test_kept_best_and_recorded(distill_config: Config, tmp_path: Path, train) -> None:
    distill_config.train_cfg.update(max_epochs=3, val_interval=1)
    distill_config.default_hooks.checkpoint.update(max_keep_ckpts=1, save_best="toy/error", rule="less")
    distill_config.val_evaluator = {"type": "FallingMetric"}
    train(distill_config, tmp_path / "run")
    run = tmp_path / "run"
    assert names(run) == {
        "epoch_3.pth",
        "epoch_3_student.pth",
        "best_toy_error_epoch_3.pth",
        "best_toy_error_epoch_3_student.pth",
    }
    assert pointer(run) == "epoch_3.pth"
    assert recorded_metrics(run / "epoch_3_student.pth") == {"toy/error": -3.0}
    assert recorded_metrics(run / "best_toy_error_epoch_3.pth") == {"toy/error": -3.0}
    assert set(json.loads((run / "metrics.json").read_text())) >= {"epoch_1.pth", "epoch_3.pth"}


def test_an_unknown_best_metric_is_named_with_those_there_are(tiny_config: Config, tmp_path: Path, train) -> None:
    tiny_config.default_hooks.checkpoint.update(save_best="coco/map", rule="greater")
    with pytest.raises(InputError, match=r"coco/map.*coco/bbox_mAP"):
        train(tiny_config, tmp_path / "run")


def test_a_metric_of_unknown_direction_asks_for_it(tiny_config: Config, tmp_path: Path, train) -> None:
    tiny_config.default_hooks.checkpoint.update(save_best="auto")
    tiny_config.val_evaluator = {"type": "FallingMetric"}
    with pytest.raises(InputError, match=r"toy/error, whose name does not say .*checkpoint\.rule to greater or less"):
        train(tiny_config, tmp_path / "run")


@pytest.mark.parametrize("victim", ["epoch_2.pth", "last_checkpoint"])
def test_killed_while_writing(tiny_config: Config, tmp_path: Path, train, monkeypatch, victim: str) -> None:
    """Whatever file is being renamed when the process dies, the pointer names a whole checkpoint."""
    replace = module.atomic_path.__wrapped__.__globals__["os"].replace
    tiny_config.default_hooks.checkpoint.max_keep_ckpts = 1
    tiny_config.train_cfg.val_interval = 10
    saves = []

    def die(source: Path, target: Path) -> None:
        saves.append(Path(target).name)
        if Path(target).name == victim and saves.count(victim) == (1 if victim.endswith(".pth") else 2):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("perceptkd.atomic.os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, tmp_path / "run")
    monkeypatch.setattr("perceptkd.atomic.os.replace", replace)
    assert pointer(tmp_path / "run") == "epoch_1.pth"
    assert (tmp_path / "run/epoch_1.pth").exists()
    runner = train(tiny_config, tmp_path / "run", resume=True)
    assert runner.epoch == 2
    assert pointer(tmp_path / "run") == "epoch_2.pth"
    assert names(tmp_path / "run") == {"epoch_2.pth"}


def test_leftovers_of_a_killed_run_are_removed(tiny_config: Config, tmp_path: Path, train) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/epoch_7.pth.tmp").write_bytes(b"half")
    train(tiny_config, tmp_path / "run", kill_at=0)
    assert names(tmp_path / "run") == set()


@pytest.fixture
def small_disk() -> Iterator[object]:
    """Makes every write beyond some bytes fail, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class FillDisk(Hook):
    """The disk is full from the second epoch on."""

    def __init__(self, fill) -> None:
        self.fill = fill

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == 1:
            self.fill(100_000)


def test_a_full_disk_leaves_nothing_half_written_and_says_so(
    tiny_config: Config, tmp_path: Path, small_disk, monkeypatch
) -> None:
    tiny_config.train_cfg.val_interval = 10
    tiny_config.default_hooks.checkpoint.max_keep_ckpts = 1
    tiny_config.experiment_name = "full-disk"
    runner = Runner.from_cfg(tiny_config)
    runner.register_hook(FillDisk(small_disk))
    with pytest.raises(WriteError, match=r"cannot write .*epoch_2\.pth: File too large; .* MiB are free"):
        runner.train()
    work_dir = Path(tiny_config.work_dir)
    assert names(work_dir) == {"epoch_1.pth"}
    assert pointer(work_dir) == "epoch_1.pth"


def test_a_truncated_checkpoint_names_the_newest_whole_one(tiny_config: Config, tmp_path: Path, train) -> None:
    run = tmp_path / "run"
    train(tiny_config, run)
    content = (run / "epoch_2.pth").read_bytes()
    (run / "epoch_2.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"epoch_2\.pth is truncated or damaged; .*epoch_1\.pth"):
        train(tiny_config, run, resume=True)


def test_one_flipped_byte_is_noticed(tiny_config: Config, tmp_path: Path, train) -> None:
    run = tmp_path / "run"
    train(tiny_config, run)
    with zipfile.ZipFile(run / "epoch_2.pth") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        weights = archive.read(largest)
    content = bytearray((run / "epoch_2.pth").read_bytes())
    content[content.index(weights) + len(weights) // 2] ^= 255
    (run / "epoch_2.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        train(tiny_config, run, resume=True)


def test_a_moved_work_dir_says_where_it_looked(tiny_config: Config, tmp_path: Path, train) -> None:
    train(tiny_config, tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"run/epoch_2\.pth does not exist; .*moved/epoch_2\.pth"):
        train(tiny_config, tmp_path / "moved", resume=True)
