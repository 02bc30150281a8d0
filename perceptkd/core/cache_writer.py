"""Write an offline teacher store, resumably."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from perceptkd.core.bev import batch_boxes, tap_extent
from perceptkd.core.box_reach import BoxReach, foreground_cells
from perceptkd.core.cache import (
    CELLS,
    FORMAT,
    MAX_DIMENSIONS,
    CacheError,
    check_fingerprint,
    describe_tap,
    flatten,
    read_manifest,
    stored_fields,
)
from perceptkd.core.cache_key import SampleKey, sample_keys
from perceptkd.core.tap import Tap, Taps


class TeacherCacheWriter:
    """Adds batches of taps to a store; an existing one of the same teacher is continued.

    Args:
        folder: Where to write.
        fingerprint: What the outputs depend on (see :func:`perceptkd.core.cache_key.build_fingerprint`), and
            ``data``: any string that changes when the data set does.
        dtype: Of stored floating-point values.
        samples_per_shard: How many samples are in one set of files, and at most lost when interrupted.
        reach: Of BEV maps store only the cells within this reach of the annotated boxes; the others are read as 0, and
            a method that reads further refuses the store. None stores whole maps.
    """

    def __init__(
        self,
        folder: str | Path,
        fingerprint: Mapping[str, Any],
        *,
        dtype: str = "float16",
        samples_per_shard: int = 64,
        reach: BoxReach | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dtype = getattr(torch, dtype)
        self.reach = reach
        self.samples_per_shard = samples_per_shard
        self.manifest: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": dict(fingerprint),
            "dtype": dtype,
            "reach": None if reach is None else reach.to_json(),
            "taps": {},
            "complete": False,
        }
        self.index: np.ndarray | None = None
        if (self.folder / "manifest.json").exists():
            self._resume()
        self._known: set[tuple[Any, ...]] = (
            set() if self.index is None else set(zip(self.index["key"], self.index["view"], self.index["content"]))
        )
        self._pending: list[tuple[SampleKey, dict[str, np.ndarray]]] = []

    def __contains__(self, key: SampleKey) -> bool:
        return (key.sample, key.view or "", key.content) in self._known

    def add(self, keys: list[SampleKey], taps: Taps, data_samples: Sequence[Any] = ()) -> None:
        """Store the taps of one batch; samples that are there already are skipped.

        Args:
            keys: The samples.
            taps: What the teacher gave for them.
            data_samples: The samples with their annotated boxes; needed by ``reach``.
        """
        unique = {str(tap.spec): tap for tap in taps.values()}
        if not self.manifest["taps"]:
            self.manifest["taps"] = {
                name: describe_tap(tap, number) for number, (name, tap) in enumerate(unique.items())
            }
        if set(unique) != set(self.manifest["taps"]):
            raise CacheError(
                f"The teacher cache {self.folder} holds {sorted(self.manifest['taps'])}, not {sorted(unique)}"
            )
        fields: dict[str, Sequence[np.ndarray]] = {}
        for name, tap in unique.items():
            leaves = self._leaves(tap, len(keys))
            if self.reach is not None and tap.extent is not None:
                fields |= self._foreground(name, tap, leaves, data_samples, self.reach)
            else:
                fields |= {field: list(leaf) for field, leaf in zip(self.manifest["taps"][name]["fields"], leaves)}
        for number, key in enumerate(keys):
            if key not in self:
                self._pending.append((key, {field: value[number] for field, value in fields.items()}))
                self._known.add((key.sample, key.view or "", key.content))
        if len(self._pending) >= self.samples_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write what was added as a shard, and then the index, which makes it count."""
        if not self._pending:
            return
        if self.index is None:
            self._write_manifest()
        shard = 0 if self.index is None else int(self.index["shard"].max()) + 1
        rows = np.zeros(len(self._pending), dtype=self._row_type())
        for field in self._fields():
            values = [sample[field] for _, sample in self._pending]
            rows[f"{field}.offset"] = np.cumsum([0, *(value.size for value in values)])[:-1]
            for row, value in zip(rows, values):
                row[f"{field}.shape"] = [*value.shape, *[-1] * (MAX_DIMENSIONS - value.ndim)]
            flat = np.concatenate([value.reshape(-1) for value in values])
            _replace(self.folder / f"shard-{shard:05d}.{field}.npy", partial(np.save, arr=flat))
        rows["shard"] = shard
        for row, (key, _) in zip(rows, self._pending):
            row["key"], row["view"], row["content"] = key.sample, key.view or "", key.content
        index = rows if self.index is None else np.concatenate([self.index, rows])
        _replace(self.folder / "index.npy", partial(np.save, arr=index))
        self.index, self._pending = index, []

    def close(self) -> None:
        """Write the rest and mark the store complete."""
        self.flush()
        if self.index is None:
            raise CacheError(f"Nothing was written to the teacher cache {self.folder}")
        self.manifest["complete"] = True
        self._write_manifest()

    def _resume(self) -> None:
        stored = read_manifest(self.folder)
        check_fingerprint(self.folder, stored["fingerprint"], self.manifest["fingerprint"])
        for part in ("dtype", "reach"):
            if stored[part] != self.manifest[part]:
                raise CacheError(
                    f"The teacher cache {self.folder} holds {part} {stored[part]}, not {self.manifest[part]}. Write "
                    "another folder, or delete this one"
                )
        self.manifest = {**stored, "complete": False}
        if (self.folder / "index.npy").exists():
            self.index = np.load(self.folder / "index.npy")

    def _leaves(self, tap: Tap, batch_size: int) -> list[np.ndarray]:
        leaves = []
        for leaf in flatten(tap.value)[1]:
            if leaf.ndim == 0 or len(leaf) != batch_size or leaf.ndim - 1 > MAX_DIMENSIONS:
                raise CacheError(
                    f"The tap '{tap.spec}' gives {tuple(leaf.shape)} for {batch_size} samples: only outputs with one "
                    "row per sample can be cached"
                )
            leaves.append(self._stored(leaf, tap))
        return leaves

    def _foreground(
        self, name: str, tap: Tap, leaves: Sequence[np.ndarray], data_samples: Sequence[Any], reach: BoxReach
    ) -> dict[str, Sequence[np.ndarray]]:
        """Values [C, M] and cells [M] within reach of every map [B, C, H, W] of a tap, sample by sample."""
        if not data_samples:
            raise CacheError("A cache of the foreground needs the samples with their boxes: add(keys, taps, samples)")
        boxes, sample_index = batch_boxes(data_samples, device=torch.device("cpu"))
        entry = self.manifest["taps"][name]
        found: dict[str, Sequence[np.ndarray]] = {}
        for field, leaf in zip(entry["fields"], leaves):
            if leaf.ndim != 4:
                found[field] = list(leaf)
                continue
            height, width = leaf.shape[2:] if tap.layout == "yx" else leaf.shape[:1:-1]
            shape = (len(leaf), height, width)
            kept = foreground_cells(boxes, sample_index, shape=shape, extent=tap_extent(tap), reach=reach)
            kept = kept if tap.layout == "yx" else kept.transpose(1, 2)
            cells = [np.flatnonzero(mask).astype(np.int32) for mask in kept.numpy()]
            entry["grids"][field] = leaf.shape[2:]
            found[field] = [values.reshape(len(values), -1)[:, cell] for values, cell in zip(leaf, cells)]
            found[f"{field}{CELLS}"] = cells
        return found

    def _stored(self, leaf: Tensor, tap: Tap) -> np.ndarray:
        value = leaf.detach().cpu()
        if value.is_floating_point():
            value = value.to(self.dtype)
            if not torch.isfinite(value).all():
                raise CacheError(
                    f"The tap '{tap.spec}' has values that are not finite in {self.dtype}; use dtype='float32'"
                )
        return value.numpy()

    def _fields(self) -> list[str]:
        return stored_fields(self.manifest)

    def _row_type(self) -> list[Any]:
        fields: list[Any] = [("key", "U128"), ("view", "U64"), ("content", "u4"), ("shard", "i4")]
        for field in self._fields():
            fields += [(f"{field}.offset", "i8"), (f"{field}.shape", "i4", (MAX_DIMENSIONS,))]
        return fields

    def _write_manifest(self) -> None:
        text = json.dumps(self.manifest, indent=1).encode()
        _replace(self.folder / "manifest.json", lambda file: file.write(text))


def write_cache(collect: Callable[[Any], Taps], batches: Iterable[Any], writer: TeacherCacheWriter) -> int:
    """Run a teacher over raw batches and store its taps. Batches whose samples are all there are not run.

    Args:
        collect: Raw batch -> taps; a teacher's ``collect``.
        batches: Raw batches, as a data loader makes them.
        writer: Where to. It is closed at the end.

    Returns:
        How many samples were added.
    """
    added = 0
    for batch in batches:
        keys = sample_keys(batch)
        new = [key for key in keys if key not in writer]
        if new:
            writer.add(keys, collect(batch), batch["data_samples"])
        added += len(new)
    writer.close()
    return added


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write beside ``path``, then rename: the file is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
