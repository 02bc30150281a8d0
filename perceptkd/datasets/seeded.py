"""A dataset wrapper that makes a sample a pure function of (seed, epoch, index).

MMEngine stores no random state, so a resumed run draws other augmentations than the run it continues, and a control
draws others than its distilled twin. Here every sample seeds random, numpy and torch itself, and leaves the random
state around it as it was. The seed and the epoch live in shared memory: they reach workers that are already running.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from torch.utils.data import Dataset, Sampler

from perceptkd.core.errors import InputError
from perceptkd.registry import DATASETS

NOT_SET = -1


class EpochIndex(int):
    """A sample's index that remembers the pass over the data it belongs to (pickled to workers with it).

    >>> index = EpochIndex(7, epoch=2)
    >>> index == 7, index.epoch
    (True, 2)
    """

    epoch: int

    def __new__(cls, value: int, epoch: int = 0) -> "EpochIndex":
        index = super().__new__(cls, value)
        index.epoch = epoch
        return index


class EpochStampedSampler(Sampler):
    """Stamps the indices of an infinite sampler with their pass over the data.

    Workers fetch ahead of the training loop, so near the end of a pass a shared epoch would come too late for them.

    Args:
        sampler: The infinite sampler of this rank.
        start: How many indices of this rank the run has already used (a resumed run).
        size: Length of the dataset.
        rank, world_size: Place of this process among those that share the stream.
    """

    def __init__(self, sampler: Sampler, *, start: int, size: int, rank: int = 0, world_size: int = 1) -> None:
        self.sampler = sampler
        self.start = start
        self.size = size
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[EpochIndex]:
        for position, index in enumerate(self.sampler, self.start):
            yield EpochIndex(index, epoch=(position * self.world_size + self.rank) // self.size)

    def __len__(self) -> int:
        return len(self.sampler)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed random, numpy and torch's CPU generator from ``key``, and restore their states on the way out."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    words = [int(word) for word in np.random.SeedSequence(key).generate_state(3)]
    random.seed(words[0])
    np.random.seed(words[1])  # noqa: NPY002  (mm transforms draw from the global state)
    torch.default_generator.manual_seed(words[2])  # not torch.manual_seed, which reseeds every GPU as well
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Wraps any mm dataset: ``self[i]`` depends on (seed, epoch, i) alone.

    ``perceptkd.SeedEpochHook`` sets the epoch, and the run's seed where none is given here. Packed samples carry their
    key as ``view`` in their metainfo, for the teacher cache. All other attributes are those of the wrapped dataset
    (``metainfo``, ``get_data_info``, ``get_cat_ids``, ...).

    Args:
        dataset: Config of the dataset, or the dataset.
        seed: A fixed seed; the run's (``randomness.seed``) if None.
    """

    def __init__(self, dataset: Dataset | Mapping[str, Any], *, seed: int | None = None) -> None:
        self.dataset = MMENGINE_DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        self.fixed_seed = seed
        self._shared = torch.tensor([NOT_SET if seed is None else seed, NOT_SET], dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int, *, seed: int | None = None) -> None:
        """Set the epoch, and the run's seed unless a fixed one was given, here and in all workers."""
        if seed is not None and self.fixed_seed is None:
            self._shared[0] = seed
        self._shared[1] = epoch

    def view_key(self, index: int) -> tuple[int, int, int]:
        """(seed, epoch, index): equal keys mean equal samples, so it also names a view in a cache."""
        seed, epoch = self._shared.tolist()
        epoch = index.epoch if isinstance(index, EpochIndex) else epoch
        if seed == NOT_SET or epoch == NOT_SET:
            raise InputError(
                "SeededDataset does not know its epoch and seed: add dict(type='perceptkd.SeedEpochHook') to "
                "custom_hooks, or call dataset.set_epoch(0, seed=0)"
            )
        return seed, epoch, int(index)

    def __getitem__(self, index: int) -> Any:
        key = self.view_key(index)
        with seeded(*key):
            sample = self.dataset[key[-1]]
        if isinstance(sample, Mapping) and hasattr(sample.get("data_samples"), "set_metainfo"):
            sample["data_samples"].set_metainfo({"view": "-".join(map(str, key))})
        return sample

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:  # unpickling asks before there is a dataset
            raise AttributeError(name)
        return getattr(self.dataset, name)


def collect_seeded_datasets(dataset: Dataset) -> list[SeededDataset]:
    """All ``SeededDataset`` in a tree of dataset wrappers, outermost first."""
    found = [dataset] if isinstance(dataset, SeededDataset) else []
    attributes = getattr(dataset, "__dict__", {})
    children = [attributes.get(name) for name in ("dataset", "_dataset")] + list(attributes.get("datasets") or [])
    for child in children:
        if child is not None:
            found += collect_seeded_datasets(child)
    return found
