"""Sparse convolution by Triton kernels; float64, which tensor cores do not have, is left to the torch backend."""

import os

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.sparse import torch_backend
from perceptkd.ops.sparse.kernel_map import KernelMap
from perceptkd.ops.sparse.neighbours import NeighbourTable

SORTED_FROM_CHANNELS = 64


def convolve(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """As :func:`perceptkd.ops.sparse.torch_backend.convolve`; products are not rounded before they are summed."""
    if not (features.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        raise ValueError("Triton kernels need CUDA tensors; on CPU set PERCEPTKD_SPARSE to auto or torch")
    if features.dtype == torch.float64:
        return torch_backend.convolve(features, weight, kernel_map)
    return _Convolve.apply(features, weight, kernel_map)


def _row_order(table: NeighbourTable, features: Tensor) -> Tensor:
    """Rows by their pattern of neighbours, where rows are wide enough for skipped products to pay for the sort."""
    return table.order if features.shape[1] >= SORTED_FROM_CHANNELS else table.own_order


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:  # type: ignore[override]
        from perceptkd.ops.triton_kernels import sparse_conv as kernels

        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        table = kernel_map.neighbours
        return kernels.gather_multiply(features, weight, table.rows, _row_order(table, features))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        from perceptkd.ops.triton_kernels import sparse_conv as kernels

        features, weight = ctx.saved_tensors
        kernel_map: KernelMap = ctx.kernel_map
        gradient = gradient.contiguous()
        by_features = by_weight = None
        if ctx.needs_input_grad[0]:
            # in a symmetric map, the sources of kernel cell k are the targets of its mirror image
            table = kernel_map.neighbours if kernel_map.symmetric else kernel_map.flipped().neighbours
            turned = (weight.flip(0) if kernel_map.symmetric else weight).transpose(1, 2).contiguous()
            by_features = kernels.gather_multiply(gradient, turned, table.rows, _row_order(table, gradient))
        if ctx.needs_input_grad[1]:
            by_weight = kernels.correlate(features, gradient, kernel_map.neighbours.rows).to(weight.dtype)
        return by_features, by_weight, None
