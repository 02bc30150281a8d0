"""Gradients for mmcv's backward functions, which get the inputs again but not the graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def recomputed_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """Runs ``function(*inputs)`` again and returns the gradient of each floating point input, of its shape and dtype.

    mmcv's autograd functions save inputs and outputs only, so the graph of our forward is gone when the backward is
    called. The price is one more forward.

    Args:
        function: differentiable, one output.
        inputs: its positional arguments, all floating point tensors.
        grad_output: gradient of the output, of its shape.

    >>> recomputed_gradients(torch.mul, [torch.tensor(3.0), torch.tensor(5.0)], torch.tensor(1.0))
    (tensor(5.), tensor(3.))
    """
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        output = function(*leaves)
    return torch.autograd.grad(output, leaves, grad_output)
