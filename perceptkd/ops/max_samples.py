"""The largest of some bilinear samples, per channel, which max RoIAlign and border align share."""

import torch
from torch import Tensor

from perceptkd.ops.bilinear import bilinear_corners, weighted_rows
from perceptkd.ops.chunks import chunk
from perceptkd.ops.roi_parts import PIXELS


def best_samples(table: Tensor, image: Tensor, y: Tensor, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Samples maps and keeps the largest value of each bin.

    Args:
        table: pixels of the maps, [M * H * W, C]; see :func:`perceptkd.ops.bilinear.pixel_rows`.
        image: int64 [R], the map of each RoI.
        y: [R, B, S], rows of the samples of the RoI's bins; up to a pixel outside they read the border, beyond 0.
        x: their columns.
        size: (H, W).

    Returns:
        [R, C, B], the values, and int64 [R, C, B], which sample each is; the first of equal ones.
    """
    indices, weights = bilinear_corners(y, x, *size, border="edge")
    indices = indices + (image * (size[0] * size[1]))[:, None, None, None]
    values = weighted_rows(table, indices.flatten(0, 2), weights.flatten(0, 2)).view(*y.shape, table.shape[1])
    best = values.max(dim=2)
    return best.values.transpose(1, 2), best.indices.transpose(1, 2)


def scatter_samples(gradient: Tensor, image: Tensor, y: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of bilinear samples, of which each channel has its own, by the maps.

    Args:
        gradient: [R, C, B], of the samples.
        image: int64 [R], the map of each RoI.
        y: [R, C, B], row of each sample.
        x: its column.
        shape: [M, C, H, W], of the maps.

    Returns:
        The gradient of ``shape``, in float32 or better.
    """
    maps, channels, height, width = shape
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    total = gradient.new_zeros(maps * channels * height * width, dtype=dtype)
    plane = image[:, None, None, None] * channels + torch.arange(channels, device=image.device)[:, None, None]
    for some in chunk(len(gradient), 4 * gradient[0].numel() if len(gradient) else 1, PIXELS):
        indices, weights = bilinear_corners(y[some].to(dtype), x[some].to(dtype), height, width, border="edge")
        indices = indices + plane[some] * (height * width)
        total.scatter_add_(0, indices.flatten(), (weights * gradient[some][..., None]).flatten())
    return total.view(shape)
