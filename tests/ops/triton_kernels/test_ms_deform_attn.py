"""The attention kernels against their twin."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from perceptkd.ops import ms_deform_attn as module
from perceptkd.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_gradients


def random_inputs(samples: int, queries: int, dim: int) -> list[Tensor]:
    """Some locations lie outside, some at borders and centres of pixels, and one is not a number."""
    shapes, starts = torch.tensor([(4, 5), (2, 3)]), torch.tensor([7, 0])
    locations = torch.rand(samples, queries, 2, 2, 3, 2, dtype=torch.float64) * 1.6 - 0.3
    locations = torch.where(torch.rand_like(locations) < 0.5, (locations * 40).round() / 40, locations)
    locations.view(-1)[:1] = torch.nan
    attention = torch.randn(samples, queries, 2, 2, 3, dtype=torch.float64)
    return [torch.randn(samples, 27, 2, dim, dtype=torch.float64), shapes, starts, locations, attention]


@pytest.mark.parametrize(("samples", "queries", "dim"), [(2, 5, 8), (1, 3, 5), (0, 3, 4), (2, 0, 4)])
def test_equals_the_twin(
    kernel_device: str, monkeypatch: pytest.MonkeyPatch, samples: int, queries: int, dim: int
) -> None:
    """Forward, the gradients by autograd and the gradients by their function."""
    inputs = random_inputs(samples, queries, dim)
    upstream = torch.randn(samples, queries, 2 * dim, dtype=torch.float64)
    results = []
    for is_kernel in (False, True):
        monkeypatch.setattr(module, "runs_on_triton", lambda _, answer=is_kernel: answer)
        moved = [part.to(kernel_device if is_kernel else "cpu") for part in inputs]
        for index in (0, 3, 4):
            moved[index].requires_grad_()
        output = ms_deform_attn(*moved)
        gradients = torch.autograd.grad(output, [moved[index] for index in (0, 3, 4)], upstream.to(output.device))
        by_function = ms_deform_attn_gradients(upstream.to(output.device), *(part.detach() for part in moved))
        results.append([part.detach().cpu() for part in (output, *gradients, *by_function)])
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected)


def test_half_types_sum_in_float32_from_any_layout(kernel_device: str, on_triton: None) -> None:
    inputs = random_inputs(1, 4, 8)
    expected = ms_deform_attn(*(part.to(kernel_device) for part in inputs))
    narrow = [part.half() if part.is_floating_point() else part for part in inputs]
    narrow[0] = narrow[0].transpose(1, 2).contiguous().transpose(1, 2)
    found = ms_deform_attn(*(part.to(kernel_device) for part in narrow))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), expected, atol=5e-2, rtol=5e-2)
