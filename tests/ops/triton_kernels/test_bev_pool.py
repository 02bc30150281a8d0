"""The pooling kernels against embedding_bag, with gradients."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from perceptkd.ops import bev_pool as module
from perceptkd.ops.bev_pool import bev_pool

CELLS = 6


def random_case(points: int, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights = torch.rand(points, dtype=torch.float64, requires_grad=True)
    features = torch.randn(5, channels, dtype=torch.float64, requires_grad=True)
    return weights, features, torch.randint(0, 4, (points,)), torch.randint(-2, CELLS - 1, (points,))


@pytest.mark.parametrize(("points", "channels"), [(0, 3), (40, 3), (60, 130)])
def test_equals_the_twin(kernel_device: str, monkeypatch: pytest.MonkeyPatch, points: int, channels: int) -> None:
    """Forward and backward; one row of features and the last cell have no points."""
    case = random_case(points, channels)
    upstream = torch.randn(CELLS, channels, dtype=torch.float64)
    results = []
    for is_kernel in (False, True):
        monkeypatch.setattr(module, "runs_on_triton", lambda _, answer=is_kernel: answer)
        device = kernel_device if is_kernel else "cpu"
        pooled = bev_pool(*(part.to(device) for part in case), CELLS)
        gradients = torch.autograd.grad(pooled, case[:2], upstream.to(device))
        results.append([pooled.cpu(), *gradients])
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected)


def test_rows_that_do_not_exist_are_an_error(kernel_device: str, on_triton: None) -> None:
    """A kernel would read foreign memory."""
    weights, features, rows, cells = (part.detach().to(kernel_device) for part in random_case(10, 3))
    rows[4], cells[4] = 5, 0
    with pytest.raises(ValueError, match=r"feature_index holds rows \d to 5 of 5"):
        bev_pool(weights, features, rows, cells, CELLS)


def test_runs_repeat_exactly_in_bf16(kernel_device: str, on_triton: None) -> None:
    weights, features, rows, cells = (part.detach().to(kernel_device) for part in random_case(60, 8))
    case = weights.bfloat16(), features.bfloat16(), rows, cells
    pooled = bev_pool(*case, CELLS)
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, bev_pool(*case, CELLS))
    expected = bev_pool(case[0].double(), case[1].double(), rows, cells, CELLS)
    torch.testing.assert_close(pooled.double(), expected, atol=1e-2, rtol=1e-2)
