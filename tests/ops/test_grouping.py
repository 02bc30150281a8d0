"""Grouping rows by key: the radix sort against the torch twin, and both against a dictionary."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceptkd.ops import grouping

key_lists = st.lists(st.integers(-2, 40) | st.integers(0, 2**40), max_size=80)


def groups_by_dictionary(keys: list[int], order: str) -> tuple[list[int], list[int], list[int], list[int]]:
    """The definition, row by row."""
    members: dict[int, list[int]] = {}
    for row, key in enumerate(keys):
        if key >= 0:
            members.setdefault(key, []).append(row)
    unique = list(members) if order == "appearance" else sorted(members)
    index = [unique.index(key) if key >= 0 else -1 for key in keys]
    rank = [members[key].index(row) if key >= 0 else -1 for row, key in enumerate(keys)]
    return index, rank, unique, [len(members[key]) for key in unique]


@pytest.mark.parametrize("order", ["key", "appearance"])
@pytest.mark.parametrize("group", [grouping._group_numba, grouping._group_torch])
@given(keys=key_lists)
@settings(max_examples=40, deadline=None)
def test_groups_are_the_definitions(group, order: str, keys: list[int]) -> None:
    found = group(torch.tensor(keys, dtype=torch.int64), order)
    expected = groups_by_dictionary(keys, order)
    assert (found.index.tolist(), found.rank.tolist(), found.keys.tolist(), found.counts.tolist()) == expected


@given(keys=key_lists)
@settings(max_examples=40, deadline=None)
def test_argsort_is_stable_and_leaves_negative_keys_out(keys: list[int]) -> None:
    expected = sorted((row for row, key in enumerate(keys) if key >= 0), key=lambda row: keys[row])
    assert grouping.argsort_keys(torch.tensor(keys, dtype=torch.int64)).tolist() == expected


def test_twins_agree_on_many_rows() -> None:
    keys = torch.randint(-1, 2**28, (50_000,))
    for order in ("key", "appearance"):
        fast, twin = grouping._group_numba(keys, order), grouping._group_torch(keys, order)
        for name in ("index", "rank", "keys", "counts"):
            assert torch.equal(getattr(fast, name), getattr(twin, name)), name


def test_keys_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 rows with keys up to 4611686018427387904 do not fit"):
        grouping.group_by_key(torch.tensor([0, 2**62]))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 2\) and dtype torch.int64"):
        grouping.group_by_key(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"dtype torch\.float32"):
        grouping.argsort_keys(torch.zeros(2))
    with pytest.raises(ValueError, match="order must be 'key' or 'appearance', got 'random'"):
        grouping.group_by_key(torch.zeros(2, dtype=torch.int64), "random")
