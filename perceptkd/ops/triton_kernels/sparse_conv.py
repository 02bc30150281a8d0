"""Sparse convolution as a masked implicit GEMM, and the gradient of its weights.

A table says for every target row which source row each kernel cell meets. A program owns a block of target rows and of
output channels: it gathers sources cell by cell, skips the cells that none of its rows has, and adds up in float32.
No two programs write to one place, so runs with the same tile repeat exactly; the tile that was fastest is kept in
Triton's cache for later processes.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from perceptkd.ops.triton_kernels import on_its_device

_ROWS = 64
_SPLIT_ROWS = 8192


def _tile_choices() -> list[triton.Config]:
    """Tiles that the autotuner tries once per shape of the problem and GPU; the interpreter has nothing to time."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return [triton.Config({"BLOCK_M": _ROWS, "BLOCK_N": 32, "BLOCK_K": 16})]
    return [
        triton.Config({"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_K": inner}, num_warps=warps, num_stages=3)
        for rows, columns, inner, warps in (
            (64, 32, 16, 4),
            (64, 32, 32, 4),
            (64, 64, 32, 4),
            (128, 64, 32, 4),
            (128, 64, 64, 8),
            (128, 128, 32, 8),
            (128, 128, 64, 8),
        )
    ]


@on_its_device
def gather_multiply(features: Tensor, weight: Tensor, neighbours: Tensor, order: Tensor) -> Tensor:
    """Sums ``features[neighbours[k, m]] @ weight[k]`` over the kernel cells k of each target row m.

    Args:
        features: [N, C_in] contiguous: float32, float16 or bfloat16.
        weight: [K, C_in, C_out] contiguous, of the same type.
        neighbours: int32 [K, M], -1 where a target has no source.
        order: int32 [M], the order in which target rows are taken; neighbours of one pattern beside each other are
            faster.

    Returns:
        [M, C_out] of the features' type, summed in float32.
    """
    volume, targets = neighbours.shape
    in_channels, out_channels = weight.shape[1:]
    result = features.new_empty((targets, out_channels))
    if result.numel():

        def grid(tile: dict[str, int]) -> tuple[int, int]:
            return triton.cdiv(targets, tile["BLOCK_M"]), triton.cdiv(out_channels, tile["BLOCK_N"])

        _gather_multiply_kernel[grid](
            features, weight, neighbours, order, result, targets, in_channels, out_channels, volume,
            PRECISION=_precision(),
        )  # fmt: skip
    return result


@on_its_device
def correlate(features: Tensor, gradient: Tensor, neighbours: Tensor) -> Tensor:
    """Gradient of the weights, ``features[neighbours[k]].T @ gradient`` per kernel cell k: float32 [K, C_in, C_out].

    Args:
        features: [N, C_in] contiguous.
        gradient: [M, C_out] contiguous, of the same type.
        neighbours: int32 [K, M], -1 where a target has no source.
    """
    volume, targets = neighbours.shape
    in_channels, out_channels = features.shape[1], gradient.shape[1]
    splits = max(1, triton.cdiv(targets, _SPLIT_ROWS))
    parts = torch.zeros((splits, volume, in_channels, out_channels), dtype=torch.float32, device=features.device)
    if targets and parts.numel():
        block_in, block_out = (min(64, max(16, triton.next_power_of_2(n))) for n in (in_channels, out_channels))
        grid = (splits * volume, triton.cdiv(in_channels, block_in), triton.cdiv(out_channels, block_out))
        _correlate_kernel[grid](
            features, gradient, neighbours, parts, targets, in_channels, out_channels, volume, _SPLIT_ROWS,
            BLOCK_P=_ROWS, BLOCK_IN=block_in, BLOCK_OUT=block_out, PRECISION=_precision(),
        )  # fmt: skip
    return parts.sum(0)


def _precision() -> str:
    """What torch's own float32 products use; its newer setting forbids reading the older one."""
    matmul = torch.backends.cuda.matmul
    is_narrow = matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
    return "tf32" if is_narrow else "ieee"


@triton.autotune(
    configs=_tile_choices(), key=["in_channels", "out_channels", "volume", "PRECISION"], cache_results=True
)
@triton.jit
def _gather_multiply_kernel(
    features, weight, neighbours, order, result, targets, in_channels, out_channels, volume,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = position < targets
    row = tl.load(order + position, mask=exists, other=0)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for cell in range(volume):
        source = tl.load(neighbours + row, mask=exists, other=-1)
        neighbours += targets
        if tl.max(source, 0) >= 0:
            for start in range(0, in_channels, BLOCK_K):
                channel = start + tl.arange(0, BLOCK_K)
                is_channel = channel < in_channels
                gathered = tl.load(
                    features + source[:, None].to(tl.int64) * in_channels + channel[None, :],
                    mask=(source[:, None] >= 0) & is_channel[None, :],
                    other=0,
                )
                part = tl.load(
                    weight + (cell * in_channels + channel[:, None]) * out_channels + column[None, :],
                    mask=is_channel[:, None] & (column[None, :] < out_channels),
                    other=0,
                )
                total = tl.dot(gathered, part, total, input_precision=PRECISION)
    place = result + row[:, None].to(tl.int64) * out_channels + column[None, :]
    tl.store(place, total.to(result.dtype.element_ty), mask=exists[:, None] & (column[None, :] < out_channels))


@triton.jit
def _correlate_kernel(
    features, gradient, neighbours, parts, targets, in_channels, out_channels, volume, rows_each,
    BLOCK_P: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    cell, split = program % volume, program // volume
    channel = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    column = tl.program_id(2) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    total = tl.zeros((BLOCK_IN, BLOCK_OUT), tl.float32)
    first = split * rows_each
    for start in range(first, tl.minimum(first + rows_each, targets), BLOCK_P):
        target = start + tl.arange(0, BLOCK_P)
        source = tl.load(neighbours + cell.to(tl.int64) * targets + target, mask=target < targets, other=-1)
        if tl.max(source, 0) >= 0:
            is_pair = source >= 0
            gathered = tl.load(
                features + source[None, :].to(tl.int64) * in_channels + channel[:, None],
                mask=is_pair[None, :] & (channel[:, None] < in_channels),
                other=0,
            )
            upstream = tl.load(
                gradient + target[:, None].to(tl.int64) * out_channels + column[None, :],
                mask=is_pair[:, None] & (column[None, :] < out_channels),
                other=0,
            )
            total = tl.dot(gathered, upstream, total, input_precision=PRECISION)
    place = (program.to(tl.int64) * in_channels + channel[:, None]) * out_channels + column[None, :]
    tl.store(parts + place, total, mask=(channel[:, None] < in_channels) & (column[None, :] < out_channels))
