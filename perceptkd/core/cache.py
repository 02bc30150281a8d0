"""Offline teacher store: what a teacher's taps gave for every sample and augmentation of it, memory-mapped.

An entry is found by a sample's name and the checksum of what the teacher was given. A folder holds ``manifest.json``
(what it was made from) and shards (:mod:`perceptkd.core.cache_shard`). Every file is written beside its place and
renamed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceptkd.core.box_reach import BoxReach
from perceptkd.core.cache_key import SampleKey
from perceptkd.core.cache_shard import CacheError, ShardReader, check_shards, read_indices, row_keys
from perceptkd.core.tap import TapSpec, parse_tap

FORMAT = 7
GEOMETRY = ("layout", "extent", "stride")


class TeacherCache:
    """A store opened for reading.

    Args:
        folder: Where it is.
        expected: The fingerprint it must have (see :func:`perceptkd.core.teacher.teacher_fingerprint`); parts left out
            are not compared.
    """

    def __init__(self, folder: str | Path, *, expected: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.check_fingerprint(expected or {})
        if not self.manifest["complete"]:
            raise CacheError(
                f"The teacher cache {self.folder} is incomplete: run the tools/cache_teacher.py that wrote it again, "
                "and it continues"
            )
        indices = read_indices(self.folder)
        check_shards(self.folder, indices, samples=self.manifest["samples"])
        self._places: dict[SampleKey, tuple[int, np.ndarray]] = {}
        for shard, rows in indices.items():
            for key, arrays in zip(row_keys(rows), rows["arrays"]):
                self._places[key] = (shard, arrays)
        self._shards = ShardReader(self.folder)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def classes(self) -> list[list[str]] | None:
        """The class names of the teacher's head, one list per task; None if it did not say."""
        return self.manifest["classes"]

    def check_fingerprint(self, expected: Mapping[str, Any]) -> None:
        """Refuses a store that was made from something else than expected."""
        check_fingerprint(self.folder, self.manifest["fingerprint"], expected)

    def check_reach(self, method: str, reach: BoxReach | None, specs: Sequence[TapSpec]) -> None:
        """Refuses a method that reads cells of a map which were not stored, and would take 0 for them.

        Args:
            method: Its name.
            reach: How far around boxes it reads; None where it reads whole maps.
            specs: What it taps of the teacher.
        """
        cut = [str(spec) for spec in specs if any("grid" in leaf for leaf in self._tap(spec)["leaves"])]
        if not cut:
            return
        stored = BoxReach.from_json(self.manifest["reach"])
        if reach is None or not stored.covers(reach):
            wanted = "whole maps" if reach is None else f"cells within {reach}"
            raise CacheError(
                f"The teacher cache {self.folder} holds of {', '.join(cut)} the cells near boxes alone, within "
                f"{stored}; '{method}' reads {wanted}. Write another with tools/cache_teacher.py from this config"
            )

    def check_precision(self, precision: str) -> None:
        """Refuses a training whose teacher would compute in another precision than the stored outputs' did."""
        stored = self.manifest["fingerprint"]["precision"]
        if stored != precision:
            raise CacheError(
                f"The teacher cache {self.folder} was computed in {stored}, and this training computes its teacher in "
                f"{precision}. Train as tools/cache_teacher.py was told (--amp, optim_wrapper.precision, the teacher's "
                "precision, the device), or write another cache with the options of this training"
            )

    def stored_tap(self, spec: TapSpec) -> TapSpec:
        """The tap as it was stored, with the teacher's geometry and what the config adds to it."""
        stored = self._tap(spec)["geometry"]
        given = {name: value for name, value in tap_geometry(spec).items() if value is not None}
        differing = [name for name, value in given.items() if stored[name] not in (None, value)]
        if differing:
            lines = "; ".join(f"{name}: stored {stored[name]}, now {given[name]}" for name in differing)
            raise CacheError(
                f"The teacher cache {self.folder} holds '{spec}' with another geometry than the config gives it "
                f"({lines}). Write another with tools/cache_teacher.py from this config"
            )
        return parse_tap({"path": str(spec), **stored, **given})

    def read(self, keys: Sequence[SampleKey], spec: TapSpec, *, device: torch.device | str = "cpu") -> Any:
        """The output of one tap for a batch, as the teacher would return it.

        Args:
            keys: The samples.
            spec: One of the stored taps.
            device: Where to put it.
        """
        places = [self._find(key) for key in keys]
        tap = self._tap(spec)
        leaves = [self._stack(leaf, places, str(spec)).to(device) for leaf in tap["leaves"]]
        return unflatten(tap["structure"], leaves)

    def first_key(self) -> SampleKey:
        """Of a sample that is stored, whichever."""
        return next(iter(self._places))

    def _tap(self, spec: TapSpec) -> dict[str, Any]:
        stored = self.manifest["taps"]
        if str(spec) not in stored:
            raise CacheError(
                f"The teacher cache {self.folder} has no tap '{spec}'; it has {', '.join(stored)}. Write another with "
                "tools/cache_teacher.py from this config"
            )
        return stored[str(spec)]

    def _find(self, key: SampleKey) -> tuple[int, np.ndarray]:
        if key in self._places:
            return self._places[key]
        view = f" as in view '{key.view}' (seed-epoch-index)" if key.view is not None else ""
        views = {other.view for other in self._places if other.sample == key.sample}
        if key.view in views:
            raise CacheError(
                f"The teacher cache {self.folder} was written from other inputs for sample '{key.sample}'{view}: the "
                "pipeline or its random augmentation changed. Write the cache with this pipeline and seed."
            )
        if views:
            raise CacheError(
                f"The teacher cache {self.folder} has sample '{key.sample}', but not with these inputs{view}: it was "
                "written for another seed or fewer epochs, or with another pipeline or calibration. Run "
                "tools/cache_teacher.py with this training's data, pipeline, seed and number of epochs: it adds what "
                "is missing"
            )
        raise CacheError(
            f"The teacher cache {self.folder} has no sample '{key.sample}'{view}. Run tools/cache_teacher.py with this "
            "training's data, seed and number of epochs: it adds what is missing"
        )

    def _stack(self, leaf: Mapping[str, Any], places: Sequence[tuple[int, np.ndarray]], tap: str) -> Tensor:
        """The values of several samples; those of a map whose foreground was stored on a grid of zeros."""
        values = [self._shards.read(shard, arrays[leaf["array"]]) for shard, arrays in places]
        if "grid" in leaf:
            cells = [self._shards.read(shard, arrays[leaf["cells"]]) for shard, arrays in places]
            values = [_on_grid(value, cell, leaf["grid"]) for value, cell in zip(values, cells)]
        if len({value.shape for value in values}) > 1:
            raise CacheError(
                f"What is cached of '{tap}' differs in shape within a batch ({[value.shape for value in values]}): "
                "cached teachers need inputs of one size, or train_dataloader.batch_size=1"
            )
        return torch.from_numpy(np.stack(values))


