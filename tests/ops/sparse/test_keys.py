"""Keys number cells without collisions, and bad coordinates are named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceptkd.ops.sparse.keys import linear_keys, unpack_keys


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 2000), min_size=2, max_size=3), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_keys_keep_cells_apart_and_come_back(shape, batch_size, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(limit, (50,), generator=generator) for limit in (batch_size, *shape)]
    coordinates = torch.stack(columns, dim=1).int()
    keys = linear_keys(coordinates, shape, batch_size)
    assert torch.equal(unpack_keys(keys, shape), coordinates)
    assert len(keys.unique()) == len(coordinates.unique(dim=0))


def test_all_cells_of_a_grid_are_numbered_in_order() -> None:
    coordinates = torch.ones(2, 3, 4, 5).nonzero()
    assert torch.equal(linear_keys(coordinates, (3, 4, 5), 2), torch.arange(120))


def test_keys_beyond_32_bits_are_exact() -> None:
    last = torch.tensor([[3, 1999, 99999, 99999]])
    assert linear_keys(last, (2000, 100000, 100000), 4).item() == 4 * 2000 * 10**10 - 1


@pytest.mark.parametrize(
    ("coordinate", "message"),
    [
        ([0, -1, 2, 2], "coordinate out of range: z = -1 in row 1, the grid allows 0 to 3"),
        ([0, 1, 5, 2], "coordinate out of range: y = 5 in row 1, the grid allows 0 to 4"),
        ([0, 1, 1, 6], "coordinate out of range: x = 6 in row 1, the grid allows 0 to 5"),
        ([2, 1, 1, 1], "coordinate out of range: b = 2 in row 1, the grid allows 0 to 1; raise batch_size"),
        ([0, 1, 2**31, 1], "int32 overflow: y = 2147483648 in row 1"),
    ],
)
def test_the_error_names_axis_row_and_value(coordinate, message) -> None:
    with pytest.raises(ValueError, match=message):
        linear_keys(torch.tensor([[0, 0, 0, 0], coordinate]), (4, 5, 6), 2)


@pytest.mark.parametrize(
    ("coordinates", "shape", "batch_size", "error", "message"),
    [
        (torch.zeros(2, 3).int(), (4, 5, 6), 1, ValueError, r"shape \[N, 4\] \(b, z, y, x\)"),
        (torch.zeros(2, 4), (4, 5, 6), 1, TypeError, "must be int32"),
        (torch.zeros(2, 4).int(), (4, 0, 6), 1, ValueError, "must be positive"),
        (torch.zeros(2, 4).int(), (4, 5, 6), 0, ValueError, "must be positive"),
        (torch.zeros(2, 4).int(), (4, 5, 2**31), 1, ValueError, "int32 overflow"),
        (torch.zeros(2, 4).int(), (2**30, 2**30, 2**30), 1, ValueError, "int64 overflow"),
    ],
)
def test_grids_that_cannot_be_numbered_are_refused(coordinates, shape, batch_size, error, message) -> None:
    with pytest.raises(error, match=message):
        linear_keys(coordinates, shape, batch_size)
