"""The ball query kernel against its twin, bit by bit."""

import pytest
import torch

pytest.importorskip("triton")

from perceptkd.ops import ball_query as module
from perceptkd.ops.ball_query import ball_query


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("points", [0, 1, 512, 1300])
def test_equals_the_twin(kernel_device: str, dtype: torch.dtype, points: int) -> None:
    """Clouds of no, one and several blocks, with points at the radius itself and centres that have none."""
    cloud = (torch.rand(points, 3, dtype=dtype) * 30).round() / 10
    centres = torch.cat((cloud[:8], torch.rand(6, 3, dtype=dtype) * 3, torch.full((2, 3), 50.0, dtype=dtype)))
    bounds = torch.tensor([0.01, 0.25], dtype=dtype)
    from perceptkd.ops.triton_kernels.ball_query import query

    for samples in (1, 5, 64):
        found = query(*(part.to(kernel_device) for part in (cloud, centres, bounds)), samples, -1)
        assert torch.equal(found.cpu(), module._query_torch(cloud, centres, *bounds.tolist(), samples, -1))


def test_the_op_reaches_the_kernel(kernel_device: str, on_triton: None) -> None:
    clouds, centres = torch.rand(2, 50, 3), torch.rand(2, 9, 3)
    found = ball_query(clouds.to(kernel_device), centres.to(kernel_device), max_radius=0.4, samples=3)
    expected = [
        module._query_torch(*pair, 0.0, torch.tensor(0.4).square().item(), 3, 0) for pair in zip(clouds, centres)
    ]
    assert torch.equal(found.cpu(), torch.stack(expected))
