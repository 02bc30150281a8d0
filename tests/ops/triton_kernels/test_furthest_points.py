"""The sampling kernel against its twin, bit by bit."""

import pytest
import torch

pytest.importorskip("triton")

from perceptkd.ops import furthest_points as module
from perceptkd.ops.furthest_points import furthest_point_sample


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("points", "count"), [(1, 3), (50, 20), (5000, 6)])
def test_equals_the_twin(kernel_device: str, on_triton: None, dtype: torch.dtype, points: int, count: int) -> None:
    """On a lattice, where most distances are equal; the last cloud takes three blocks."""
    cloud = torch.randint(0, 9, (2, points, 3)).to(dtype)
    found = furthest_point_sample(cloud.to(kernel_device), count)
    assert torch.equal(found.cpu(), module._sample_points_torch(cloud.transpose(1, 2).contiguous(), count))


def test_broken_points_are_taken_as_furthest(kernel_device: str, on_triton: None) -> None:
    cloud = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [torch.nan, 0, 0], [3, 0, 0]]], device=kernel_device)
    assert furthest_point_sample(cloud, 4).tolist() == [[0, 2, 2, 2]]


def test_nothing_to_sample(kernel_device: str, on_triton: None) -> None:
    assert furthest_point_sample(torch.zeros(0, 5, 3, device=kernel_device), 4).shape == (0, 4)
    assert furthest_point_sample(torch.zeros(2, 0, 3, device=kernel_device), 0).shape == (2, 0)
