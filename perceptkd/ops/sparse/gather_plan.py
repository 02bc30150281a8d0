"""The order in which one direction of a sparse convolution is computed: gather, multiply, sum.

Target rows are taken in chunks, so that the gathered rows and the products of a chunk stay in cache and no buffer grows
with the number of pairs. Inside a chunk the products of all kernel cells lie one below the other, and every target row
sums its own: no two writers meet, so the result is the same on every run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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
    limits = torch.tensor(edges, dtype=torch.int32, device=device)
    cuts = torch.stack([torch.searchsorted(targets, limits) for _, targets in pairs]).tolist()
    parts = [
        [(cell, cuts[cell][i], cuts[cell][i + 1]) for cell in range(len(pairs)) if cuts[cell][i] < cuts[cell][i + 1]]
        for i in range(len(edges) - 1)
    ]
    flat = [part for chunk in parts for part in chunk]
    empty = limits[:0]
    sources = torch.cat([empty, *(pairs[cell][0][start:stop] for cell, start, stop in flat)])
    targets = torch.cat([empty, *(pairs[cell][1][start:stop] for cell, start, stop in flat)])
    slots = argsort_keys(targets.long()).int()
    counts = torch.bincount(targets, minlength=num_targets)
    offsets = (counts.cumsum(0) - counts).int()
    chunks = []
    base = 0
    for first, last, chunk in zip(edges[:-1], edges[1:], parts):
        segments = []
        position = base
        for cell, start, stop in chunk:
            segments.append(Segment(cell, position - base, position - base + stop - start))
            position += stop - start
        span = slice(base, position)
        chunks.append(
            Chunk(
                first,
                last,
                tuple(segments),
                sources[span],
                targets[span],
                slots[span] - base,
                offsets[first:last] - base,
            )
        )
        base = position
    return GatherPlan(tuple(chunks), num_targets, identity)
