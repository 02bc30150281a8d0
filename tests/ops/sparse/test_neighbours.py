"""Neighbour tables against the layer's definition, and the order in which their rows are taken."""

import pytest
import torch

from perceptkd.ops.sparse import SparseConv3d, SubMConv3d
from perceptkd.ops.sparse.kernel_map import build_kernel_map
from perceptkd.ops.sparse.neighbours import NeighbourTable


@pytest.mark.parametrize("layer", [SubMConv3d(1, 1, 3), SparseConv3d(1, 1, 3, stride=2, padding=1)])
def test_rows_are_those_of_the_tensors(layer, make_tensor) -> None:
    """Input and output have their rows in an order of their own."""
    tensor = make_tensor()
    kernel_map, sites = build_kernel_map(tensor.sites, layer.geometry)
    inputs = {tuple(cell): row for row, cell in enumerate(tensor.coordinates.tolist())}
    stride, padding = layer.geometry.stride, layer.geometry.padding
    for target, (sample, *cell) in enumerate(sites.coordinates.tolist()):
        for number, offset in enumerate(torch.cartesian_prod(*[torch.arange(3)] * 3).tolist()):
            place = [c * s - p + k for c, s, p, k in zip(cell, stride, padding, offset)]
            if layer.geometry.kind == "submanifold":
                place = [c + k - 1 for c, k in zip(cell, offset)]
            assert kernel_map.neighbours.rows[number, target] == inputs.get((sample, *place), -1)


def test_the_flipped_map_has_the_opposite_table(make_tensor) -> None:
    kernel_map, _ = build_kernel_map(make_tensor().sites, SparseConv3d(1, 1, 3, stride=2).geometry)
    rows, flipped = kernel_map.neighbours.rows, kernel_map.flipped().neighbours.rows
    for cell, target in (rows >= 0).nonzero().tolist():
        assert flipped[cell, rows[cell, target]] == target
    assert (flipped >= 0).sum() == (rows >= 0).sum()
    assert kernel_map.flipped().flipped().neighbours is kernel_map.neighbours


def test_rows_of_one_pattern_lie_beside_each_other() -> None:
    rows = torch.tensor([[3, -1, 0, -1, 1], [-1, 2, -1, 0, 4]], dtype=torch.int32)
    assert NeighbourTable(rows).order.tolist() == [0, 2, 1, 3, 4]
    assert NeighbourTable(rows.new_full((63, 4), -1)).order.tolist() == [0, 1, 2, 3]


def test_pairs_are_the_same_as_lists() -> None:
    rows = torch.tensor([[3, -1, 0, -1], [-1, -1, -1, -1], [-1, 2, -1, 0]], dtype=torch.int32)
    pairs, counts = NeighbourTable(rows).pairs
    assert counts.tolist() == [2, 0, 2]
    assert pairs.tolist() == [[[3, 0], [-1, -1], [2, 0]], [[0, 2], [-1, -1], [1, 3]]]
    assert pairs.dtype == counts.dtype == torch.int32
