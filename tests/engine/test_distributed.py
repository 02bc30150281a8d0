"""The scripts for several processes, on two of them without a GPU."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from perceptkd.cli.arguments import UserError, run_command
from perceptkd.cli.test import evaluate
from perceptkd.engine.checkpoints import recorded_metrics
from perceptkd.engine.distributed import prepare_processes


def run(repository: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a script of tools/ with a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHON": sys.executable, "PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(repository / "tools" / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def distillation(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Path of a tiny distillation, whose distiller any process finds."""
    folder = repository / "tests/assets/tiny_coco"
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    config = tmp_path / "distill.py"
    imports = "custom_imports = dict(imports=['mimic'], allow_failed_imports=False)\n"
    config.write_text(f"_base_ = [{str(folder / 'distill.py')!r}]\n{imports}train_cfg = dict(max_epochs=1)\n")
    return str(config)


@pytest.mark.slow
def test_two_processes_distill_and_evaluate(distillation: str, repository: Path, tmp_path: Path) -> None:
    config = distillation
    result = run(repository, "dist_train.sh", config, "2", "--work-dir", str(tmp_path / "train"))
    assert result.returncode == 0, result.stderr
    checkpoint = tmp_path / "train/epoch_1_student.pth"
    result = run(repository, "dist_test.sh", config, str(checkpoint), "2", "--work-dir", str(tmp_path / "test"))
    assert result.returncode == 0, result.stderr
    alone = evaluate(config, checkpoint, work_dir=str(tmp_path / "alone"))
    assert recorded_metrics(checkpoint) == pytest.approx(alone)
    printed = [line.split(": ") for line in result.stdout.splitlines() if line.startswith("coco/")]
    assert {name: float(value) for name, value in printed} == pytest.approx(alone)
    assert len(printed) == len(alone)  # by one of the two


@pytest.mark.parametrize(
    ("optim_wrapper", "precision"),
    [
        ({"type": "OptimWrapper"}, None),
        ({"type": "perceptkd.AmpOptimWrapper"}, "auto"),
        ({"type": "perceptkd.AmpOptimWrapper", "precision": "fp16"}, "fp16"),
    ],
)
def test_the_wrapper_hears_what_precision_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, optim_wrapper: dict, precision: str | None
) -> None:
    monkeypatch.setattr("perceptkd.engine.distributed.is_distributed", lambda: True)
    config = Config({"launcher": "pytorch", "optim_wrapper": optim_wrapper, "find_unused_parameters": True})
    prepare_processes(config)
    assert config.model_wrapper_cfg.precision == precision
    assert config.model_wrapper_cfg.find_unused_parameters
    config = Config({"launcher": "pytorch", "model_wrapper_cfg": {"type": "MMDistributedDataParallel"}})
    prepare_processes(config)
    assert config.model_wrapper_cfg == {"type": "MMDistributedDataParallel"}  # of one's own choice
    config = Config({"launcher": "none"})
    prepare_processes(config)
    assert "model_wrapper_cfg" not in config


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh", "slurm_train.sh"])
def test_usage_is_explained(repository: Path, script: str) -> None:
    result = run(repository, script)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: ")


def gloo_threads() -> int:
    """Threads of this process that gloo works in."""
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)


@pytest.mark.parametrize("fails", [False, True])
def test_a_command_leaves_its_processes(tmp_path: Path, fails: bool) -> None:
    """A thread that frees a tensor when the interpreter has ended aborts it, now and then."""

    def command(arguments: object) -> None:
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        model = DistributedDataParallel(torch.nn.Linear(2, 2))
        model.myself = [model]  # a Runner has cycles as well
        assert gloo_threads() > 0
        if fails:
            raise UserError("put right")

    run_command(command)
    assert not distributed.is_initialized()
    assert gloo_threads() == 0


def test_slurm_script_asks_for_whole_nodes(repository: Path, tmp_path: Path) -> None:
    """What srun is called with: a stand-in writes its arguments down, one a line."""
    stand_in = tmp_path / "srun"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SRUN_ARGS": "--qos=normal --time=1:00"}
    command = ["bash", str(repository / "tools/slurm_train.sh"), "gpu", "job", "config.py", "--amp"]

    def arguments(**given: str) -> list[str]:
        result = subprocess.run(command, env={**environment, **given}, capture_output=True, text=True, check=True)
        return result.stdout.splitlines()

    sixteen = arguments(GPUS="16", PYTHON="python")
    assert {"--partition=gpu", "--job-name=job", "--gres=gpu:8", "--ntasks=16", "--ntasks-per-node=8"} <= set(sixteen)
    assert {"--qos=normal", "--time=1:00"} <= set(sixteen)
    assert sixteen[-6:] == ["-u", str(repository / "tools/train.py"), "config.py", "--launcher", "slurm", "--amp"]
    assert {"--gres=gpu:2", "--ntasks-per-node=2"} <= set(arguments(GPUS="2"))
