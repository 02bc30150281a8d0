"""Makes every random draw of a training a function of (seed, rank, iteration) and (seed, epoch, index)."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader

from perceptkd.core.errors import InputError
from perceptkd.datasets.seeded import EpochStampedSampler, collect_seeded_datasets
from perceptkd.registry import HOOKS


def seed_everything(*key: int) -> None:
    """Seed random, numpy, torch and all CUDA generators from ``key``."""
    words = [int(word) for word in np.random.SeedSequence(key).generate_state(3)]
    random.seed(words[0])
    np.random.seed(words[1])  # noqa: NPY002  (mm code draws from the global state)
    torch.default_generator.manual_seed(words[2])
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(words[2])


@HOOKS.register_module()
class SeedEpochHook(Hook):
    """Tells ``SeededDataset`` its epoch and seeds each iteration.

    A resumed run cannot inherit the global random state: starting a data loader and validating both draw from it. So
    each iteration seeds it anew from (seed, rank, iteration). Dropout masks are then the same after a resume, and the
    same for a control and its distilled twin. (What ``DistillModel`` draws for its distillers it keeps in its state.)
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Stamp the indices of an endless sampler before the first batch is fetched."""
        loader = runner.train_dataloader
        self._datasets = collect_seeded_datasets(loader.dataset)
        self._iteration_based = isinstance(runner.train_loop, IterBasedTrainLoop)
        self._set_epoch(runner, runner.epoch)
        if self._iteration_based:
            self._set_epoch(runner, runner.iter // len(loader))
            if self._datasets and hasattr(loader.sampler, "skip"):  # MMEngine's sign of an endless sampler
                stamp_endless_sampler(loader, iteration=runner.iter, outermost=self._datasets[0] is loader.dataset)

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the epoch before the workers start on it, and seed the loader's own draw."""
        seed_everything(runner.seed, get_dist_info()[0], runner.iter)
        if not self._iteration_based:
            self._set_epoch(runner, runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the iteration."""
        seed_everything(runner.seed, get_dist_info()[0], runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Iteration-based loops restart their data loader while fetching the next batch: set its epoch before."""
        if self._iteration_based:
            self._set_epoch(runner, (runner.iter + 1) // len(runner.train_dataloader))

    def before_val_epoch(self, runner: Runner) -> None:
        """Evaluation always sees epoch 0."""
        for dataset in collect_seeded_datasets(runner.val_dataloader.dataset):
            dataset.set_epoch(0, seed=runner.seed)

    def before_test_epoch(self, runner: Runner) -> None:
        """Evaluation always sees epoch 0."""
        for dataset in collect_seeded_datasets(runner.test_dataloader.dataset):
            dataset.set_epoch(0, seed=runner.seed)

    def _set_epoch(self, runner: Runner, epoch: int) -> None:
        for dataset in self._datasets:
            dataset.set_epoch(epoch, seed=runner.seed)


def stamp_endless_sampler(loader: DataLoader, *, iteration: int, outermost: bool) -> None:
    """Let an endless sampler say which pass each index belongs to, since workers fetch ahead across passes.

    Raises:
        InputError: The loader hides its sampler, or another wrapper around ``SeededDataset`` would drop the stamp.
    """
    if type(loader.batch_sampler) is not BatchSampler:
        raise InputError(
            f"SeededDataset under an endless sampler needs the plain batch sampler, not "
            f"{type(loader.batch_sampler).__name__}: leave batch_sampler out, or use DefaultSampler"
        )
    if not outermost and loader.num_workers > 0:
        raise InputError(
            "SeededDataset must be the outermost dataset wrapper when an endless sampler feeds workers: put the other "
            "wrapper inside it, or use DefaultSampler"
        )
    rank, world_size = get_dist_info()
    loader.batch_sampler.sampler = EpochStampedSampler(
        loader.sampler,
        start=iteration * loader.batch_size,
        size=len(loader.dataset),
        rank=rank,
        world_size=world_size,
    )