def _on_grid(values: np.ndarray, cells: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """A map of zeros but for the values [C, M] at cells [M]."""
    full = np.zeros((len(values), math.prod(grid)), values.dtype)
    full[:, cells] = values
    return full.reshape(-1, *grid)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a store was made from."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise CacheError(f"There is no teacher cache at {folder} (no manifest.json): tools/cache_teacher.py writes one")
    manifest = json.loads(path.read_text())
    if manifest.get("format") != FORMAT:
        raise CacheError(
            f"The teacher cache {folder} has format {manifest.get('format')}, this version reads {FORMAT}: delete it "
            "and write it anew with tools/cache_teacher.py"
        )
    return manifest


def check_fingerprint(folder: Path, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a store that was made from something else, naming what."""
    differing = [part for part, value in expected.items() if stored.get(part) != value]
    if differing:
        lines = "; ".join(f"{part}: stored {stored.get(part)!r}, now {expected[part]!r}" for part in differing)
        raise CacheError(
            f"The teacher cache {folder} is stale or of another teacher ({lines}). Delete it and write it anew with "
            "tools/cache_teacher.py."
        )


def tap_geometry(spec: TapSpec) -> dict[str, Any]:
    """What the map of a tap means, as a manifest keeps it."""
    values = {name: getattr(spec, name) for name in GEOMETRY}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def flatten(value: Any) -> tuple[Any, list[Tensor]]:
    """A nested output as a JSON-able structure and its tensors in order.

    >>> flatten([dict(a=torch.zeros(1))])[0]
    {'list': [{'dict': {'a': 0}}]}
    """
    leaves: list[Tensor] = []

    def visit(item: Any) -> Any:
        if isinstance(item, Tensor):
            leaves.append(item)
            return len(leaves) - 1
        if isinstance(item, Mapping) and all(isinstance(key, str) for key in item):
            return {"dict": {key: visit(part) for key, part in item.items()}}
        if type(item) in (list, tuple):
            return {type(item).__name__: [visit(part) for part in item]}
        kind = f"{type(item).__name__}{' whose keys are not text' if isinstance(item, Mapping) else ''}"
        raise CacheError(
            f"A {kind} in a tapped output cannot be cached: tap a tensor in it, or lists, tuples and dicts of tensors"
        )

    return visit(value), leaves


def unflatten(structure: Any, leaves: Sequence[Tensor]) -> Any:
    """The inverse of :func:`flatten`."""
    if isinstance(structure, int):
        return leaves[structure]
    ((kind, parts),) = structure.items()
    if kind == "dict":
        return {key: unflatten(part, leaves) for key, part in parts.items()}
    items = [unflatten(part, leaves) for part in parts]
    return tuple(items) if kind == "tuple" else items
