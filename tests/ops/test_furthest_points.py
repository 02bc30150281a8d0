"""Furthest point sampling against a loop, numba against torch, and mmcv's entry points."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import furthest_points as module
from perceptkd.ops.furthest_points import furthest_point_sample, furthest_point_sample_with_dist


def sample_by_definition(distances: list[list[float]], count: int) -> list[int]:
    chosen = [0]
    while len(chosen) < count:
        nearest = [min(1e10, *(distances[index][k] for index in chosen)) for k in range(len(distances))]
        chosen.append(nearest.index(max(nearest)))
    return chosen[:count]


def squared_distances(points: Tensor) -> list[list[float]]:
    return [[sum((a - b) ** 2 for a, b in zip(p, q)) for q in points.tolist()] for p in points.tolist()]


def clouds(points: int, *, is_lattice: bool) -> Tensor:
    """Two clouds; on the lattice most distances occur more than once, and some points are equal."""
    return torch.randint(0, 4, (2, points, 3)).double() if is_lattice else torch.rand(2, points, 3).double()


@given(points=st.integers(1, 40), count=st.integers(0, 45), is_lattice=st.booleans(), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_equals_a_loop(device: str, points: int, count: int, is_lattice: bool, seed: int) -> None:
    torch.manual_seed(seed)
    cloud = clouds(points, is_lattice=is_lattice)
    expected = [sample_by_definition(squared_distances(part), count) for part in cloud]
    found = furthest_point_sample(cloud.to(device), count)
    assert found.dtype == torch.int32
    assert found.tolist() == expected
    distances = torch.tensor([squared_distances(part) for part in cloud], dtype=torch.float64, device=device)
    assert furthest_point_sample_with_dist(distances, count).tolist() == expected


def test_distances_need_not_be_symmetric(device: str) -> None:
    """Row i holds the distances from point i."""
    distances = torch.rand(3, 20, 20, dtype=torch.float64)
    expected = [sample_by_definition(part, 20) for part in distances.tolist()]
    assert furthest_point_sample_with_dist(distances.to(device), 20).tolist() == expected
    flipped = distances.transpose(1, 2).contiguous().transpose(1, 2)
    assert furthest_point_sample_with_dist(flipped.to(device), 20).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numba_equals_torch(dtype: torch.dtype) -> None:
    """Bit by bit."""
    cloud = clouds(500, is_lattice=False).to(dtype)
    cloud[1, 250:] = cloud[1, :250].round()
    distances = torch.cdist(cloud, cloud)
    columns = cloud.transpose(1, 2).contiguous()
    assert torch.equal(furthest_point_sample(cloud, 300), module._sample_points_torch(columns, 300))
    assert torch.equal(furthest_point_sample_with_dist(distances, 300), module._sample_rows_torch(distances, 300))


def test_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = torch.rand(5, 200, 3)
    found = furthest_point_sample(cloud, 50)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(found, furthest_point_sample(cloud, 50))


def test_more_samples_than_points_repeat_the_first(device: str) -> None:
    cloud = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1, 0, 0]]], device=device)
    assert furthest_point_sample(cloud, 5).tolist() == [[0, 1, 0, 0, 0]]


def test_broken_points_are_taken_as_furthest(device: str) -> None:
    """As in mmcv: no distance to them is less than their initial one."""
    cloud = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [torch.nan, 0, 0], [3, 0, 0]]], device=device)
    assert furthest_point_sample(cloud, 4).tolist() == [[0, 2, 2, 2]]


def test_mmcv_function(device: str) -> None:
    from mmcv.ops import PointsSampler
    from mmcv.ops import furthest_point_sample as mmcv_furthest_point_sample

    cloud = torch.rand(2, 100, 3, device=device)
    ours = furthest_point_sample(cloud, 30)
    assert torch.equal(mmcv_furthest_point_sample(cloud, 30), ours)
    assert torch.equal(PointsSampler([30])(cloud, None), ours)
    assert all(len(row.unique()) == 30 for row in ours)


def test_mmcv_sampling_by_features(device: str) -> None:
    from mmcv.ops.points_sampler import FFPSSampler, calc_square_dist

    cloud, features = torch.rand(2, 60, 3, device=device), torch.rand(2, 5, 60, device=device)
    rows = torch.cat((cloud, features.transpose(1, 2)), dim=2)
    ours = furthest_point_sample_with_dist(calc_square_dist(rows, rows, norm=False), 20)
    assert torch.equal(FFPSSampler()(cloud, features, 20), ours)


def test_half_types_no_clouds_and_wrong_arguments() -> None:
    cloud = torch.rand(1, 50, 3).half()
    assert torch.equal(furthest_point_sample(cloud, 20), furthest_point_sample(cloud.float(), 20))
    assert furthest_point_sample(torch.zeros(0, 5, 3), 4).shape == (0, 4)
    assert furthest_point_sample(torch.zeros(2, 0, 3), 0).shape == (2, 0)
    with pytest.raises(ValueError, match=r"points must be .* \[B, N, 3\], got shape \(5, 3\) and dtype float32"):
        furthest_point_sample(torch.zeros(5, 3), 2)
    with pytest.raises(ValueError, match=r"distances must be .* \[B, N, N\], got shape \(1, 5, 4\)"):
        furthest_point_sample_with_dist(torch.zeros(1, 5, 4), 2)
    with pytest.raises(ValueError, match=r"cannot sample 2 points from a tensor of shape \(1, 0, 3\)"):
        furthest_point_sample(torch.zeros(1, 0, 3), 2)
