"""Kernel maps as tables: which source row every target row meets at each kernel cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from perceptkd.ops.sparse.gather_plan import Pairs
from perceptkd.ops.sparse.sites import Order

#: More kernel cells than this do not fit the bits of one sorting key.
_PATTERN_BITS = 62


@dataclass(frozen=True)
class NeighbourTable:
    """One direction of a kernel map, in the tensors' own order of rows.

    Attributes:
        rows: int32 [K, M], the source row of each kernel cell and target row, -1 for none.
    """

    rows: Tensor

    @cached_property
    def own_order(self) -> Tensor:
        """int32 [M]: target rows as they come."""
        return torch.arange(self.rows.shape[1], dtype=torch.int32, device=self.rows.device)

    @cached_property
    def order(self) -> Tensor:
        """int32 [M]: target rows, those with the same pattern of neighbours beside each other where K allows it."""
        volume, targets = self.rows.shape
        if volume > _PATTERN_BITS:
            return self.own_order
        pattern = torch.zeros(targets, dtype=torch.int64, device=self.rows.device)
        for cell in range(volume):
            pattern |= (self.rows[cell] >= 0).long() << cell
        return torch.argsort(pattern, stable=True).int()

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """The same as lists: int32 [2, K, P] of source and target rows, filled up with -1, and int32 [K] lengths."""
        is_pair = self.rows >= 0
        counts = is_pair.sum(1)
        cells, targets = is_pair.nonzero(as_tuple=True)
        places = torch.arange(len(cells), device=cells.device) - (counts.cumsum(0) - counts)[cells]
        lists = self.rows.new_full((2, len(counts), int(counts.max())), -1)
        lists[0, cells, places] = self.rows[cells, targets]
        lists[1, cells, places] = targets.int()
        return lists, counts.int()


def build_table(
    pairs: Sequence[Pairs], num_targets: int, *, source_order: Order | None, target_order: Order | None
) -> NeighbourTable:
    """The table of a kernel map; arguments as those of :class:`perceptkd.ops.sparse.kernel_map.KernelMap`."""
    rows = torch.full((len(pairs), num_targets), -1, dtype=torch.int32, device=pairs[0][0].device)
    for cell, (sources, targets) in enumerate(pairs):
        rows[cell, _own_rows(targets, target_order).long()] = _own_rows(sources, source_order)
    return NeighbourTable(rows)


def _own_rows(rows: Tensor, order: Order | None) -> Tensor:
    """Sorted rows as rows of the tensor."""
    return rows if order is None else order.forward.index_select(0, rows)
