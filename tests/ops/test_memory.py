"""Memory that numpy allocates behaves as torch's."""

import pytest
import torch

from perceptkd.ops.memory import empty


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (5,), (1 << 12, 33), (2, 3, 4)])
def test_shape_and_type_are_as_asked(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    found = empty(shape, torch.zeros(1, dtype=dtype, device=device))
    assert (found.shape, found.dtype, found.device.type) == (shape, dtype, device)
    assert found.is_contiguous()
    assert found.fill_(3).sum(dtype=torch.float64) == 3 * found.numel()


def test_it_outlives_the_function_and_takes_part_in_autograd() -> None:
    weight = torch.ones(4, requires_grad=True)
    result = empty((3, 4), weight)
    result.copy_(weight.expand(3, 4))
    result.sum().backward()
    assert weight.grad.tolist() == [3.0] * 4
