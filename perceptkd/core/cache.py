"""Offline teacher store: what a teacher's taps gave for every (sample, view), memory-mapped.

A folder holds ``manifest.json`` (what it was made from), ``index.npy`` (one row per sample and view) and
``shard-NNNNN.<field>.npy`` (flat values). Every file is written beside its place and renamed, the index last, so that
an interrupted writer leaves a valid, shorter store. Nothing is pickled.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceptkd.core.box_reach import BoxReach
from perceptkd.core.cache_key import SampleKey
from perceptkd.core.tap import Tap, TapSpec, parse_tap

FORMAT = 3
MAX_DIMENSIONS = 5
#: Ends the name of the field that holds which cells of a map another field holds.
CELLS = ".cells"


class CacheError(RuntimeError):
    """A store that is missing, incomplete, of another teacher, or asked for what it does not have."""


class TeacherCache:
    """A store opened for reading.

    Args:
        folder: Where it is.
        expected: The fingerprint it must have (see :func:`perceptkd.core.cache_key.build_fingerprint`); parts left out
            are not compared.
    """

    def __init__(self, folder: str | Path, *, expected: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        check_fingerprint(self.folder, self.manifest["fingerprint"], expected or {})
        if not self.manifest["complete"]:
            raise CacheError(f"The teacher cache {self.folder} is incomplete: write it again, and it continues")
        self.index = np.load(self.folder / "index.npy")
        self._rows: dict[str, list[int]] = {}
        for row, key in enumerate(self.index["key"]):
            self._rows.setdefault(str(key), []).append(row)
        self._maps: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.index)

    def check_reach(self, method: str, reach: BoxReach | None, specs: Sequence[TapSpec]) -> None:
        """Refuses a method that reads cells of a map which were not stored, and would take 0 for them.

        Args:
            method: Its name.
            reach: How far around boxes it reads; None where it reads whole maps.
            specs: What it taps of the teacher.
        """
        cut = [str(spec) for spec in specs if self.manifest["taps"][str(spec)]["grids"]]
        if not cut:
            return
        stored = BoxReach.from_json(self.manifest["reach"])
        if reach is None or not stored.covers(reach):
            wanted = "whole maps" if reach is None else f"cells within {reach}"
            raise CacheError(
                f"The teacher cache {self.folder} holds of {', '.join(cut)} the cells near boxes alone, within "
                f"{stored}; '{method}' reads {wanted}. Write another with tools/cache_teacher.py from this config"
            )

    def stored_tap(self, spec: TapSpec) -> TapSpec:
        """The tap as it was stored, with the teacher's geometry."""
        stored = self.manifest["taps"].get(str(spec))
        if stored is None:
            have = ", ".join(self.manifest["taps"])
            raise CacheError(f"The teacher cache {self.folder} has no tap '{spec}'; it has {have}")
        return parse_tap({"path": str(spec), **stored["spec"]})

    def read(self, keys: Sequence[SampleKey], spec: TapSpec, *, device: torch.device | str = "cpu") -> Any:
        """The output of one tap for a batch, as the teacher would return it.

        Args:
            keys: The samples.
            spec: One of the stored taps.
            device: Where to put it.
        """
        rows = [self._find(key) for key in keys]
        stored = self.manifest["taps"][str(spec)]
        leaves = [self._stack(field, rows, stored["grids"].get(field)).to(device) for field in stored["fields"]]
        return unflatten(stored["structure"], leaves)

    def _find(self, key: SampleKey) -> int:
        rows = self._rows.get(key.sample, [])
        if key.view is not None:
            rows = [row for row in rows if self.index["view"][row] == key.view]
        if not rows:
            view = f" with view '{key.view}'" if key.view is not None else ""
            raise CacheError(f"The teacher cache {self.folder} has no sample '{key.sample}'{view}")
        same = [row for row in rows if int(self.index["content"][row]) == key.content]
        if not same:
            raise CacheError(
                f"The teacher cache {self.folder} was written from other inputs for sample '{key.sample}': the "
                "pipeline or its random augmentation changed. Write the cache with this pipeline and seed."
            )
        return same[0]

    def _stack(self, field: str, rows: Sequence[int], grid: Sequence[int] | None) -> Tensor:
        """The values of several samples; those of a map whose foreground was stored on a grid of zeros."""
        values = [torch.from_numpy(self._value(field, row)) for row in rows]
        if grid is not None:
            for number, row in enumerate(rows):
                full = values[number].new_zeros(len(values[number]), math.prod(grid))
                full[:, torch.from_numpy(self._value(f"{field}{CELLS}", row)).long()] = values[number]
                values[number] = full.view(-1, *grid)
        if len({value.shape for value in values}) > 1:
            raise CacheError(
                f"Cached '{field}' differs in shape within a batch ({[tuple(value.shape) for value in values]}): "
                "cached teachers need inputs of one size"
            )
        with torch.autocast("cpu", enabled=False):  # which cannot stack fp16 where it runs in bf16
            return torch.stack(values)

    def _value(self, field: str, row: int) -> np.ndarray:
        entry = self.index[row]
        shape = [int(size) for size in entry[f"{field}.shape"] if size >= 0]
        begin = int(entry[f"{field}.offset"])
        flat = self._open(f"shard-{int(entry['shard']):05d}.{field}.npy")[begin : begin + math.prod(shape)]
        return np.array(flat).reshape(shape)

    def _open(self, name: str) -> np.ndarray:
        if name not in self._maps:
            self._maps[name] = np.load(self.folder / name, mmap_mode="r")
        return self._maps[name]


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a store was made from."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise CacheError(f"There is no teacher cache at {folder} (no manifest.json)")
    manifest = json.loads(path.read_text())
    if manifest.get("format") != FORMAT:
        raise CacheError(f"The teacher cache {folder} has format {manifest.get('format')}, this version reads {FORMAT}")
    return manifest


