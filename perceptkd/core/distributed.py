"""The one reduction losses need when several processes train together."""

import torch
from torch import Tensor
from torch import distributed as dist


def all_reduce_mean(value: Tensor) -> Tensor:
    """Mean of ``value`` over all processes, without gradient; ``value`` itself where there is only one.

    DDP averages gradients over ranks. So a loss written as ``local_sum / all_reduce_mean(local_count)`` has exactly the
    gradient that one process would have on the joint batch.

    Args:
        value: Any shape, the same on every rank.

    >>> all_reduce_mean(torch.tensor(3.0))
    tensor(3.)
    """
    value = value.detach()
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    mean = value.clone() if value.is_floating_point() else value.to(torch.float32)
    dist.all_reduce(mean)
    return mean / dist.get_world_size()
