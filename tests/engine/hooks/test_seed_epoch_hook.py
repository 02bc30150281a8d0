"""What an iteration draws depends on the seed and its number, and the epoch reaches every data loader."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader

from perceptkd.core.errors import InputError
from perceptkd.datasets.seeded import EpochStampedSampler, collect_seeded_datasets
from perceptkd.engine.hooks.seed_epoch_hook import seed_everything, stamp_endless_sampler


def draws() -> tuple:
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_a_key_seeds_every_generator() -> None:
    seed_everything(1, 0, 5)
    first = draws()
    seed_everything(1, 0, 6)
    second = draws()
    seed_everything(1, 0, 5)
    assert draws() == first
    assert not set(first) & set(second)


class Spy(Hook):
    """Notes what each iteration draws and the epoch of its data; may draw numbers that are none of its business."""

    def __init__(self, *, thief: bool) -> None:
        self.thief = thief
        self.seen: list[tuple] = []
        self.epochs: list[int] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        self.seen.append(draws())
        (dataset,) = collect_seeded_datasets(runner.train_dataloader.dataset)
        self.epochs.append(dataset.view_key(0)[1])

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for _ in range(runner.iter * self.thief):
            draws()


def spy_on(config: Config, work_dir: Path, *, thief: bool) -> Spy:
    config = Config(config.to_dict())
    config.work_dir, config.experiment_name = str(work_dir), f"{work_dir.name}{thief}"
    config.default_hooks.checkpoint.interval = -1
    config.train_cfg.val_interval = 100
    spy = Spy(thief=thief)
    runner = Runner.from_cfg(config)
    runner.register_hook(spy)
    runner.train()
    return spy


def test_nothing_before_an_iteration_changes_what_it_draws(tiny_config: Config, tmp_path: Path) -> None:
    honest, thief = (spy_on(tiny_config, tmp_path / str(t), thief=t) for t in (False, True))
    assert honest.seen == thief.seen
    assert len(set(honest.seen)) == 6
    assert honest.epochs == [0, 0, 0, 1, 1, 1]


def test_iteration_based_loops_count_passes(tiny_config: Config, tmp_path: Path) -> None:
    tiny_config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 7}
    tiny_config.default_hooks.checkpoint.by_epoch = False
    assert spy_on(tiny_config, tmp_path / "run", thief=False).epochs == [0, 0, 0, 1, 1, 1, 2]


def endless_loader(**options) -> DataLoader:
    data = range(6)
    return DataLoader(data, sampler=InfiniteSampler(data, shuffle=False), batch_size=2, **options)


def test_an_endless_sampler_is_stamped_from_where_the_run_stands() -> None:
    loader = endless_loader()
    stamp_endless_sampler(loader, iteration=2, outermost=True)
    assert isinstance(loader.batch_sampler.sampler, EpochStampedSampler)
    batches = iter(loader.batch_sampler)
    assert [index.epoch for index in next(batches) + next(batches)] == [0, 0, 1, 1]


def test_what_cannot_be_exact_is_refused() -> None:
    with pytest.raises(InputError, match="outermost"):
        stamp_endless_sampler(endless_loader(num_workers=2), iteration=0, outermost=False)

    class Grouped(BatchSampler):
        pass

    data = range(6)
    sampler = Grouped(InfiniteSampler(data, shuffle=False), 2, False)
    with pytest.raises(InputError, match="plain batch sampler, not Grouped"):
        stamp_endless_sampler(DataLoader(data, batch_sampler=sampler), iteration=0, outermost=True)