def check_fingerprint(folder: Path, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a store that was made from something else, naming what."""
    differing = [part for part, value in expected.items() if stored.get(part) != value]
    if differing:
        lines = "; ".join(f"{part}: stored {stored.get(part)!r}, now {expected[part]!r}" for part in differing)
        raise CacheError(
            f"The teacher cache {folder} is stale or of another teacher ({lines}). Delete it and write it anew."
        )


def describe_tap(tap: Tap, number: int) -> dict[str, Any]:
    """A tap's entry in the manifest: its spec, and the nesting of its output with leaves numbered.

    Args:
        tap: The tap.
        number: Its place among the taps of the store, which keeps apart ``neck[1]`` and ``neck[-1]``: in names of files
            both are ``neck_1``.
    """
    structure, leaves = flatten(tap.value)
    stem = re.sub(r"\W+", "_", str(tap.spec)).strip("_")
    spec = asdict(tap.spec)
    return {
        "spec": {key: spec[key] for key in ("layout", "extent", "stride")},
        "structure": structure,
        "fields": [f"{number}.{stem}.{leaf}" for leaf in range(len(leaves))],
        "grids": {},
    }


def stored_fields(manifest: Mapping[str, Any]) -> list[str]:
    """All fields of a store: the leaves of its taps, and the cells of those that are kept in part."""
    fields = []
    for tap in manifest["taps"].values():
        for field in tap["fields"]:
            fields += [field, f"{field}{CELLS}"] if field in tap["grids"] else [field]
    return fields


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
        if isinstance(item, Mapping):
            return {"dict": {key: visit(part) for key, part in item.items()}}
        if isinstance(item, list | tuple):
            return {type(item).__name__: [visit(part) for part in item]}
        raise CacheError(f"A {type(item).__name__} in a tapped output cannot be cached; tap tensors (per sample) only")

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
