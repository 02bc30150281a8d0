"""Average pooling of RoIs whose bins are weighted sums of pixels, which RoIAlign and its rotated form share.

Indices and weights follow from the RoIs alone, so the gradient computes them again instead of storing them, and every
part of the RoIs adds to the same table.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.bilinear import pixel_rows, scatter_weighted_rows, weighted_rows
from perceptkd.ops.roi_parts import Pair, Selection


@dataclass(frozen=True)
class RoiBags:
    """The bins of some RoIs.

    Args:
        count: number of RoIs.
        output_size: bins along (y, x).
        parts: gives, as often as it is called, RoIs together with the pixels of their bins, int64
            [RoIs * bins, K] into the rows of :func:`perceptkd.ops.bilinear.pixel_rows`, and the pixels' weights. RoIs
            in no part pool to 0.
    """

    count: int
    output_size: Pair
    parts: Callable[[], Iterator[tuple[Selection, Tensor, Tensor]]]


def pool_bags(features: Tensor, bags: RoiBags) -> Tensor:
    """Sums the pixels of every bin, [count, C, *output_size] in the dtype of ``features`` [N, C, H, W].

    Differentiable by ``features``, once.
    """
    return _PoolBags.apply(features, bags)


def pool_bags_gradient(grad_output: Tensor, shape: torch.Size, bags: RoiBags) -> Tensor:
    """Gradient of :func:`pool_bags` by features of ``shape``, in float32 or better."""
    samples, channels, height, width = shape
    dtype = torch.promote_types(grad_output.dtype, torch.float32)
    table = grad_output.new_zeros(samples * height * width, channels, dtype=dtype)
    for some, indices, weights in bags.parts():
        gradient = grad_output[some].flatten(2).transpose(1, 2).flatten(0, 1)
        scatter_weighted_rows(gradient, indices, weights, table)
    return table.view(samples, height, width, channels).permute(0, 3, 1, 2)


class _PoolBags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, bags: RoiBags) -> Tensor:
        ctx.bags, ctx.shape = bags, features.shape
        table = pixel_rows(features).to(torch.promote_types(features.dtype, torch.float32))
        bins, channels = bags.output_size[0] * bags.output_size[1], features.shape[1]
        output = features.new_zeros(bags.count, channels, bins)
        for some, indices, weights in bags.parts():
            sums = weighted_rows(table, indices, weights).view(-1, bins, channels)
            output[some] = sums.transpose(1, 2).to(output.dtype)
        return output.view(bags.count, channels, *bags.output_size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return pool_bags_gradient(grad_output, ctx.shape, ctx.bags).to(grad_output.dtype), None
