"""Multi-scale deformable attention, one program per sample, query and head.

The gradient of the values is summed by atomics, so that its last bits vary from run to run, as mmcv's do.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.triton_kernels import on_its_device


class DeformableAttention(torch.autograd.Function):
    """:func:`attend` with :func:`attend_gradients`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return attend(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        by_value, by_locations, by_attention = attend_gradients(grad_output, *ctx.saved_tensors)
        return by_value, None, None, by_locations, by_attention


@on_its_device
def attend(value: Tensor, spatial_shapes: Tensor, level_start: Tensor, locations: Tensor, attention: Tensor) -> Tensor:
    """Output of :func:`perceptkd.ops.ms_deform_attn.ms_deform_attn`, [B, queries, heads * dim] in float32 or better.

    Args:
        value: [B, keys, heads, dim].
        spatial_shapes: integers [levels, 2].
        level_start: integers [levels].
        locations: [B, queries, heads, levels, points, 2].
        attention: [B, queries, heads, levels, points].
    """
    samples, queries, heads, levels, points = attention.shape
    dtype = torch.promote_types(value.dtype, torch.float32)
    output = torch.empty((samples, queries, heads * value.shape[3]), dtype=dtype, device=value.device)
    if output.numel():
        _attend_kernel[(samples * queries * heads,)](
            *_contiguous(value, spatial_shapes, level_start, locations, attention), output,
            *value.shape[1:], queries, LEVELS=levels, POINTS=points, DIM=triton.next_power_of_2(value.shape[3]),
        )  # fmt: skip
    return output


@on_its_device
def attend_gradients(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start: Tensor,
    locations: Tensor,
    attention: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by value, locations and attention, in float32 or better; arguments as :func:`attend`."""
    samples, queries, heads, levels, points = attention.shape
    dtype = torch.promote_types(value.dtype, torch.float32)
    grad_value, grad_locations, grad_attention = (
        torch.zeros(tensor.shape, dtype=dtype, device=tensor.device) for tensor in (value, locations, attention)
    )
    if grad_output.numel():
        _gradients_kernel[(samples * queries * heads,)](
            *_contiguous(grad_output, value, spatial_shapes, level_start, locations, attention),
            grad_value, grad_locations, grad_attention,
            *value.shape[1:], queries, LEVELS=levels, POINTS=points, DIM=triton.next_power_of_2(value.shape[3]),
        )  # fmt: skip
    return grad_value, grad_locations, grad_attention


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


@triton.jit
def _attend_kernel(
    value, spatial_shapes, level_start, locations, attention, output,
    keys, heads, dim, queries, LEVELS: tl.constexpr, POINTS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, DIM)
    exists = channel < dim
    total = tl.zeros((DIM,), output.dtype.element_ty)
    row_step = heads * dim
    pixels = value + (program // (heads * queries)) * keys * row_step + (program % heads) * dim + channel
    for level in range(LEVELS):
        height, width = tl.load(spatial_shapes + 2 * level), tl.load(spatial_shapes + 2 * level + 1)
        first = pixels + tl.load(level_start + level) * row_step
        for point in range(POINTS):
            place = (program * LEVELS + level) * POINTS + point
            row, column, down, right, is_near = _locate(locations + 2 * place, height, width, output.dtype.element_ty)
            read = tl.where(is_near, dim, 0)
            a, b, c, d = _corners(first, row, column, height, width, row_step, channel, read, output.dtype.element_ty)
            upper, lower = a + (b - a) * right, c + (d - c) * right
            total += tl.load(attention + place).to(output.dtype.element_ty) * (upper + (lower - upper) * down)
    tl.store(output + program * dim + channel, total, mask=exists)


@triton.jit
def _gradients_kernel(
    grad_output, value, spatial_shapes, level_start, locations, attention, grad_value, grad_locations, grad_attention,
    keys, heads, dim, queries, LEVELS: tl.constexpr, POINTS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, DIM)
    exists = channel < dim
    kind = grad_value.dtype.element_ty
    row_step = heads * dim
    base = (program // (heads * queries)) * keys * row_step + (program % heads) * dim + channel
    gradient = tl.load(grad_output + program * dim + channel, mask=exists, other=0).to(kind)
    for level in range(LEVELS):
        height, width = tl.load(spatial_shapes + 2 * level), tl.load(spatial_shapes + 2 * level + 1)
        first = base + tl.load(level_start + level) * row_step
        for point in range(POINTS):
            place = (program * LEVELS + level) * POINTS + point
            row, column, down, right, is_near = _locate(locations + 2 * place, height, width, kind)
            read = tl.where(is_near, dim, 0)
            a, b, c, d = _corners(value + first, row, column, height, width, row_step, channel, read, kind)
            upper, lower = a + (b - a) * right, c + (d - c) * right
            factor = tl.load(attention + place).to(kind)
            tl.store(grad_attention + place, tl.sum(gradient * (upper + (lower - upper) * down), 0))
            by_x = tl.sum(gradient * ((b - a) * (1 - down) + (d - c) * down), 0) * factor * width
            by_y = tl.sum(gradient * (lower - upper), 0) * factor * height
            tl.store(grad_locations + 2 * place, by_x)
            tl.store(grad_locations + 2 * place + 1, by_y)
            share = gradient * factor
            target = grad_value + first
            _add_pixel(target, row, column, height, width, row_step, share * (1 - down) * (1 - right), channel, read)
            _add_pixel(target, row, column + 1, height, width, row_step, share * (1 - down) * right, channel, read)
            _add_pixel(target, row + 1, column, height, width, row_step, share * down * (1 - right), channel, read)
            _add_pixel(target, row + 1, column + 1, height, width, row_step, share * down * right, channel, read)


@triton.jit
def _locate(location, height, width, kind: tl.constexpr):
    """Upper left pixel of a location, the shares of the lower and the right ones, and whether any of them is inside."""
    x = tl.load(location).to(kind) * width - 0.5
    y = tl.load(location + 1).to(kind) * height - 0.5
    is_near = (y > -1) & (y < height) & (x > -1) & (x < width)  # false for NaN, as for what is outside
    x, y = tl.where(is_near, x, 0), tl.where(is_near, y, 0)
    top, left = tl.floor(y), tl.floor(x)
    return top.to(tl.int32), left.to(tl.int32), y - top, x - left, is_near


@triton.jit
def _corners(first, row, column, height, width, row_step, channel, read, kind: tl.constexpr):
    """The four pixels around a location, 0 outside of the map."""
    return (
        _pixel(first, row, column, height, width, row_step, channel, read, kind),
        _pixel(first, row, column + 1, height, width, row_step, channel, read, kind),
        _pixel(first, row + 1, column, height, width, row_step, channel, read, kind),
        _pixel(first, row + 1, column + 1, height, width, row_step, channel, read, kind),
    )


@triton.jit
def _pixel(first, row, column, height, width, row_step, channel, read, kind: tl.constexpr):
    """One pixel's first ``read`` channels, 0 outside of the map."""
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    mask = channel < tl.where(is_inside, read, 0)
    return tl.load(first + (row * width + column) * row_step, mask=mask, other=0).to(kind)


@triton.jit
def _add_pixel(target, row, column, height, width, row_step, share, channel, read):
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    mask = channel < tl.where(is_inside, read, 0)
    tl.atomic_add(target + (row * width + column) * row_step, share, mask=mask)
