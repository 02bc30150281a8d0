"""Which implementation multiplies, and the one function that all convolution layers call."""

import os
from functools import cache

import torch
from mmengine.logging import print_log
from torch import Tensor

from perceptkd.ops.sparse import spconv_backend, torch_backend, triton_backend
from perceptkd.ops.sparse.kernel_map import KernelMap
from perceptkd.ops.triton_kernels import chosen_kernels

VARIABLE = "PERCEPTKD_SPARSE"
BACKENDS = {"torch": torch_backend.convolve, "triton": triton_backend.convolve, "spconv": spconv_backend.convolve}


def chosen_backend(device: str) -> str:
    """The backend for a kind of device, by ``PERCEPTKD_SPARSE``: ``torch``, ``triton``, ``spconv``, or ``auto``.

    ``auto``, the default, is ``torch``, but on CUDA what :func:`perceptkd.ops.triton_kernels.chosen_kernels` says.

    >>> chosen_backend("cpu")
    'torch'
    """
    wanted = os.environ.get(VARIABLE, "auto")
    name = (chosen_kernels() if device == "cuda" else "torch") if wanted == "auto" else wanted
    if name not in BACKENDS:
        raise ValueError(f"{VARIABLE}={wanted} does not exist; set it to auto or one of {', '.join(BACKENDS)}")
    _log_choice(name, device)
    return name


def sparse_convolution(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Convolves the features of sorted or unsorted sites along a kernel map; follows autocast as dense layers do.

    Args:
        features: [N, C_in].
        weight: [K, C_in, C_out].
        kernel_map: from N input rows to M output rows.

    Returns:
        [M, C_out], in the features' type, or in autocast's.
    """
    device = features.device.type
    convolve = BACKENDS[chosen_backend(device)]
    if torch.is_autocast_enabled(device):
        narrow = torch.get_autocast_dtype(device)
        if features.dtype != torch.float64:
            features, weight = features.to(narrow), weight.to(narrow)
        with torch.autocast(device, enabled=False):
            return convolve(features.contiguous(), weight.contiguous(), kernel_map)
    if features.dtype != weight.dtype:
        raise TypeError(
            f"features are {features.dtype} but the weights {weight.dtype}; convert one of them, or run under "
            "torch.autocast, which converts both"
        )
    return convolve(features.contiguous(), weight.contiguous(), kernel_map)


@cache
def _log_choice(name: str, device: str) -> None:
    reason = f"{VARIABLE}={os.environ.get(VARIABLE, 'auto')}"
    print_log(f"sparse convolution on {device}: {name} ({reason})", logger="current")
