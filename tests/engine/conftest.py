"""A real detector small enough to train in a second, and ways to stop and continue its training."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

import perceptkd.registry  # noqa: F401


@pytest.fixture
def tiny_config(repository: Path, tmp_path: Path) -> Config:
    """Config of a tiny RetinaNet on six images, quiet, in a work directory of its own."""
    config = Config.fromfile(repository / "tests/assets/tiny_coco/retinanet.py")
    config.work_dir = str(tmp_path / "run")
    config.log_level = "ERROR"
    return config


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are only reproducible to the bit on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Killed(Exception):
    """The run was stopped from outside."""


class KillHook(Hook):
    """Stops a run just before an iteration begins."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        if runner.iter == self.iteration:
            raise Killed


@pytest.fixture
def train():
    """``train(config, work_dir)`` -> Runner; with ``kill_at`` it stops before that iteration."""

    def run(config: Config, work_dir: Path, *, kill_at: int | None = None, resume: bool = False) -> Runner:
        config = Config(config.to_dict())
        config.work_dir, config.resume = str(work_dir), resume
        config.experiment_name = f"{work_dir.name}-{kill_at}-{resume}"
        runner = Runner.from_cfg(config)
        if kill_at is None:
            runner.train()
            return runner
        runner.register_hook(KillHook(kill_at), priority="LOWEST")
        with pytest.raises(Killed):
            runner.train()
        return runner

    return run
