"""Bilinear sampling of feature maps as weighted sums of pixel rows, which RoI, deformable and border ops share.

A pixel's centre lies at its integer coordinates. A sample is at most four rows with four weights, and a bin averaged
over samples only more of them, so that one ``embedding_bag`` does all, forward and backward, without the intermediate
samples ever being stored.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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
        weights [..., 4], 0 for what is outside. Differentiable by ``y`` and ``x`` through the weights.

    >>> indices, weights = bilinear_corners(torch.tensor([0.5]), torch.tensor([1.0]), 2, 3, border="zeros")
    >>> indices.tolist(), weights.tolist()
    ([[1, 2, 4, 5]], [[0.5, 0.0, 0.5, 0.0]])
    """
    if border == "edge":
        is_near = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    else:
        is_near = (y > -1) & (y < height) & (x > -1) & (x < width)
    top, left = y.detach().floor(), x.detach().floor()
    down, right = y - top, x - left
    rows = torch.stack((top, top, top + 1, top + 1), dim=-1)
    columns = torch.stack((left, left + 1, left, left + 1), dim=-1)
    weights = torch.stack(((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right), dim=-1)
    counts = is_near[..., None] & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    indices = rows.clamp(0, height - 1).long() * width + columns.clamp(0, width - 1).long()
    return indices, torch.where(counts, weights, 0)


def pixel_rows(features: Tensor) -> Tensor:
    """Maps [N, C, H, W] as one row per pixel, [N * H * W, C]."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def weighted_rows(rows: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows: ``out[b] = sum_k weights[b, k] * rows[indices[b, k]]``.

    Args:
        rows: [R, C].
        indices: int64 [B, K].
        weights: [B, K]; a weight of 0 takes nothing from its row.

    Returns:
        [B, C] in the dtype of ``rows``, summed in float32 or better; differentiable by ``rows`` and ``weights``.
    """
    table = rows if rows.dtype == torch.float64 else rows.float()
    return F.embedding_bag(indices, table, mode="sum", per_sample_weights=weights.to(table.dtype)).to(rows.dtype)
