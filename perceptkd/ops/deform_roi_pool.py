"""Deformable RoI pooling: RoIAlign with bins that move (Dai et al., Deformable Convolutional Networks, 2017).

Each bin averages a grid of bilinear samples. RoIs with grids of the same size are computed together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from perceptkd.ops.bilinear import bilinear_corners, pixel_rows, weighted_rows
from perceptkd.ops.checks import check_same_device, check_tensor
from perceptkd.ops.recompute import recomputed_gradients
from perceptkd.ops.roi_parts import (
    PIXELS,
    Pair,
    Selection,
    bin_points,
    check_rois,
    roi_boxes,
    sampled_parts,
)


@dataclass(frozen=True)
class Pooling:
    """How RoIs are pooled.

    Args:
        output_size: bins along (height, width).
        spatial_scale: pixels of the map per unit of the RoIs.
        sampling_ratio: samples along each side of a bin; 0 for one per pixel, rounded up.
        gamma: factor on the offsets.
    """

    output_size: Pair
    spatial_scale: float = 1.0
    sampling_ratio: int = 0
    gamma: float = 0.1


def deform_roi_pool(features: Tensor, rois: Tensor, offset: Tensor | None = None, *, pooling: Pooling) -> Tensor:
    """Averages the features in the moved bins of each RoI. Differentiable by ``features`` and ``offset``.

    Args:
        features: [N, C, H, W].
        rois: [R, 5] as (sample, x1, y1, x2, y2); the sample is not checked, which would stall a GPU. A RoI of no width
            or height has no samples if ``sampling_ratio`` is 0, and pools to 0, as does one that is not finite.
        offset: optional [R, 2, bins_H, bins_W] as (x, y), in widths and heights of the RoI times ``gamma``.
        pooling: bins and samples.

    Returns:
        [R, C, bins_H, bins_W] in the dtype of ``features``. A sample up to a pixel outside the map reads the border,
        and does not change when it is moved across; one further off reads 0.

    >>> features = torch.arange(4.0).view(1, 1, 1, 4)
    >>> roi = torch.tensor([[0.0, 1.0, 0.0, 3.0, 1.0]])
    >>> right = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    >>> deform_roi_pool(features, roi, right, pooling=Pooling((1, 2), gamma=0.5)).tolist()
    [[[[1.5, 2.5]]]]
    """
    _check(features, rois, offset, pooling)
    table = _float_rows(features)
    output = table.new_zeros(len(rois), features.shape[1], *pooling.output_size)
    boxes = roi_boxes(rois, pooling.spatial_scale, aligned=True)
    parts = list(_parts(boxes[-1], pooling))
    if not parts:
        for operand in (table, *(() if offset is None else (offset,))):
            output += operand[:0].sum()  # 0, but differentiable although no RoI has a sample
    for some, grid in parts:
        moves = None if offset is None else offset[some]
        chosen = [part[some] for part in boxes]
        output[some] = _pool(table, moves, chosen, map_size=features.shape[2:], grid=grid, pooling=pooling)
    return output.to(features.dtype)


def deform_roi_pool_gradients(
    grad_output: Tensor, features: Tensor, rois: Tensor, offset: Tensor | None = None, *, pooling: Pooling
) -> tuple[Tensor, Tensor | None]:
    """Gradients of :func:`deform_roi_pool` by features and, if there is one, offset; computed part by part."""
    _check(features, rois, offset, pooling)
    table = _float_rows(features)
    grad_table = torch.zeros_like(table)
    grad_offset = None if offset is None else torch.zeros_like(offset)
    boxes = roi_boxes(rois, pooling.spatial_scale, aligned=True)
    for some, grid in _parts(boxes[-1], pooling):
        chosen = [part[some] for part in boxes]
        pool = partial(_pool, boxes=chosen, map_size=features.shape[2:], grid=grid, pooling=pooling)
        upstream = grad_output[some].to(table.dtype)
        if offset is None or grad_offset is None:
            gradients = recomputed_gradients(partial(pool, moves=None), [table], upstream)
        else:
            gradients = recomputed_gradients(pool, [table, offset[some]], upstream)
            grad_offset[some] = gradients[1]
        grad_table += gradients[0]
    samples, channels, height, width = features.shape
    grad_features = grad_table.view(samples, height, width, channels).permute(0, 3, 1, 2)
    return grad_features.to(features.dtype), grad_offset


def _float_rows(features: Tensor) -> Tensor:
    return pixel_rows(features).to(torch.promote_types(features.dtype, torch.float32))


def _parts(size: Tensor, pooling: Pooling) -> Iterator[tuple[Selection, Pair]]:
    return sampled_parts(size, pooling.output_size, pooling.sampling_ratio, limit=PIXELS)


def _pool(
    table: Tensor, moves: Tensor | None, boxes: Sequence[Tensor], *, map_size: torch.Size, grid: Pair, pooling: Pooling
) -> Tensor:
    """Pools RoIs, see :func:`perceptkd.ops.roi_parts.roi_boxes`, with bins of ``grid`` samples from maps' pixels."""
    image, start, size = boxes
    y = bin_points(start[:, 0], size[:, 0], pooling.output_size[0], grid[0])[:, :, None, :, None]
    x = bin_points(start[:, 1], size[:, 1], pooling.output_size[1], grid[1])[:, None, :, None, :]
    if moves is not None:
        shift = pooling.gamma * size.flip(1)[:, :, None, None] * moves
        x, y = x + shift[:, 0, :, :, None, None], y + shift[:, 1, :, :, None, None]
    y, x = torch.broadcast_tensors(y, x)
    indices, weights = bilinear_corners(y, x, *map_size, border="edge")
    indices = indices + image.view(-1, 1, 1, 1, 1, 1) * map_size.numel()
    weights = weights / (grid[0] * grid[1])
    summed = weighted_rows(table, indices.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2))
    return summed.view(len(start), *pooling.output_size, table.shape[1]).permute(0, 3, 1, 2)


def _check(features: Tensor, rois: Tensor, offset: Tensor | None, pooling: Pooling) -> None:
    check_rois(features, rois, 5, pooling.output_size)
    if offset is not None:
        check_tensor("offset", offset, (len(rois), 2, *pooling.output_size))
        check_same_device(features=features, offset=offset)
