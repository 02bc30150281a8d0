"""Chamfer distance against a loop, its gradients, and mmcv's function on top."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceptkd.ops.chamfer_distance import chamfer_distance


def nearest_by_definition(points: list[list[float]], others: list[list[float]]) -> tuple[list[float], list[int]]:
    squared = [[(x - u) ** 2 + (y - v) ** 2 for u, v in others] for x, y in points]
    return [min(row) for row in squared], [row.index(min(row)) for row in squared]


@given(first=st.integers(1, 20), second=st.integers(1, 20), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_equals_a_loop(device: str, first: int, second: int, seed: int) -> None:
    """On a small lattice, where points are equal and distances tie."""
    torch.manual_seed(seed)
    sets = [torch.randint(0, 4, (2, count, 2)).double() for count in (first, second)]
    found = chamfer_distance(*(points.to(device) for points in sets))
    for clouds, *results in zip(zip(*(points.tolist() for points in sets)), *found):
        distances1, distances2, indices1, indices2 = (result.tolist() for result in results)
        assert (distances1, indices1) == nearest_by_definition(*clouds)
        assert (distances2, indices2) == nearest_by_definition(*clouds[::-1])


def test_gradcheck(device: str) -> None:
    sets = [torch.rand(2, count, 2, dtype=torch.float64, device=device, requires_grad=True) for count in (6, 4)]
    assert torch.autograd.gradcheck(lambda *points: chamfer_distance(*points)[:2], sets)


def test_mmcv_function_and_its_backward(device: str) -> None:
    from mmcv.ops import chamfer_distance as mmcv_chamfer

    sets = [torch.rand(2, count, 2, device=device, requires_grad=True) for count in (30, 20)]
    theirs, ours = mmcv_chamfer(*sets), chamfer_distance(*sets)
    assert all(torch.equal(*pair) for pair in zip(theirs, ours))
    weights = [torch.rand_like(distance) for distance in ours[:2]]
    gradients, expected = (
        torch.autograd.grad(sum((part * weight).sum() for part, weight in zip(result, weights)), sets)
        for result in (theirs, ours)
    )
    for pair in zip(gradients, expected):
        torch.testing.assert_close(*pair)


def test_half_types_empty_input_and_wrong_arguments() -> None:
    sets = torch.rand(2, 30, 2).half(), torch.rand(2, 20, 2).half()
    found, expected = chamfer_distance(*sets), chamfer_distance(*(points.float() for points in sets))
    assert torch.equal(found[0], expected[0].half())
    assert torch.equal(found[2], expected[2])
    assert chamfer_distance(torch.zeros(0, 3, 2), torch.zeros(0, 4, 2))[1].shape == (0, 4)
    none = torch.zeros(2, 0, 2, requires_grad=True)
    distances = chamfer_distance(none, none)[0]
    assert distances.shape == (2, 0)
    assert torch.autograd.grad(distances.sum(), none)[0].shape == (2, 0, 2)
    with pytest.raises(ValueError, match=r"nearest in an empty set, got shape \(1, 4, 2\) .* and shape \(1, 0, 2\)"):
        chamfer_distance(torch.zeros(1, 4, 2), torch.zeros(1, 0, 2))
    with pytest.raises(ValueError, match=r"second must be .* \[1, M, 2\], got shape \(1, 4, 3\) and dtype float32"):
        chamfer_distance(torch.zeros(1, 4, 2), torch.zeros(1, 4, 3))
