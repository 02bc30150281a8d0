"""Kernel maps: which input row meets which output row at each cell of the kernel.

Rows are taken in sorted order of cells, in which the targets of one kernel cell increase with its sources. A search for
all sources at once therefore walks memory forward, and along x one search serves a whole row of the kernel: the lower
bound of ``key + 1`` is the lower bound of ``key``, plus one where the key was found.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from perceptkd.ops.grouping import group_by_key
from perceptkd.ops.sparse.gather_plan import GatherPlan, Pairs, build_plan
from perceptkd.ops.sparse.keys import INT32_MAX, INT64_MAX, pack_keys, unpack_keys
from perceptkd.ops.sparse.neighbours import NeighbourTable, build_table
from perceptkd.ops.sparse.sites import Order, Sites

Kind = Literal["submanifold", "strided", "transposed"]


@dataclass(frozen=True)
class Geometry:
    """Which cells a kernel joins. Every tuple has one entry per spatial axis.

    At kernel cell k, ``strided`` joins input i to output o where ``i = o * stride - padding + k * dilation``,
    ``transposed`` the same with i and o exchanged, and ``submanifold`` where ``i = o + (k - kernel_size // 2) *
    dilation`` and o is an input cell too.
    """

    kind: Kind
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]

    @property
    def volume(self) -> int:
        """Number of kernel cells, K."""
        return math.prod(self.kernel_size)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The grid of the output; raises ValueError where it would be empty."""
        if self.kind == "submanifold":
            return tuple(shape)
        sizes = []
        for axis, length in enumerate(shape):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1)
            stride, padding = self.stride[axis], self.padding[axis]
            if self.kind == "strided":
                sizes.append((length + 2 * padding - reach - 1) // stride + 1)
            else:
                sizes.append((length - 1) * stride - 2 * padding + reach + 1 + self.output_padding[axis])
        if min(sizes) < 1:
            raise ValueError(f"{self} turns the grid {tuple(shape)} into {tuple(sizes)}, which has no cells")
        if max(sizes) > INT32_MAX:
            raise ValueError(f"int32 overflow: {self} turns the grid {tuple(shape)} into {tuple(sizes)}")
        return tuple(sizes)


class KernelMap:
    """Row pairs of each kernel cell, with plans and tables of both directions built on first use and then kept.

    Attributes:
        pairs: per kernel cell, int32 (source rows, target rows) in sorted order of cells; targets increase.
        source_order, target_order: how the tensors' rows relate to sorted rows; None where they are sorted.
        num_sources, num_targets: rows of the input and the output.
        symmetric: whether the pairs of kernel cell K - 1 - k are those of k exchanged (submanifold).
    """

    def __init__(
        self,
        pairs: Sequence[Pairs],
        *,
        source_order: Order | None,
        target_order: Order | None,
        num_sources: int,
        num_targets: int,
        symmetric: bool = False,
    ) -> None:
        self.pairs = tuple(pairs)
        self.source_order, self.target_order = source_order, target_order
        self.num_sources, self.num_targets = num_sources, num_targets
        self.symmetric = symmetric
        self._plans: dict[str, GatherPlan] = {}
        self._tables: dict[str, NeighbourTable] = {}
        self._directions = ("forward", "backward")

    def flipped(self) -> "KernelMap":
        """The map of the opposite direction, which shares the plans of this one."""
        other = KernelMap(
            [(target, source) for source, target in self.pairs],
            source_order=self.target_order,
            target_order=self.source_order,
            num_sources=self.num_targets,
            num_targets=self.num_sources,
            symmetric=self.symmetric,
        )
        other._plans, other._tables, other._directions = self._plans, self._tables, self._directions[::-1]
        return other

    @property
    def plan(self) -> GatherPlan:
        """How to compute target rows from source rows."""
        direction = self._directions[0]
        if direction not in self._plans:
            identity = len(self.pairs) // 2 if self.symmetric else None
            self._plans[direction] = build_plan(self.pairs, self.num_targets, identity=identity)
        return self._plans[direction]

    @property
    def neighbours(self) -> NeighbourTable:
        """The same as a table."""
        direction = self._directions[0]
        if direction not in self._tables:
            self._tables[direction] = build_table(
                self.pairs, self.num_targets, source_order=self.source_order, target_order=self.target_order
            )
        return self._tables[direction]

    @property
    def gradient_plan(self) -> GatherPlan:
        """How to compute source rows from target rows: for a symmetric map, the same gathers with mirrored kernel."""
        return self.plan.mirrored(len(self.pairs)) if self.symmetric else self.flipped().plan


def build_kernel_map(sites: Sites, geometry: Geometry) -> tuple[KernelMap, Sites]:
    """The map of one layer and the sites of its output; computed once per sites and geometry.

    Submanifold output keeps the input's sites and order of rows, all other output is sorted by cell.
    """
    if geometry not in sites.maps:
        build = _submanifold_map if geometry.kind == "submanifold" else _resampling_map
        sites.maps[geometry] = build(sites, geometry)
    kernel_map, target = sites.maps[geometry]
    return kernel_map, sites if target is None else target


def _submanifold_map(sites: Sites, geometry: Geometry) -> tuple[KernelMap, None]:
    """Half of the kernel by search, the other by symmetry. Gaps between grid rows keep neighbours from wrapping."""
    if any(size % 2 == 0 for size in geometry.kernel_size):
        raise ValueError(f"a submanifold kernel needs a centre cell: make {geometry.kernel_size} odd")
    half = [size // 2 for size in geometry.kernel_size]
    pitch = [n + h * d for n, h, d in zip(sites.spatial_shape, half, geometry.dilation)]
    if math.prod(pitch) * sites.batch_size > INT64_MAX:
        raise ValueError(f"int64 overflow: {sites.batch_size} grids of {pitch} cells (with the kernel's margin)")
    keys = pack_keys(sites.sorted_coordinates, pitch)
    padded = torch.cat([keys, keys.new_tensor([INT64_MAX])])
    centre = geometry.volume // 2
    found: list[Pairs] = []
    for outer in itertools.product(*(range(-h, h + 1) for h in half[:-1])):
        if len(found) >= centre:
            break
        offset = 0
        for step, dilation, length in zip((*outer, -half[-1]), geometry.dilation, pitch):
            offset = offset * length + step * dilation
        query = keys + offset
        place = torch.searchsorted(padded, query)
        for step in range(geometry.kernel_size[-1]):
            hit = padded.index_select(0, place) == query
            rows = torch.nonzero(hit).squeeze(1)
            found.append((place.index_select(0, rows).int(), rows.int()))
            if len(found) >= centre:
                break
            for _ in range(geometry.dilation[-1] if step + 1 < geometry.kernel_size[-1] else 0):
                place, query = place + (padded.index_select(0, place) == query), query + 1
    rows = torch.arange(len(sites), dtype=torch.int32, device=keys.device)
    found = found[:centre]
    pairs = [*found, (rows, rows), *((target, source) for source, target in reversed(found))]
    order = sites.order
    return KernelMap(
        pairs,
        source_order=order,
        target_order=order,
        num_sources=len(sites),
        num_targets=len(sites),
        symmetric=True,
    ), None


def _resampling_map(sites: Sites, geometry: Geometry) -> tuple[KernelMap, Sites]:
    """Every output cell that some input cell reaches, sorted; input to output, one kernel cell after another."""
    shape = geometry.output_shape(sites.spatial_shape)
    if math.prod(shape) * sites.batch_size > INT64_MAX:
        raise ValueError(f"int64 overflow: {sites.batch_size} grids of {shape} have more than {INT64_MAX} cells")
    columns = sites.sorted_coordinates.long().unbind(1)
    rows = torch.arange(len(sites), device=columns[0].device)
    reached = [(rows, columns[0])]
    for axis, length in enumerate(shape):
        reached = [
            _advance(rows, keys, columns[axis + 1], geometry, axis, cell, length)
            for rows, keys in reached
            for cell in range(geometry.kernel_size[axis])
        ]
    groups = group_by_key(torch.cat([keys for _, keys in reached]))
    targets = groups.index.split([len(rows) for rows, _ in reached])
    target = Sites.from_sorted(unpack_keys(groups.keys, shape), shape, sites.batch_size)
    kernel_map = KernelMap(
        [(rows.int(), target_rows) for (rows, _), target_rows in zip(reached, targets)],
        source_order=sites.order,
        target_order=None,
        num_sources=len(sites),
        num_targets=len(target),
    )
    return kernel_map, target


def _advance(
    rows: Tensor, keys: Tensor, column: Tensor, geometry: Geometry, axis: int, cell: int, length: int
) -> tuple[Tensor, Tensor]:
    """Extends partial output keys by one axis and drops the rows that reach no output cell at this kernel cell."""
    position = column.index_select(0, rows)
    shift = cell * geometry.dilation[axis]
    padding, stride = geometry.padding[axis], geometry.stride[axis]
    if geometry.kind == "transposed":
        output = position * stride - padding + shift
        valid = (output >= 0) & (output < length)
    else:
        reach = position + padding - shift
        output = torch.div(reach, stride, rounding_mode="floor")
        valid = (reach >= 0) & (output < length)
        if stride > 1:
            valid &= output * stride == reach
    kept = torch.nonzero(valid).squeeze(1)
    return rows.index_select(0, kept), keys.index_select(0, kept) * length + output.index_select(0, kept)
