"""Nearest neighbours against a loop, numba against torch, and mmcv's knn and three_nn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import nearest as module
from perceptkd.ops.nearest import knn, nearest_points, three_nn


def nearest_by_definition(
    points: list[list[float]], queries: list[list[float]], k: int, limit2: float
) -> tuple[list[list[int]], list[list[float]]]:
    indices, distances2 = [], []
    for query in queries:
        pairs = [(sum((a - b) ** 2 for a, b in zip(point, query)), index) for index, point in enumerate(points)]
        pairs = sorted(pair for pair in pairs if pair[0] < limit2)[:k] + [(limit2, 0)] * k
        distances2.append([pair[0] for pair in pairs[:k]])
        indices.append([pair[1] for pair in pairs[:k]])
    return indices, distances2


def lattice(*shape: int) -> Tensor:
    """Points of a small lattice, so that most distances occur more than once."""
    return torch.randint(0, 4, (*shape, 3)).double()


@given(points=st.integers(0, 40), queries=st.integers(0, 8), k=st.integers(1, 9), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_equals_a_loop(device: str, points: int, queries: int, k: int, seed: int) -> None:
    torch.manual_seed(seed)
    clouds, centres = lattice(2, points), lattice(2, queries)
    found = knn(clouds.to(device), centres.to(device), k)
    sources = three_nn(centres.to(device), clouds.to(device))
    for cloud, centre, *results in zip(clouds.tolist(), centres.tolist(), *found, *sources):
        indices, distances2, three_distances2, three_indices = (result.tolist() for result in results)
        assert (indices, distances2) == nearest_by_definition(cloud, centre, k, 1e10)
        assert (three_indices, three_distances2) == nearest_by_definition(cloud, centre, 3, math.inf)
    assert found[0].dtype == sources[1].dtype == torch.int32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 3, 20, 400])
def test_numba_equals_torch(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, k: int) -> None:
    """Bit by bit, in blocks and in threads, with ties, broken points and points out of reach."""
    cloud, queries = torch.rand(300, 3, dtype=dtype) * 3, torch.rand(70, 3, dtype=dtype) * 4
    cloud[150:] = cloud[:150].round()
    cloud[7], cloud[8], cloud[9, 0] = torch.nan, torch.inf, 2e5
    queries[:20], queries[30] = cloud[20:40], torch.nan
    found = knn(cloud[None], queries[None], k)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 1000)
    distances2 = torch.full((70, k), module.KNN_LIMIT, dtype=dtype)
    indices = torch.zeros(70, k, dtype=torch.int32)
    module._search_torch(cloud, queries, distances2, indices)
    assert torch.equal(found[0][0], indices)
    assert torch.equal(found[1][0], distances2)
    assert not torch.isin(indices, torch.tensor([7, 8, 9])).any()
    monkeypatch.setattr(module, "_PAIRS_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert all(torch.equal(*pair) for pair in zip(found, knn(cloud[None], queries[None], k)))


def test_missing_neighbours(device: str) -> None:
    """Two points, of which the second is 200 km away."""
    cloud = torch.tensor([[[0.0, 0, 0], [0, 2e5, 0]]], device=device)
    query = torch.tensor([[[0.0, 0, 2]]], device=device)
    indices, distances2 = knn(cloud, query, 3)
    assert indices.tolist() == [[[0, 0, 0]]]
    assert distances2.tolist() == [[[4.0, 1e10, 1e10]]]
    distances2, indices = three_nn(query, cloud)
    assert indices.tolist() == [[[0, 1, 0]]]
    assert distances2[0, 0].tolist() == pytest.approx([4.0, 4e10, math.inf])


def test_mmcv_knn(device: str) -> None:
    from mmcv.ops import knn as mmcv_knn

    cloud, queries = torch.rand(2, 100, 3, device=device), torch.rand(2, 20, 3, device=device)
    ours = knn(cloud, queries, 7)[0].transpose(1, 2)
    assert torch.equal(mmcv_knn(7, cloud, queries), ours)
    assert torch.equal(mmcv_knn(7, cloud.transpose(1, 2), queries.transpose(1, 2), True), ours)
    assert torch.equal(mmcv_knn(1, cloud)[:, 0], torch.arange(100, device=device).int().expand(2, -1))


@pytest.mark.parametrize("columns", [4, 8])
def test_mmcv_reads_the_memory_of_wider_rows_as_points(device: str, columns: int) -> None:
    """What mmdet3d's DGCNN and SA-SSD get: the points of sample b start at value b * 40 * 3."""
    from mmcv.ops import knn as mmcv_knn
    from mmcv.ops import three_nn as mmcv_three_nn

    rows = torch.rand(2, 40, columns, device=device)
    points = rows.flatten()[: 2 * 40 * 3].view(2, 40, 3)
    assert torch.equal(mmcv_knn(5, rows, rows), knn(points, points, 5)[0].transpose(1, 2))
    assert torch.equal(mmcv_three_nn(rows, rows)[1], three_nn(points, points)[1])


def test_mmcv_three_nn(device: str) -> None:
    from mmcv.ops import three_nn as mmcv_three_nn

    targets, sources = torch.rand(2, 50, 3, device=device), torch.rand(2, 3, 9, device=device).transpose(1, 2)
    distances, indices = mmcv_three_nn(targets, sources)
    ours = three_nn(targets, sources)
    assert torch.equal(distances, ours[0].sqrt())
    assert torch.equal(indices, ours[1])


def test_half_types_compute_in_float32(device: str) -> None:
    cloud = torch.rand(1, 100, 3, device=device).half()
    assert torch.equal(knn(cloud, cloud, 6)[0], knn(cloud.float(), cloud.float(), 6)[0])
    distances2, indices = three_nn(cloud, cloud)
    expected = three_nn(cloud.float(), cloud.float())
    assert torch.equal(distances2, expected[0].half())
    assert torch.equal(indices, expected[1])


def test_no_clouds_and_wrong_arguments() -> None:
    assert knn(torch.zeros(0, 5, 3), torch.zeros(0, 4, 3), 2)[0].shape == (0, 4, 2)
    cloud = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"points must be .* \[B, N, 3\], got shape \(2, 5, 2\) and dtype float32"):
        knn(cloud[..., :2], cloud, 1)
    with pytest.raises(ValueError, match=r"queries must be .* \[2, M, 3\], got shape \(2, 5, 3\) and dtype int64"):
        knn(cloud, cloud.long(), 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        nearest_points(cloud, cloud, 0)
    with pytest.raises(ValueError, match=r"sources must be .* \[2, M, 3\], got shape \(5, 3\)"):
        three_nn(cloud, cloud[0])
