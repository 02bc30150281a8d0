"""BEV pooling: every output row is owned by one program, so that no atomics are needed and runs repeat exactly.

The same kernel sums weighted rows forward (a cell's points) and backward (an image cell's points); a second one takes
the gradient of each point's weight.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.grouping import argsort_keys
from perceptkd.ops.triton_kernels import on_its_device

_MAX_CHANNELS = 128


class PooledRows(torch.autograd.Function):
    """``pooled[g] = sum of weights[p] * rows[row_index[p]] over the points p of group g``, in float32 or better.

    Args:
        weights: [P], sorted by group.
        rows: [M, C] contiguous, of the same dtype.
        row_index: int64 [P].
        offsets: int64 [G + 1], where each group starts.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, rows: Tensor, row_index: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(weights, rows, row_index, offsets)
        return _sum_rows(weights, rows, row_index, offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, rows, row_index, offsets = ctx.saved_tensors
        gradient = gradient.contiguous()
        points = torch.arange(len(weights), device=weights.device)
        group = torch.searchsorted(offsets, points, right=True) - 1
        grad_weights = _dot_rows(gradient, group, rows, row_index) if ctx.needs_input_grad[0] else None
        grad_rows = None
        if ctx.needs_input_grad[1]:
            order = argsort_keys(row_index)
            borders = torch.arange(len(rows) + 1, device=rows.device)
            starts = torch.searchsorted(row_index[order], borders)
            grad_rows = _sum_rows(weights[order], gradient, group[order], starts)
        return grad_weights, grad_rows, None, None


@on_its_device
def _sum_rows(weights: Tensor, rows: Tensor, row_index: Tensor, offsets: Tensor) -> Tensor:
    groups, channels = len(offsets) - 1, rows.shape[1]
    summed = rows.new_empty((groups, channels))
    if summed.numel():
        block = min(_MAX_CHANNELS, triton.next_power_of_2(channels))
        grid = (groups, triton.cdiv(channels, block))
        _sum_rows_kernel[grid](weights, rows, row_index, offsets, summed, channels, BLOCK=block)
    return summed


@on_its_device
def _dot_rows(first: Tensor, first_index: Tensor, second: Tensor, second_index: Tensor) -> Tensor:
    """``first[first_index[p]] . second[second_index[p]]`` of each p."""
    products = first.new_empty(len(first_index))
    if len(products):
        channels = first.shape[1]
        _dot_rows_kernel[(len(products),)](
            first, first_index, second, second_index, products, channels, BLOCK=triton.next_power_of_2(channels)
        )
    return products


@triton.jit
def _sum_rows_kernel(weights, rows, row_index, offsets, summed, channels, BLOCK: tl.constexpr):
    group = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = channel < channels
    total = tl.zeros((BLOCK,), summed.dtype.element_ty)
    for point in range(tl.load(offsets + group), tl.load(offsets + group + 1)):
        row = tl.load(rows + tl.load(row_index + point) * channels + channel, mask=exists, other=0)
        total += tl.load(weights + point) * row
    tl.store(summed + group * channels + channel, total, mask=exists)


@triton.jit
def _dot_rows_kernel(first, first_index, second, second_index, products, channels, BLOCK: tl.constexpr):
    point = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    exists = channel < channels
    a = tl.load(first + tl.load(first_index + point) * channels + channel, mask=exists, other=0)
    b = tl.load(second + tl.load(second_index + point) * channels + channel, mask=exists, other=0)
    tl.store(products + point, tl.sum(a * b, 0))
