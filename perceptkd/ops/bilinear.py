"""Bilinear sampling of feature maps as weighted sums of pixel rows, which RoI, deformable and border ops share.

A pixel's centre lies at its integer coordinates. A sample is at most four rows with four weights, and a bin averaged
over samples only more of them, so that one ``embedding_bag`` does all, forward and backward, without the intermediate
samples ever being stored.
"""

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.recompute import recomputed_gradients

#: zeros: pixels outside the map are 0 (deformable convolution). edge: a point up to one pixel outside takes the value
#: of the nearest point inside, one further off is 0 (RoIAlign).
Border = Literal["zeros", "edge"]


def bilinear_corners(y: Tensor, x: Tensor, height: int, width: int, *, border: Border) -> tuple[Tensor, Tensor]:
    """The four pixels around each point.

    Args:
        y: row of each point in pixels, any shape [...], floating point; may lie outside the map.
        x: its column, same shape.
        height: rows of the map.
        width: its columns.
        border: what lies outside.

    Returns:
        The flat index ``row * width + column`` of the pixels, int64 [..., 4], always inside the map, and their
        weights [..., 4], 0 for what is outside. Differentiable by ``y`` and ``x`` through the weights. A point that is
        not a number lies outside, as do infinite ones: both occur in a step that mixed precision will skip.

    >>> indices, weights = bilinear_corners(torch.tensor([0.5]), torch.tensor([1.0]), 2, 3, border="zeros")
    >>> indices.tolist(), weights.tolist()
    ([[1, 2, 4, 5]], [[0.5, 0.0, 0.5, 0.0]])
    """
    if border == "edge":
        is_near = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    else:
        is_near = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = torch.where(is_near, y, 0), torch.where(is_near, x, 0)
    if border == "edge":
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().floor(), x.detach().floor()
    down, right = y - top, x - left
    rows = torch.stack((top, top, top + 1, top + 1), dim=-1)
    columns = torch.stack((left, left + 1, left, left + 1), dim=-1)
    weights = torch.stack(((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right), dim=-1)
    counts = is_near[..., None]
    if border == "zeros":
        counts = counts & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    indices = rows.clamp(0, height - 1).long() * width + columns.clamp(0, width - 1).long()
    return indices, torch.where(counts, weights, 0)


def pixel_rows(features: Tensor) -> Tensor:
    """Maps [N, C, H, W] as one row per pixel, contiguous [N * H * W, C]."""
    return features.permute(0, 2, 3, 1).contiguous().flatten(0, 2)


def weighted_rows(rows: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows: ``out[b] = sum_k weights[b, k] * rows[indices[b, k]]``.

    Args:
        rows: [R, C].
        indices: int64 [B, K].
        weights: [B, K]; a weight of 0 takes nothing from its row, unless that is infinite: the sum is then NaN.

    Returns:
        [B, C] in the dtype of ``rows``, summed in float32 or better; differentiable, once, by ``rows`` and
        ``weights``.
    """
    table = rows if rows.dtype == torch.float64 else rows.float()
    weights = weights.to(table.dtype)
    if table.device.type == "cpu":
        return _WeightedRows.apply(table, indices, weights).to(rows.dtype)
    return _embedding_bag(table, indices, weights).to(rows.dtype)


def scatter_weighted_rows(gradient: Tensor, indices: Tensor, weights: Tensor, into: Tensor) -> None:
    """Adds to ``into`` the gradient of :func:`weighted_rows` by its rows, for bags too many to be summed at once.

    Args:
        gradient: [B, C], of the sums.
        indices: int64 [B, K]. Not checked: :func:`weighted_rows` has taken them before.
        weights: [B, K].
        into: contiguous [R, C], float32 or float64.
    """
    gradient, indices, weights = (part.detach().contiguous() for part in (gradient, indices, weights))
    gradient, weights = gradient.to(into.dtype), weights.to(into.dtype)
    if into.device.type == "cpu":
        _scatter_bags(gradient.numpy(), indices.numpy(), weights.numpy(), into.numpy())
    else:
        into += recomputed_gradients(lambda table: _embedding_bag(table, indices, weights), [into], gradient)[0]


def _embedding_bag(table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(indices, table, mode="sum", per_sample_weights=weights)


class _WeightedRows(torch.autograd.Function):
    """``embedding_bag`` with a backward that takes the bags as they come.

    torch's on CPU sorts them, which takes 4 to 12 times as long.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        table, indices, weights = table.contiguous(), indices.contiguous(), weights.contiguous()
        ctx.save_for_backward(table, indices, weights)
        return _embedding_bag(table, indices, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, indices, weights = ctx.saved_tensors
        gradient, bags = grad_output.contiguous().numpy(), indices.numpy()
        grad_table = grad_weights = None
        if ctx.needs_input_grad[0]:
            grad_table = torch.zeros_like(table)
            _scatter_bags(gradient, bags, weights.numpy(), grad_table.numpy())
        if ctx.needs_input_grad[2]:
            grad_weights = torch.empty_like(weights)
            _dot_bags(gradient, bags, table.numpy(), grad_weights.numpy())
        return grad_table, None, grad_weights


@njit(cache=True, nogil=True, fastmath={"contract"})
def _scatter_bags(gradient: np.ndarray, bags: np.ndarray, weights: np.ndarray, grad_table: np.ndarray) -> None:
    """Adds ``weights[b, k] * gradient[b]`` to row ``bags[b, k]`` of ``grad_table``."""
    for b in range(bags.shape[0]):
        for k in range(bags.shape[1]):
            row, weight = bags[b, k], weights[b, k]
            for c in range(gradient.shape[1]):
                grad_table[row, c] += weight * gradient[b, c]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _dot_bags(gradient: np.ndarray, bags: np.ndarray, table: np.ndarray, grad_weights: np.ndarray) -> None:
    """Sets ``grad_weights[b, k]`` to the product of ``gradient[b]`` with row ``bags[b, k]`` of ``table``."""
    for b in range(bags.shape[0]):
        for k in range(bags.shape[1]):
            row = bags[b, k]
            product = gradient.dtype.type(0)
            for c in range(gradient.shape[1]):
                product += gradient[b, c] * table[row, c]
            grad_weights[b, k] = product
