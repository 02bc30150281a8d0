"""The order in which one direction of a sparse convolution is computed: gather, multiply, sum.

Target rows are taken in chunks, so that the gathered rows and the products of a chunk stay in cache and no buffer grows
with the number of pairs. Inside a chunk the products of all kernel cells lie one below the other, and every target row
sums its own: no two writers meet, so the result is the same on every run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.grouping import argsort_keys

Pairs = tuple[Tensor, Tensor]
#: Target rows per chunk; a GPU wants fewer, larger launches.
CHUNK_ROWS = {"cpu": 16384, "cuda": 262144}


@dataclass(frozen=True)
class Segment:
    """The pairs of one kernel cell inside a chunk: rows ``start`` to ``stop`` of the chunk's products."""

    cell: int
    start: int
    stop: int


@dataclass(frozen=True)
class Chunk:
    """Target rows ``start`` to ``stop`` and the pairs that lead to them.

    Attributes:
        segments: by kernel cell, in increasing order of the cell.
        sources: int32 [P], the source row of each pair.
        targets: int32 [P], the target row of each pair.
        slots: int32 [P], the pairs grouped by target row.
        offsets: int32 [stop - start], where each target row's group starts in ``slots``.
    """

    start: int
    stop: int
    segments: tuple[Segment, ...]
    sources: Tensor
    targets: Tensor
    slots: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class GatherPlan:
    """All chunks of one direction.

    Attributes:
        chunks: in increasing order of target rows.
        num_targets: rows of the result.
        identity: the kernel cell that joins every row to itself, if there is one: it needs no gather.
    """

    chunks: tuple[Chunk, ...]
    num_targets: int
    identity: int | None

    @property
    def max_pairs(self) -> int:
        """Pairs of the largest chunk."""
        return max((len(chunk.sources) for chunk in self.chunks), default=0)

    @property
    def max_rows(self) -> int:
        """Rows of the largest chunk, which no segment exceeds."""
        return max((chunk.stop - chunk.start for chunk in self.chunks), default=0)

    def mirrored(self, volume: int) -> "GatherPlan":
        """The same gathers, with kernel cell ``volume - 1 - k`` in the place of k."""
        chunks = tuple(
            Chunk(
                chunk.start,
                chunk.stop,
                tuple(Segment(volume - 1 - part.cell, part.start, part.stop) for part in chunk.segments),
                chunk.sources,
                chunk.targets,
                chunk.slots,
                chunk.offsets,
            )
            for chunk in self.chunks
        )
        return GatherPlan(chunks, self.num_targets, self.identity)


def build_plan(pairs: Sequence[Pairs], num_targets: int, *, identity: int | None) -> GatherPlan:
    """Arranges the pairs of all kernel cells by chunk of target rows.

    Args:
        pairs: per kernel cell, int32 (source rows, target rows), targets increasing.
        num_targets: rows of the result.
        identity: see :class:`GatherPlan`.
    """
    device = pairs[0][0].device
    rows = CHUNK_ROWS.get(device.type, CHUNK_ROWS["cuda"])
    edges = [*range(0, num_targets, rows), num_targets]
    arrange = _arrange_numba if device.type == "cpu" else _arrange_torch
    sources, targets, slots, offsets, counts = arrange(pairs, edges)
    chunks = []
    base = 0
    for first, last, sizes in zip(edges[:-1], edges[1:], counts):
        segments = []
        position = 0
        for cell, size in enumerate(sizes):
            if size:
                segments.append(Segment(cell, position, position + size))
                position += size
        span = slice(base, base + position)
        chunks.append(
            Chunk(first, last, tuple(segments), sources[span], targets[span], slots[span], offsets[first:last])
        )
        base += position
    return GatherPlan(tuple(chunks), num_targets, identity)


#: Sources, targets, slots and offsets of all chunks behind each other, and per chunk the pairs of each kernel cell.
Arrangement = tuple[Tensor, Tensor, Tensor, Tensor, list[list[int]]]


def _arrange_torch(pairs: Sequence[Pairs], edges: Sequence[int]) -> Arrangement:
    """The definition in torch, for any device."""
    limits = torch.tensor(edges, dtype=torch.int32, device=pairs[0][0].device)
    cuts = torch.stack([torch.searchsorted(targets, limits) for _, targets in pairs]).diff(dim=1)
    counts = cuts.T.tolist()
    parts = [
        [rows for of_cell in zip(*(each.split(sizes) for each, sizes in zip(side, cuts.tolist()))) for rows in of_cell]
        for side in zip(*pairs)
    ]
    sources, targets = (torch.cat([limits[:0], *rows]) for rows in parts)
    slots = argsort_keys(targets.long())
    totals = torch.bincount(targets, minlength=edges[-1])
    offsets = totals.cumsum(0) - totals
    rows_of_chunk = torch.tensor([sum(sizes) for sizes in counts], dtype=torch.long, device=limits.device)
    bases = rows_of_chunk.cumsum(0) - rows_of_chunk
    slots -= bases.repeat_interleave(rows_of_chunk)
    offsets -= bases.repeat_interleave(limits.diff())
    return sources, targets, slots.int(), offsets.int(), counts


def _arrange_numba(pairs: Sequence[Pairs], edges: Sequence[int]) -> Arrangement:
    """The same on CPU, where counting beats sorting."""
    sources, targets = (torch.cat(side).numpy() for side in zip(*pairs))
    starts = np.cumsum([0, *(len(rows) for rows, _ in pairs)])
    arranged = np.empty((3, len(sources)), np.int32)
    offsets = np.zeros(edges[-1], np.int32)
    counts = np.zeros((len(edges) - 1, len(pairs)), np.int64)
    _fill_numba(sources, targets, starts, np.array(edges), arranged, offsets, counts)
    return *torch.from_numpy(arranged).unbind(), torch.from_numpy(offsets), counts.tolist()


@njit(cache=True, nogil=True)
def _fill_numba(
    sources: np.ndarray,
    targets: np.ndarray,
    starts: np.ndarray,
    edges: np.ndarray,
    arranged: np.ndarray,
    offsets: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Moves the pairs of each kernel cell, which lie behind each other, to their chunks, and groups them by target."""
    cursors = starts[:-1].copy()
    free = np.zeros(offsets.shape[0], np.int32)
    end = 0
    for chunk in range(counts.shape[0]):
        base = end
        for cell in range(counts.shape[1]):
            first = cursors[cell]
            while cursors[cell] < starts[cell + 1] and targets[cursors[cell]] < edges[chunk + 1]:
                arranged[0, end] = sources[cursors[cell]]
                arranged[1, end] = targets[cursors[cell]]
                free[arranged[1, end]] += 1
                cursors[cell] += 1
                end += 1
            counts[chunk, cell] = cursors[cell] - first
        total = 0
        for target in range(edges[chunk], edges[chunk + 1]):
            offsets[target] = total
            total += free[target]
            free[target] = offsets[target]
        for pair in range(base, end):
            target = arranged[1, pair]
            arranged[2, base + free[target]] = pair - base
            free[target] += 1
