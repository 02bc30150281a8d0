"""Kernel maps: which input row meets which output row at each cell of the kernel, in sorted order of cells."""

import itertools
import math
from collections.abc import Sequence

import torch

from perceptkd.ops.grouping import group_by_key
from perceptkd.ops.sparse.gather_plan import GatherPlan, Pairs, build_plan
from perceptkd.ops.sparse.geometry import Geometry
from perceptkd.ops.sparse.keys import INT64_MAX, pack_keys, unpack_keys
from perceptkd.ops.sparse.map_search import neighbour_pairs, reached_keys
from perceptkd.ops.sparse.neighbours import NeighbourTable, build_table
from perceptkd.ops.sparse.sites import Order, Sites


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


@torch.inference_mode(False)
def build_kernel_map(sites: Sites, geometry: Geometry) -> tuple[KernelMap, Sites]:
    """The map of one layer and the sites of its output; computed once per sites and geometry.

    Submanifold output keeps the input's sites and order of rows, all other output is sorted by cell. A map that a
    prediction built serves a training too.
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
    half, width = [size // 2 for size in geometry.kernel_size], geometry.kernel_size[-1]
    pitch = [n + h * d for n, h, d in zip(sites.spatial_shape, half, geometry.dilation)]
    if math.prod(pitch) * sites.batch_size > INT64_MAX:
        raise ValueError(f"int64 overflow: {sites.batch_size} grids of {pitch} cells (with the kernel's margin)")
    keys = pack_keys(sites.sorted_coordinates, pitch)
    centre = geometry.volume // 2
    starts = []
    for outer in itertools.islice(itertools.product(*(range(-h, h + 1) for h in half[:-1])), -(-centre // width)):
        start = 0
        for step, dilation, length in zip((*outer, -half[-1]), geometry.dilation, pitch):
            start = start * length + step * dilation
        starts.append(start)
    found = neighbour_pairs(keys, starts, width, geometry.dilation[-1], centre)
    rows = torch.arange(len(sites), dtype=torch.int32, device=keys.device)
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
    rows, keys, counts = reached_keys(sites.sorted_coordinates, geometry, shape)
    groups = group_by_key(keys)
    target = Sites.from_sorted(unpack_keys(groups.keys, shape), shape, sites.batch_size)
    kernel_map = KernelMap(
        list(zip(rows.split(counts), groups.index.split(counts))),
        source_order=sites.order,
        target_order=None,
        num_sources=len(sites),
        num_targets=len(target),
    )
    return kernel_map, target
