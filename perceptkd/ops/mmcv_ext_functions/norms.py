"""mmcv's synchronised batch normalisation, between whose steps its Python side sums over the processes.

Statistics are float32 [C], maps [N, C, positions] of any floating point dtype.
"""

import torch
from torch import Tensor


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    mean.copy_(input.mean((0, 2), dtype=torch.float32))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Mean square distance from ``mean``, which is that of all processes."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Fills ``norm``, ``std`` and ``output``, and moves the running statistics, if there are any.

    The running variance takes the number of values for this process's times ``group_size``.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm if weight is None or bias is None else norm * weight[:, None] + bias[:, None])
    if running_mean is not None and running_var is not None:
        count = input.shape[0] * input.shape[2] * group_size
        unbiased = var * count / (count - 1) if count > 1 else var
        running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
        running_var.copy_(momentum * unbiased + (1 - momentum) * running_var)


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """This process's sums; mmcv then averages them over the processes."""
    gradient = grad_output.float()
    grad_weight.copy_((gradient * norm).sum((0, 2)))
    grad_bias.copy_(gradient.sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """The gradients by weight and bias are averages over the processes of sums over each one's values."""
    count = grad_output.shape[0] * grad_output.shape[2]
    common = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (grad_output.float() - common))
