"""Precise RoI pooling: the mean of the bilinear surface over each bin, exactly (Jiang et al., IoU-Net, 2018).

The surface is a sum of pixels times tents along y and x, so the mean over a bin is a sum of pixels times the integrals
of both tents. It changes smoothly with the RoI, and autograd derives it by the RoI as well.
"""

import torch
from torch import Tensor

from perceptkd.ops.bilinear import pixel_rows, weighted_rows
from perceptkd.ops.chunks import chunk
from perceptkd.ops.roi_parts import PIXELS, Pair, check_rois, next_power_of_2, parts_by_grid


def prroi_pool(features: Tensor, rois: Tensor, *, output_size: Pair, spatial_scale: float = 1.0) -> Tensor:
    """Averages the bilinear surface of the features over each bin. Differentiable by ``features`` and ``rois``.

    Args:
        features: [N, C, H, W]; a pixel's centre lies at its integer coordinates, and pixels outside the map are 0.
        rois: [R, 5] as (sample, x1, y1, x2, y2); the sample is not checked, which would stall a GPU.
        output_size: bins along (y, x).
        spatial_scale: pixels of the map per unit of the RoIs.

    Returns:
        [R, C, *output_size] in the dtype of ``features``; 0 for a RoI whose width or height is not positive, or that is
        not finite.

    >>> features = torch.tensor([[[[0.0, 4.0, 8.0]]]])
    >>> roi = torch.tensor([[0.0, 0.0, -1.0, 2.0, 1.0]])
    >>> prroi_pool(features, roi, output_size=(1, 2)).tolist()  # the map ends: half of the mean of 2 and 6
    [[[[1.0, 3.0]]]]
    """
    check_rois(features, rois, 5, output_size)
    table = pixel_rows(features).to(torch.promote_types(features.dtype, torch.float32))
    height, width = features.shape[2:]
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))
    is_finite = rois.isfinite().all(1)
    rois = torch.where(is_finite[:, None], rois, 0)
    image, corners = rois[:, 0].long(), rois[:, 1:] * spatial_scale
    edges_y = _bin_edges(corners[:, 1], corners[:, 3], output_size[0])
    edges_x = _bin_edges(corners[:, 0], corners[:, 2], output_size[1])
    taps = torch.stack((_taps(edges_y, height), _taps(edges_x, width)), dim=1)
    bins = output_size[0] * output_size[1]
    order, pooled = [], []
    no_rois = image[:0], (1, 1)  # an empty part, so that no RoIs have gradients too
    for group, grid in list(parts_by_grid(next_power_of_2(taps))) or [no_rois]:
        for part in chunk(len(group), bins * grid[0] * grid[1], PIXELS):
            some = group[part]
            rows, weights_y = _tent_means(edges_y[some], height, grid[0])
            columns, weights_x = _tent_means(edges_x[some], width, grid[1])
            rows = (rows + (image[some] * height)[:, None, None]) * width
            indices = rows[:, :, None, :, None] + columns[:, None, :, None, :]
            weights = weights_y[:, :, None, :, None] * weights_x[:, None, :, None, :]
            sums = weighted_rows(table, indices.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2))
            order.append(some)
            pooled.append(sums.view(-1, bins, features.shape[1]))
    values = torch.cat(pooled)[torch.cat(order).argsort()].transpose(1, 2)
    return values.reshape(len(rois), features.shape[1], *output_size).to(features.dtype)


def _bin_edges(low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Where the bins of RoIs start and stop along one axis, [R, bins, 2]."""
    bin_size = (high - low).clamp(min=0)[:, None] / bins
    start = low[:, None] + torch.arange(bins, device=low.device) * bin_size
    return torch.stack((start, start + bin_size), dim=-1)


def _taps(edges: Tensor, extent: int) -> Tensor:
    """The most pixels that a bin of each RoI reads along one axis, int64 [R]; at least 1."""
    first = edges[..., 0].detach().floor().clamp(0, extent - 1)
    last = edges[..., 1].detach().ceil().clamp(0, extent - 1)
    return (last - first).amax(1).long() + 1


def _tent_means(edges: Tensor, extent: int, taps: int) -> tuple[Tensor, Tensor]:
    """Pixels of each bin along one axis, int64 [R, bins, taps], and the means of their tents, 0 for bins of no size."""
    first = edges[..., :1].detach().floor().clamp(0, extent - 1)
    pixels = first + torch.arange(taps, device=edges.device)
    start, stop = (edges[..., None] - pixels[..., None, :]).clamp(-1, 1).unbind(-2)
    integral = stop - start - (stop * stop.abs() - start * start.abs()) / 2
    bin_size = edges[..., 1:] - edges[..., :1]
    counts = (bin_size > 0) & (pixels < extent)
    means = torch.where(counts, integral, 0) / torch.where(bin_size > 0, bin_size, 1)
    return pixels.clamp(max=extent - 1).long(), means
