"""Ball query against a loop, numba against torch, and mmcv's two entry points."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import ball_query as module
from perceptkd.ops.ball_query import ball_query, stack_ball_query


def neighbours_by_definition(
    points: list[list[float]], centres: list[list[float]], low: float, high: float, samples: int, empty: int = 0
) -> list[list[int]]:
    rows = []
    for centre in centres:
        found = []
        for index, point in enumerate(points):
            squared = sum((a - b) ** 2 for a, b in zip(point, centre))
            if squared == 0 or low**2 <= squared < high**2:
                found.append(index)
        found = found[:samples]
        rows.append(found + [found[0]] * (samples - len(found)) if found else [empty] + [0] * (samples - 1))
    return rows


def lattice(*shape: int) -> Tensor:
    """Points of a small lattice: many are equal, and many distances are exactly 1 and 2."""
    return torch.randint(0, 4, (*shape, 3)).double()


@given(
    points=st.integers(0, 40),
    centres=st.integers(0, 12),
    samples=st.integers(1, 6),
    low=st.sampled_from([0.0, 1.0]),
    high=st.sampled_from([1.5, 2.0]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_equals_a_loop(
    device: str, points: int, centres: int, samples: int, low: float, high: float, seed: int
) -> None:
    torch.manual_seed(seed)
    clouds, queries = lattice(2, points), lattice(2, centres)
    expected = [neighbours_by_definition(*pair, low, high, samples) for pair in zip(clouds.tolist(), queries.tolist())]
    found = ball_query(clouds.to(device), queries.to(device), min_radius=low, max_radius=high, samples=samples)
    assert found.dtype == torch.int32
    assert found.tolist() == expected


def test_a_centre_alone_in_its_hole_finds_itself() -> None:
    cloud = torch.tensor([[[0.0, 0, 0], [3, 0, 0]]])
    assert ball_query(cloud, cloud, min_radius=1.0, max_radius=2.0, samples=2).tolist() == [[[0, 0], [1, 1]]]


def test_radius_is_rounded_as_the_points_are() -> None:
    """In float32, 0.7 squared is less than the real 0.49, and so is the squared distance of a point at 0.7."""
    cloud = torch.tensor([[[0.0, 0, 0], [0.7, 0, 0]]])
    assert ball_query(cloud, cloud[:, :1], max_radius=0.7, samples=2).tolist() == [[[0, 0]]]
    assert ball_query(cloud, cloud[:, :1], min_radius=0.7, max_radius=1.0, samples=2).tolist() == [[[0, 1]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.8), (0.5, 2.0), (0.0, 1e-3)])
def test_numba_equals_torch(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, low: float, high: float) -> None:
    """Bit by bit, in blocks and in threads."""
    cloud, centres = torch.rand(300, 3, dtype=dtype) * 3, torch.rand(70, 3, dtype=dtype) * 4
    cloud[150:] = cloud[:150].round()
    centres[:20] = cloud[:20]
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 1000)
    found = ball_query(cloud[None], centres[None], min_radius=low, max_radius=high, samples=5)[0]
    squared = (torch.tensor([low, high], dtype=dtype) ** 2).tolist()
    assert torch.equal(found, module._query_torch(cloud, centres, *squared, 5, 0))
    monkeypatch.setattr(module, "_PAIRS_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(found, ball_query(cloud[None], centres[None], min_radius=low, max_radius=high, samples=5)[0])


def test_stacked_clouds(device: str) -> None:
    """Four clouds, the second without points and the third without centres; some centres far from all points."""
    point_counts, centre_counts = [30, 0, 5, 20], [6, 2, 0, 9]
    points, centres = lattice(55), lattice(17)
    centres[3], centres[-1] = torch.tensor([50.0, 0, 0]), torch.tensor([0.0, 0, 9])
    expected = []
    for cloud, queries in zip(points.split(point_counts), centres.split(centre_counts)):
        expected += neighbours_by_definition(cloud.tolist(), queries.tolist(), 0.0, 2.0, 7, empty=-1)
    counts = [torch.tensor(values, dtype=torch.int32, device=device) for values in (point_counts, centre_counts)]
    moved = points.to(device), counts[0], centres.to(device), counts[1]
    found = stack_ball_query(*moved, max_radius=2.0, samples=7)
    assert found.tolist() == expected
    assert found[3].tolist() == [-1, 0, 0, 0, 0, 0, 0]


def test_mmcv_entry_points(device: str) -> None:
    from mmcv.ops import ball_query as mmcv_ball_query

    clouds, centres = torch.rand(2, 200, 3, device=device), torch.rand(2, 30, 3, device=device)
    ours = ball_query(clouds, centres, min_radius=0.1, max_radius=0.3, samples=8)
    assert torch.equal(mmcv_ball_query(0.1, 0.3, 8, clouds, centres), ours)
    assert ours.unique().numel() > 50
    counts = (
        torch.tensor([150, 250], dtype=torch.int32, device=device),
        torch.tensor([40, 20], dtype=torch.int32, device=device),
    )
    stacked = clouds.flatten(0, 1), centres.flatten(0, 1)
    ours = stack_ball_query(stacked[0], counts[0], stacked[1], counts[1], max_radius=0.05, samples=8)
    assert torch.equal(mmcv_ball_query(0, 0.05, 8, *stacked, *counts), ours)
    assert (ours[:, 0] == -1).any()


def test_half_types_compute_in_float32(device: str) -> None:
    cloud = torch.rand(1, 100, 3, device=device).half()
    found = ball_query(cloud, cloud, max_radius=0.25, samples=6)
    assert torch.equal(found, ball_query(cloud.float(), cloud.float(), max_radius=0.25, samples=6))


def test_any_layout_and_no_clouds() -> None:
    columns = torch.rand(2, 3, 50)
    found = ball_query(columns.transpose(1, 2), columns.transpose(1, 2), max_radius=0.3, samples=4)
    cloud = columns.transpose(1, 2).contiguous()
    assert torch.equal(found, ball_query(cloud, cloud, max_radius=0.3, samples=4))
    assert ball_query(torch.zeros(0, 5, 3), torch.zeros(0, 4, 3), max_radius=1.0, samples=3).shape == (0, 4, 3)
    none = torch.zeros(0, dtype=torch.int32)
    assert stack_ball_query(torch.zeros(0, 3), none, torch.zeros(0, 3), none, max_radius=1.0, samples=3).shape == (0, 3)


def test_wrong_arguments_are_named() -> None:
    cloud = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"points must be .* \[B, N, 3\], got shape \(5, 3\) and dtype float32"):
        ball_query(cloud[0], cloud, max_radius=1.0, samples=3)
    with pytest.raises(ValueError, match=r"centres must be .* \[2, M, 3\], got shape \(1, 5, 3\)"):
        ball_query(cloud, cloud[:1], max_radius=1.0, samples=3)
    with pytest.raises(ValueError, match=r"0 <= min_radius < max_radius .* got min_radius=2.0, max_radius=1.0"):
        ball_query(cloud, cloud, min_radius=2.0, max_radius=1.0, samples=3)
    with pytest.raises(ValueError, match=r"samples must be at least 1, got .* samples=0"):
        ball_query(cloud, cloud, max_radius=1.0, samples=0)
    counts = torch.tensor([2, 3], dtype=torch.int32)
    with pytest.raises(
        ValueError, match=r"centre_counts must sum to the number of centres, got \[2, 3\] for shape \(4"
    ):
        stack_ball_query(cloud[0], counts, cloud[0, :4], counts, max_radius=1.0, samples=3)
