"""The files that hold what a teacher cache stores: shards, each of one file of bytes and one index.

``shard-NNNNN.bin`` has arrays one behind the other, those of a sample together. ``shard-NNNNN.npy`` has a row per
sample: its name, view and checksum, and offset, shape and type of each of its arrays. The index is written last, and
bytes without one do not count, so that an interrupted writer leaves a valid, shorter store. Nothing is pickled.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from perceptkd.atomic import atomic_path
from perceptkd.core.cache_key import MAX_NAME, SampleKey

MAX_DIMENSIONS = 5
#: Memory maps kept open; each takes a file descriptor, of which a process often has 1024.
MAX_OPEN = 64


class CacheError(RuntimeError):
    """A store that is missing, incomplete, of another teacher, or asked for what it does not have."""


def shard_path(folder: Path, number: int, suffix: str) -> Path:
    """A shard's bytes (``.bin``) or index (``.npy``)."""
    return folder / f"shard-{number:05d}{suffix}"


def index_type(arrays: int) -> np.dtype:
    """Of a row of an index, for samples of this many arrays."""
    place = np.dtype([("offset", "i8"), ("shape", "i4", (MAX_DIMENSIONS,)), ("dtype", "S3")])
    name = f"S{MAX_NAME}"
    return np.dtype([("sample", name), ("view", name), ("content", "u4"), ("arrays", place, (arrays,))])


def write_shard(folder: Path, number: int, samples: Sequence[tuple[SampleKey, Sequence[np.ndarray]]]) -> None:
    """Write a shard, its index last.

    Args:
        folder: Of the store.
        number: Of the shard.
        samples: Key and arrays of each.
    """
    rows = np.zeros(len(samples), dtype=index_type(len(samples[0][1])))
    offset = 0
    with atomic_path(shard_path(folder, number, ".bin")) as temporary, temporary.open("wb") as file:
        for row, (key, arrays) in zip(rows, samples):
            row["sample"], row["view"], row["content"] = key.sample.encode(), (key.view or "").encode(), key.content
            for place, array in zip(row["arrays"], arrays, strict=True):
                place["offset"], place["dtype"] = offset, array.dtype.str.encode()
                place["shape"] = [*array.shape, *[-1] * (MAX_DIMENSIONS - array.ndim)]
                file.write(array.tobytes())
                offset += array.nbytes
    with atomic_path(shard_path(folder, number, ".npy")) as temporary, temporary.open("wb") as file:
        np.save(file, rows)


def read_indices(folder: Path) -> dict[int, np.ndarray]:
    """Number of a shard -> its index, of all whole shards."""
    paths = sorted(folder.glob("shard-*.npy"))
    return {int(path.stem.removeprefix("shard-")): np.load(path, allow_pickle=False) for path in paths}


def check_shards(folder: Path, indices: Mapping[int, np.ndarray], *, samples: int) -> None:
    """Refuse a store that lost files or their ends, as an interrupted copy does.

    Args:
        folder: Of the store.
        indices: Those that are there.
        samples: How many it was completed with.
    """
    found = sum(len(rows) for rows in indices.values())
    if found != samples:
        raise CacheError(f"{folder} has {found} of its {samples} samples: copy or write the cache again")
    for number, rows in indices.items():
        path = shard_path(folder, number, ".bin")
        ends = [int(place["offset"]) + array_bytes(place) for place in rows[-1]["arrays"]]
        if not path.is_file() or path.stat().st_size < max(ends):
            raise CacheError(f"{path} is missing or cut off: copy or write the cache again")


def array_bytes(place: np.void) -> int:
    """Size of an array, from its place in an index."""
    return math.prod(int(size) for size in place["shape"] if size >= 0) * np.dtype(place["dtype"].decode()).itemsize


def row_keys(rows: np.ndarray) -> Iterator[SampleKey]:
    """The keys of the samples of an index."""
    for sample, view, content in zip(*(rows[column].tolist() for column in ("sample", "view", "content"))):
        yield SampleKey(sample.decode(), view.decode() or None, content)


class ShardReader:
    """Reads single arrays: of a shard, the bytes of one array are touched.

    Args:
        folder: Of the shards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = functools.lru_cache(maxsize=MAX_OPEN)(self._map)

    def read(self, shard: int, place: np.void) -> np.ndarray:
        """A read-only view of one array in the memory map; it may not be aligned.

        Args:
            shard: Number of the shard.
            place: Its offset, shape and type, from the index.
        """
        shape = tuple(int(size) for size in place["shape"] if size >= 0)
        dtype, size = np.dtype(place["dtype"].decode()), array_bytes(place)
        if size == 0:
            return np.empty(shape, dtype)  # an empty file cannot be mapped
        begin = int(place["offset"])
        return self._open(shard)[begin : begin + size].view(dtype).reshape(shape)

    def _map(self, shard: int) -> np.ndarray:
        return np.memmap(shard_path(self.folder, shard, ".bin"), dtype=np.uint8, mode="r")
