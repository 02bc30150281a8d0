"""Sorting of sites, and duplicates."""

import pytest
import torch

from perceptkd.ops.sparse.sites import Sites


def test_order_sorts_and_unsorts() -> None:
    cells = (torch.rand(2, 4, 5, 6) < 0.5).nonzero().int()
    shuffled = cells[torch.randperm(len(cells))]
    sites = Sites(shuffled, (4, 5, 6), 2)
    assert torch.equal(sites.sorted_coordinates, cells)
    assert torch.equal(sites.sorted_coordinates[sites.order.inverse.long()], shuffled)


def test_sorted_sites_need_no_order() -> None:
    assert Sites((torch.rand(2, 4, 5) < 0.5).nonzero(), (4, 5), 2).order is None


def test_duplicates_are_named() -> None:
    coordinates = torch.tensor([[0, 1, 2], [1, 3, 0], [0, 0, 0], [1, 3, 0]]).int()
    with pytest.raises(ValueError, match=r"rows 1 and 3 are both the cell \(b=1, y=3, x=0\), and 1 rows"):
        _ = Sites(coordinates, (4, 5), 2).order


def test_equality_ignores_the_order_of_rows_only() -> None:
    cells = (torch.rand(1, 4, 5) < 0.5).nonzero().int()
    sites = Sites(cells, (4, 5), 1)
    assert sites.equals(Sites(cells.flip(0), (4, 5), 1))
    assert not sites.equals(Sites(cells[1:], (4, 5), 1))
    assert not sites.equals(Sites(cells, (4, 6), 1))


def test_shape_may_be_a_tensor() -> None:
    assert Sites(torch.zeros(1, 4).int(), torch.tensor([2, 3, 4]), 1).spatial_shape == (2, 3, 4)
