"""Neighbours in feature space against all distances in float64, and where single precision is at its limit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceptkd.ops import nearest_features as module
from perceptkd.ops.nearest_features import nearest_features


@settings(max_examples=60, deadline=None)
@given(
    features=st.integers(1, 40),
    queries=st.integers(0, 20),
    channels=st.integers(1, 8),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
    at_once=st.integers(1, 200),
)
def test_no_other_row_is_nearer(
    features: int, queries: int, channels: int, share: float, seed: int, at_once: int
) -> None:
    """Whatever chunks the work is cut into."""
    generator = torch.Generator().manual_seed(seed)
    rows, wanted = (torch.randn(count, channels, generator=generator) for count in (features, queries))
    k = max(1, round(share * features))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PAIRS_AT_ONCE", at_once)
        found = nearest_features(rows, wanted, k)
    assert found.shape == (queries, k)
    distances = torch.cdist(wanted.double(), rows.double())
    expected = distances.topk(k, largest=False).values
    assert torch.allclose(distances.gather(1, found).sort(dim=1).values, expected, atol=1e-4)
    assert all(len(set(row)) == k for row in found.tolist())


def test_a_row_is_among_its_own_neighbours() -> None:
    rows = torch.randn(300, 16)
    found = nearest_features(rows, rows, 4)
    assert (found == torch.arange(300)[:, None]).any(dim=1).all()


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_features_far_from_zero_keep_their_neighbours(offset: float) -> None:
    """In the expanded square of 1000 + x, float32 would leave nothing of distances of 0.1."""
    rows = torch.rand(200, 8, dtype=torch.float64)
    expected = torch.cdist(rows, rows).topk(5, largest=False).indices.sort(dim=1).values
    shifted = (rows + offset).float()
    found = nearest_features(shifted, shifted, 5).sort(dim=1).values
    assert (found == expected).float().mean() > 0.995


def test_autocast_does_not_reach_the_distances() -> None:
    rows = torch.randn(200, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest_features(rows, rows, 8)
    assert torch.equal(found.sort(dim=1).values, nearest_features(rows, rows, 8).sort(dim=1).values)


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbours_than_rows_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k must be from 1 to 3"):
        nearest_features(torch.zeros(3, 2), torch.zeros(1, 2), k)
