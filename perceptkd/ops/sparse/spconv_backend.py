"""Sparse convolution by spconv's own gather, multiply and scatter, where spconv is installed, along maps of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.sparse.kernel_map import KernelMap
from perceptkd.optional import require

#: What spconv multiplies, by kind of device.
DTYPES = {"cpu": (torch.float32, torch.float64), "cuda": (torch.float16, torch.float32)}


def convolve(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """As :func:`perceptkd.ops.sparse.torch_backend.convolve`, in float32 or float64 on CPU, float16 or float32 on CUDA.

    On CPU it runs on one thread: on several, spconv's code adds to rows that others add to, and loses sums.
    """
    allowed = DTYPES.get(features.device.type, ())
    if features.dtype not in allowed:
        raise TypeError(
            f"spconv takes {' or '.join(map(str, allowed))} on {features.device.type}, got {features.dtype}; "
            "set PERCEPTKD_SPARSE to auto or torch"
        )
    return _Convolve.apply(features, weight, kernel_map)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        pairs, counts = kernel_map.neighbours.pairs
        if counts.max() == 0:
            return features.new_zeros(kernel_map.num_targets, weight.shape[2])
        with _spconv_ops(features.device) as ops:
            return ops.indice_conv(features, _as_filters(weight), pairs, counts, kernel_map.num_targets)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        features, weight = ctx.saved_tensors
        pairs, counts = ctx.kernel_map.neighbours.pairs
        if counts.max() == 0:
            return torch.zeros_like(features), torch.zeros_like(weight), None
        with _spconv_ops(features.device) as ops:
            by_features, by_filters = ops.indice_conv_backward(
                features, _as_filters(weight), gradient.contiguous(), pairs, counts
            )
        return by_features, by_filters.flatten(1, -2).permute(1, 2, 0), None


def _as_filters(weight: Tensor) -> Tensor:
    """[K, C_in, C_out] as spconv stores it, [C_out, K, 1, 1, C_in]."""
    return weight.permute(2, 0, 1)[:, :, None, None].contiguous()


@contextmanager
def _spconv_ops(device: torch.device) -> Iterator[Any]:
    """spconv's functions, on one thread on CPU, where their backward asks in vain for a CUDA stream that it ignores."""
    ops: Any = require("spconv.pytorch.ops", package="spconv")
    if device.type != "cpu":
        yield ops
        return
    stream, threads = ops.get_current_stream, torch.get_num_threads()
    if not torch.cuda.is_available():
        ops.get_current_stream = lambda: 0
    torch.set_num_threads(1)
    try:
        yield ops
    finally:
        torch.set_num_threads(threads)
        ops.get_current_stream = stream
