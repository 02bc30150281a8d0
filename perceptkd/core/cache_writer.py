"""Write an offline teacher store, resumably."""

import fcntl
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from torch import Tensor

from perceptkd.atomic import write_text
from perceptkd.core.bev import batch_boxes, tap_extent
from perceptkd.core.box_reach import BoxReach, foreground_cells
from perceptkd.core.cache import FORMAT, check_fingerprint, flatten, read_manifest, tap_geometry
from perceptkd.core.cache_key import SampleKey, sample_keys
from perceptkd.core.cache_shard import MAX_DIMENSIONS, CacheError, read_indices, row_keys, write_shard
from perceptkd.core.tap import Tap, Taps, TapSpec

#: What of the outputs is kept in memory, and lost where the process is killed.
SHARD_BYTES = 2**28


class TeacherCacheWriter:
    """Adds batches of taps to a store; an existing one of the same teacher is continued.

    It holds ``lock`` in the folder until it is closed, so that no other process writes there. As a context manager it
    closes itself, and marks the store complete where the block ended without an error.

    Args:
        folder: Where to write.
        fingerprint: What the outputs depend on (see :func:`perceptkd.core.teacher.teacher_fingerprint`).
        taps: What will be stored, with geometry: a store of other taps is refused before any teacher runs. Without it
            the first batch tells.
        dtype: Of stored floating-point values.
        shard_bytes: How much is written at a time.
        classes: What :func:`perceptkd.core.class_map.head_classes` says of the teacher, for methods that compare heads.
        reach: Of BEV maps store only the cells within this reach of the annotated boxes; the others are read as 0, and
            a method that reads further refuses the store. None stores whole maps.

    Raises:
        CacheError: The folder holds something else, or another process writes there.
    """

    def __init__(
        self,
        folder: str | Path,
        fingerprint: Mapping[str, Any],
        *,
        taps: Iterable[TapSpec] = (),
        dtype: str = "float16",
        shard_bytes: int = SHARD_BYTES,
        classes: Sequence[Sequence[str]] | None = None,
        reach: BoxReach | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.dtype = getattr(torch, dtype)
        self.reach = reach
        self.shard_bytes = shard_bytes
        self.manifest: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": dict(fingerprint),
            "dtype": dtype,
            "classes": None if classes is None else [list(task) for task in classes],
            "reach": None if reach is None else reach.to_json(),
            "taps": {},
            "complete": False,
            "samples": None,
        }
        self._known: set[SampleKey] = set()
        self._next_shard = 0
        self._pending: list[tuple[SampleKey, list[np.ndarray]]] = []
        self._pending_bytes = 0
        self._lock = _lock(self.folder)
        try:
            self._resume(list(taps))
        except BaseException:
            _unlock(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(complete=kind is None)

    def __contains__(self, key: SampleKey) -> bool:
        return key in self._known

    def add(self, keys: Sequence[SampleKey], taps: Taps, data_samples: Sequence[Any] = ()) -> None:
        """Store the taps of one batch; samples that are there already are skipped.

        Args:
            keys: The samples.
            taps: What the teacher gave for them.
            data_samples: The samples with their annotated boxes; needed by ``reach``.
        """
        for key, arrays in zip(keys, self.pack(len(keys), taps, data_samples), strict=True):
            if key not in self:
                self._pending.append((key, arrays))
                self._pending_bytes += sum(array.nbytes for array in arrays)
                self._known.add(key)
        if self._pending_bytes >= self.shard_bytes:
            self.flush()

    def pack(self, size: int, taps: Taps, data_samples: Sequence[Any] = ()) -> list[list[np.ndarray]]:
        """What would be stored of each sample of a batch.

        Args:
            size: Samples in the batch.
            taps: What the teacher gave for them.
            data_samples: See :meth:`add`.
        """
        unique = {str(tap.spec): tap for tap in taps.values()}
        nested = {name: flatten(tap.value) for name, tap in unique.items()}
        if not self.manifest["taps"]:
            self._describe(unique, nested)
        self._check_taps([tap.spec for tap in unique.values()])
        columns: list[Sequence[np.ndarray]] = []
        for name, entry in self.manifest["taps"].items():
            structure, leaves = nested[name]
            if structure != entry["structure"]:
                raise CacheError(f"The tap '{name}' is nested in another way than in the samples before: {structure}")
            for place, leaf in zip(entry["leaves"], leaves, strict=True):
                values = self._stored(leaf, unique[name], size)
                if "grid" in place:
                    columns += self._foreground(values, unique[name], place, data_samples)
                else:
                    columns.append(list(values))
        return [[column[number] for column in columns] for number in range(size)]

    def flush(self) -> None:
        """Write what was added as a shard."""
        if self._lock.closed:
            raise CacheError(f"The writer of the teacher cache {self.folder} is closed: others may write there now")
        if not self._pending:
            return
        self._write_manifest(complete=False)
        write_shard(self.folder, self._next_shard, self._pending)
        self._next_shard += 1
        self._pending, self._pending_bytes = [], 0

    def close(self, *, complete: bool = True) -> None:
        """Write the rest, and let other processes write; a closed writer stays as it is.

        Args:
            complete: Whether all samples are there, so that trainings may read the store.
        """
        if self._lock.closed:
            return
        try:
            self.flush()
            if complete:
                if not self._known:
                    raise CacheError(f"Nothing was written to the teacher cache {self.folder}: the data set is empty")
                self._write_manifest(complete=True)
        finally:
            _unlock(self._lock)

    def _resume(self, taps: Sequence[TapSpec]) -> None:
        if not (self.folder / "manifest.json").exists():
            if any(self.folder.glob("shard-*")):
                raise CacheError(f"{self.folder} holds shards of a teacher cache without manifest.json: delete it")
            return
        stored = read_manifest(self.folder)
        check_fingerprint(self.folder, stored["fingerprint"], self.manifest["fingerprint"])
        for part in ("dtype", "classes", "reach"):
            if stored[part] != self.manifest[part]:
                raise CacheError(
                    f"The teacher cache {self.folder} holds {part} {stored[part]}, not {self.manifest[part]}. Write "
                    "another folder, or delete this one"
                )
        self.manifest = stored
        if taps:
            self._check_taps(taps)
        for number, rows in read_indices(self.folder).items():
            self._known.update(row_keys(rows))
            self._next_shard = number + 1

    def _check_taps(self, specs: Sequence[TapSpec]) -> None:
        stored = {name: entry["geometry"] for name, entry in self.manifest["taps"].items()}
        given = {str(spec): tap_geometry(spec) for spec in specs}
        differing = [name for name in {**stored, **given} if stored.get(name) != given.get(name)]
        if differing:
            raise CacheError(
                f"The teacher cache {self.folder} holds {', '.join(stored)}, not {', '.join(given)} (they differ in "
                f"{', '.join(differing)}, or in layout or extent of it). Write another folder, or delete this one"
            )

    def _describe(self, taps: Taps, nested: Mapping[str, tuple[Any, list[Tensor]]]) -> None:
        """Put the taps into the manifest: which of a sample's arrays are theirs, and which maps are kept in part."""
        numbers = itertools.count()
        for name, (structure, leaves) in nested.items():
            places: list[dict[str, Any]] = []
            for leaf in leaves:
                place: dict[str, Any] = {"array": next(numbers)}
                if self.reach is not None and taps[name].extent is not None and leaf.ndim == 4:
                    place |= {"cells": next(numbers), "grid": list(leaf.shape[2:])}
                places.append(place)
            self.manifest["taps"][name] = {
                "geometry": tap_geometry(taps[name].spec),
                "structure": structure,
                "leaves": places,
            }

    def _foreground(
        self, values: np.ndarray, tap: Tap, place: Mapping[str, Any], data_samples: Sequence[Any]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Of maps [B, C, H, W] the values [C, M] and cells [M] within reach, sample by sample."""
        assert self.reach is not None
        if not data_samples:
            raise CacheError("A cache of the foreground needs the samples with their boxes: add(keys, taps, samples)")
        if list(values.shape[2:]) != place["grid"]:
            raise CacheError(
                f"A map of '{tap.spec}' has {list(values.shape[2:])} cells, others {place['grid']}: a cache of the "
                "foreground needs inputs of one size; store whole maps (--whole-maps)"
            )
        boxes, sample_index = batch_boxes(data_samples, device=torch.device("cpu"))
        height, width = values.shape[2:] if tap.layout == "yx" else values.shape[:1:-1]
        shape = (len(values), height, width)
        kept = foreground_cells(boxes, sample_index, shape=shape, extent=tap_extent(tap), reach=self.reach)
        kept = kept if tap.layout == "yx" else kept.transpose(1, 2)
        cells = [np.flatnonzero(mask).astype(np.int32) for mask in kept.numpy()]
        return [value.reshape(len(value), -1)[:, cell] for value, cell in zip(values, cells)], cells

    def _stored(self, leaf: Tensor, tap: Tap, size: int) -> np.ndarray:
        if leaf.ndim == 0 or len(leaf) != size or leaf.ndim - 1 > MAX_DIMENSIONS:
            raise CacheError(
                f"The tap '{tap.spec}' gives {tuple(leaf.shape)} for {size} samples: only outputs with one row per "
                f"sample, of at most {MAX_DIMENSIONS} dimensions, can be cached; tap another place"
            )
        kind = self.dtype if leaf.is_floating_point() else leaf.dtype
        value = leaf.detach().to("cpu", kind, copy=True)  # a layer may write into its output until the shard is written
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CacheError(
                f"The tap '{tap.spec}' has values that are not finite in {self.dtype}; use dtype='float32' "
                "(--dtype float32)"
            )
        return value.numpy()

    def _write_manifest(self, *, complete: bool) -> None:
        self.manifest |= {"complete": complete, "samples": len(self._known) if complete else None}
        write_text(self.folder / "manifest.json", json.dumps(self.manifest, indent=1))


def write_cache(collect: Callable[[Any], Taps], batches: Iterable[Any], writer: TeacherCacheWriter) -> int:
    """Run a teacher over raw batches and store its taps. Batches whose samples are all there are not run.

    Args:
        collect: Raw batch -> taps; a teacher's ``collect``.
        batches: Raw batches, as a data loader makes them.
        writer: Where to. It is closed at the end, and where that comes early what was computed is kept.

    Returns:
        How many samples were added.
    """
    added = 0
    with writer:
        for batch in batches:
            keys = sample_keys(batch)
            new = {key for key in keys if key not in writer}
            if new:
                writer.add(keys, collect(batch), batch["data_samples"])
            added += len(new)
    return added


def _lock(folder: Path) -> IO[str]:
    """Holds ``lock`` in the folder; the system lets go of it when the process ends, however it does."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise CacheError(
            f"Another process writes the teacher cache {folder}: wait until it ends, or write another folder (--out)"
        ) from error
    return file


def _unlock(file: IO[str]) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)  # not only closed: forked workers of a data loader have it open as well
    file.close()
