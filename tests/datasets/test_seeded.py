"""Samples depend on (seed, epoch, index) alone: in this process, in workers, and inside other wrappers."""

import json
import multiprocessing
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, InfiniteSampler, pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader, Dataset

from perceptkd.core.cache_key import sample_keys
from perceptkd.core.errors import InputError
from perceptkd.datasets.seeded import EpochIndex, EpochStampedSampler, SeededDataset, collect_seeded_datasets, seeded

SIZE = 6


@pytest.fixture
def image_dataset(tmp_path: Path) -> dict:
    """Config of a data set whose pipeline draws a size for each image from numpy's global state."""
    for i in range(SIZE):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), i, np.uint8))
    annotations = {"metainfo": {"classes": ["a"]}, "data_list": [{"img_path": f"{i}.png"} for i in range(SIZE)]}
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    return {
        "type": BaseDataset,
        "data_root": str(tmp_path),
        "ann_file": "annotations.json",
        "data_prefix": {"img_path": ""},
        "pipeline": [
            {"type": "mmcv.LoadImageFromFile"},
            {"type": "mmcv.RandomResize", "scale": [(8, 8), (400, 400)], "keep_ratio": True},
        ],
    }


def sizes(batches) -> list[int]:
    """Width of every image of a loader, in order."""
    return [image.shape[1] for batch in batches for image in batch["img"]]


def build(config: dict, **kwargs) -> SeededDataset:
    return DATASETS.build(dict(type="perceptkd.SeededDataset", dataset=config, **kwargs))


def test_sample_is_a_function_of_seed_epoch_and_index(image_dataset: dict) -> None:
    dataset = build(image_dataset)
    dataset.set_epoch(0, seed=5)
    first = sizes([{"img": [dataset[i]["img"] for i in range(SIZE)]}])
    backwards = sizes([{"img": [dataset[i]["img"] for i in reversed(range(SIZE))]}])
    assert first == backwards[::-1]
    assert len(set(first)) > 1
    dataset.set_epoch(1, seed=5)
    assert sizes([{"img": [dataset[i]["img"] for i in range(SIZE)]}]) != first
    dataset.set_epoch(0, seed=6)
    assert sizes([{"img": [dataset[i]["img"] for i in range(SIZE)]}]) != first


def test_outer_random_state_is_left_alone(image_dataset: dict) -> None:
    dataset = build(image_dataset)
    dataset.set_epoch(0, seed=5)

    def draws() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    dataset[3]
    assert draws() == expected


def test_state_is_restored_when_loading_fails() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(1, 2, 3):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fixed_seed_wins_over_the_runs(image_dataset: dict) -> None:
    dataset = build(image_dataset, seed=9)
    dataset.set_epoch(2, seed=5)
    assert dataset.view_key(4) == (9, 2, 4)


class PackedDataset(Dataset):
    """Samples as mm pipelines pack them, with one draw from torch's random state as input."""

    def __getitem__(self, index: int) -> dict:
        return {"inputs": torch.rand(3), "data_samples": BaseDataElement(metainfo={"img_id": index})}

    def __len__(self) -> int:
        return SIZE


def test_contract_12_the_key_is_the_caches_view() -> None:
    """A teacher cache names augmentations of a sample by the key that made them; their inputs tell them apart."""
    dataset = SeededDataset(PackedDataset())
    keys = {}
    for seed, epoch in ((5, 0), (5, 1), (6, 0), (5, 0)):
        dataset.set_epoch(epoch, seed=seed)
        assert dataset[3]["data_samples"].view == f"{seed}-{epoch}-3"
        (key,) = sample_keys(pseudo_collate([dataset[3]]))
        assert (key.sample, key.view) == ("3", "-".join(map(str, dataset.view_key(3))))
        assert keys.setdefault((seed, epoch), key) == key  # the same key of the seeds is the same key of the cache
    assert len({key.view for key in keys.values()}) == len({key.content for key in keys.values()}) == 3


def test_without_an_epoch_it_says_which_hook_is_missing(image_dataset: dict) -> None:
    with pytest.raises(InputError, match="SeedEpochHook"):
        build(image_dataset)[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_epoch_reaches_running_workers(image_dataset: dict, method: str) -> None:
    dataset = build(image_dataset)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=2,
        persistent_workers=True,
        collate_fn=pseudo_collate,
        multiprocessing_context=multiprocessing.get_context(method),
    )
    alone = DataLoader(dataset, batch_size=2, collate_fn=pseudo_collate)
    seen = []
    for epoch in range(2):
        dataset.set_epoch(epoch, seed=3)
        seen.append(sizes(loader))
        assert seen[-1] == sizes(alone)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_endless_sampler_stamps_its_passes_however_far_workers_fetch_ahead(
    image_dataset: dict, num_workers: int
) -> None:
    dataset = build(image_dataset)
    dataset.set_epoch(0, seed=3)
    sampler = EpochStampedSampler(InfiniteSampler(dataset, shuffle=False), start=0, size=SIZE)
    loader = DataLoader(
        dataset, batch_size=2, sampler=sampler, num_workers=num_workers, prefetch_factor=4 if num_workers else None,
        collate_fn=pseudo_collate,
    )  # fmt: skip
    batches = iter(loader)
    seen = sizes(next(batches) for _ in range(2 * SIZE // 2))
    for epoch in range(2):
        dataset.set_epoch(epoch, seed=3)
        assert seen[epoch * SIZE : (epoch + 1) * SIZE] == [dataset[i]["img"].shape[1] for i in range(SIZE)]


def test_stamps_agree_between_ranks_and_after_a_resume() -> None:
    data = range(4)
    stream = [
        list(zip(sampler_head(data, rank=rank, start=0), range(8))) for rank in range(2)
    ]  # rank r takes global positions 2 i + r
    assert [index.epoch for index, _ in stream[0]] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [index.epoch for index, _ in stream[1]] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [index.epoch for index in sampler_head(data, rank=0, start=3)][:2] == [1, 2]


def sampler_head(data: range, *, rank: int, start: int) -> list[EpochIndex]:
    """Eight stamped indices of one of two ranks."""
    sampler = EpochStampedSampler(InfiniteSampler(data, shuffle=False), start=start, size=4, rank=rank, world_size=2)
    return [index for index, _ in zip(sampler, range(8))]


def test_wrappers_outside_and_inside(image_dataset: dict) -> None:
    inner = {"type": "perceptkd.SeededDataset", "dataset": image_dataset}
    with DefaultScope.overwrite_default_scope("mmengine"):
        seeded_inside = DATASETS.build({"type": "RepeatDataset", "times": 2, "dataset": inner})
        seeded_outside = build({"type": "ConcatDataset", "datasets": [image_dataset, image_dataset]})
    assert len(seeded_inside) == len(seeded_outside) == 2 * SIZE
    assert seeded_inside.metainfo["classes"] == seeded_outside.metainfo["classes"] == ["a"]
    (found,) = collect_seeded_datasets(seeded_inside)
    found.set_epoch(0, seed=1)
    assert seeded_inside[1]["img"].shape == seeded_inside[1 + SIZE]["img"].shape
    assert collect_seeded_datasets(seeded_outside) == [seeded_outside]


def test_attributes_are_those_of_the_wrapped_dataset(image_dataset: dict) -> None:
    dataset = build(image_dataset)
    assert isinstance(dataset.dataset, BaseDataset)
    assert dataset.get_data_info(2)["img_path"].endswith("2.png")
    assert not hasattr(dataset, "coco")
