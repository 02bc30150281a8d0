"""RoIAlign: the mean or the largest of bilinear samples in each bin of a RoI (He et al., Mask R-CNN, 2017).

The sides of the bins lie along the axes, so the weights of a bin's pixels are products of weights along y and along x.
Samples at most one pixel apart, which is what ``sampling_ratio`` 0 asks for, share pixels: S samples along a side read
S + 1 pixels instead of 2 S.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.bilinear import pixel_rows
from perceptkd.ops.max_samples import best_samples, scatter_samples
from perceptkd.ops.roi_bags import RoiBags, pool_bags, pool_bags_gradient
from perceptkd.ops.roi_parts import (
    NOWHERE,
    PIXELS,
    VALUES,
    Pair,
    Selection,
    bin_points,
    check_rois,
    finite_rois,
    roi_boxes,
    sampled_parts,
)

Mode = Literal["avg", "max"]


@dataclass(frozen=True)
class Alignment:
    """How RoIs are sampled.

    Args:
        output_size: bins along (y, x).
        spatial_scale: pixels of the map per unit of the RoIs.
        sampling_ratio: samples along each side of a bin; 0 for one per pixel, rounded up.
        aligned: coordinate 0 is the upper left border of the first pixel; otherwise its centre, and RoIs are at least
            a pixel wide and high.
    """

    output_size: Pair
    spatial_scale: float = 1.0
    sampling_ratio: int = 0
    aligned: bool = True


def roi_align(
    features: Tensor,
    rois: Tensor,
    *,
    output_size: Pair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    mode: Mode = "avg",
    aligned: bool = True,
) -> Tensor:
    """Pools the features in each RoI. Differentiable by ``features``, once.

    Args:
        features: [N, C, H, W].
        rois: [R, 5] as (sample, x1, y1, x2, y2); the sample is not checked, which would stall a GPU.
        output_size: bins along (y, x).
        spatial_scale: see :class:`Alignment`, as the other options.
        mode: 'avg' for the mean of a bin's samples, 'max' for the largest.

    Returns:
        [R, C, *output_size] in the dtype of ``features``. A sample up to a pixel outside the map reads the border, one
        further off is 0. Bins without samples are 0: those of a RoI of no width or height when ``sampling_ratio`` is
        0, and those of a RoI that is not finite. A RoI with x2 < x1 and a ``sampling_ratio`` is sampled from right to
        left.

    >>> features = torch.arange(4.0).view(1, 1, 1, 4)
    >>> roi_align(features, torch.tensor([[0.0, 1.0, 0.0, 3.0, 1.0]]), output_size=(1, 2)).tolist()
    [[[[1.0, 2.0]]]]
    """
    alignment = Alignment(output_size, spatial_scale, sampling_ratio, aligned)
    if mode == "max":
        return roi_align_max(features, rois, alignment)[0]
    if mode != "avg":
        raise ValueError(f"mode must be 'avg' or 'max', got {mode!r}")
    return roi_align_mean(features, rois, alignment)


def roi_align_mean(features: Tensor, rois: Tensor, alignment: Alignment) -> Tensor:
    """:func:`roi_align` in mode 'avg'."""
    check_rois(features, rois, 5, alignment.output_size)
    return pool_bags(features, _bags(rois, features.shape, alignment))


def roi_align_mean_gradient(grad_output: Tensor, rois: Tensor, shape: torch.Size, alignment: Alignment) -> Tensor:
    """Gradient of :func:`roi_align_mean` by features of ``shape``, in float32 or better."""
    return pool_bags_gradient(grad_output, shape, _bags(rois, shape, alignment))


def roi_align_max(features: Tensor, rois: Tensor, alignment: Alignment) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`roi_align` in mode 'max', and the row and the column in the map of each largest sample, of its shape.

    Of equal samples the first counts, row by row. Row and column are -2 where a bin has no sample.
    """
    check_rois(features, rois, 5, alignment.output_size)
    return _MaxRoIAlign.apply(features, rois, alignment)


def roi_align_max_gradient(
    grad_output: Tensor, rois: Tensor, best_y: Tensor, best_x: Tensor, shape: torch.Size
) -> Tensor:
    """Gradient of :func:`roi_align_max` by features of ``shape``, in float32 or better, from what it returned."""
    image = finite_rois(rois)[0]
    return scatter_samples(grad_output.flatten(2), image, best_y.flatten(2), best_x.flatten(2), shape)


def _bags(rois: Tensor, shape: torch.Size, alignment: Alignment) -> RoiBags:
    return RoiBags(len(rois), alignment.output_size, partial(_bag_parts, rois, shape, alignment))


def _bag_parts(rois: Tensor, shape: torch.Size, alignment: Alignment) -> Iterator[tuple[Selection, Tensor, Tensor]]:
    """Pixels and weights of the bins; see :class:`perceptkd.ops.roi_bags.RoiBags`."""
    height, width = shape[2:]
    bins_y, bins_x = alignment.output_size
    image, start, size = roi_boxes(rois, alignment.spatial_scale, aligned=alignment.aligned)
    adaptive = alignment.sampling_ratio <= 0
    weigh: Callable[..., tuple[Tensor, Tensor]] = _weights_shared if adaptive else _weights_apart

    def taps(grid: Pair) -> int:
        return (grid[0] + 1) * (grid[1] + 1) if adaptive else 4 * grid[0] * grid[1]

    parts = sampled_parts(size, alignment.output_size, alignment.sampling_ratio, limit=PIXELS, elements=taps)
    for some, (samples_y, samples_x) in parts:
        rows, weights_y = weigh(bin_points(start[some, 0], size[some, 0], bins_y, samples_y), height)
        columns, weights_x = weigh(bin_points(start[some, 1], size[some, 1], bins_x, samples_x), width)
        rows = (rows + (image[some] * height)[:, None, None]) * width
        indices = rows[:, :, None, :, None] + columns[:, None, :, None, :]
        weights = weights_y[:, :, None, :, None] * weights_x[:, None, :, None, :]
        yield some, indices.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _weights_apart(points: Tensor, extent: int) -> tuple[Tensor, Tensor]:
    """Pixels that the samples of each bin read along one axis, and their weights in the mean: two for each sample.

    Args:
        points: [R, bins, S].
        extent: pixels of the map along the axis.

    Returns:
        int64 and floating point [R, bins, 2 S].
    """
    is_near = (points >= -1) & (points <= extent)
    points = points.clamp(0, extent - 1)
    pixels = points.floor()
    ahead = points - pixels
    weights = torch.where(is_near[..., None], torch.stack((1 - ahead, ahead), dim=-1), 0) / points.shape[-1]
    return torch.stack((pixels, pixels + 1), dim=-1).flatten(2).clamp(max=extent - 1).long(), weights.flatten(2)


def _weights_shared(points: Tensor, extent: int) -> tuple[Tensor, Tensor]:
    """The same for rising samples at most one pixel apart, int64 and floating point [R, bins, S + 1] or less."""
    is_near = (points >= -1) & (points <= extent)
    points = points.clamp(0, extent - 1)
    samples = points.shape[-1]
    pixels = points[..., :1].floor() + torch.arange(min(samples + 1, extent), device=points.device)
    shares = (1 - (points[..., None] - pixels[..., None, :]).abs()).clamp(min=0)
    weights = torch.where(is_near[..., None], shares, 0).sum(-2) / samples
    return pixels.clamp(max=extent - 1).long(), weights


class _MaxRoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, rois: Tensor, alignment: Alignment) -> tuple[Tensor, Tensor, Tensor]:
        image, start, size = roi_boxes(rois, alignment.spatial_scale, aligned=alignment.aligned)
        table, (_, channels, height, width) = pixel_rows(features), features.shape
        output = features.new_zeros(len(rois), channels, alignment.output_size[0] * alignment.output_size[1])
        best_y, best_x = (start.new_full(output.shape, NOWHERE) for _ in range(2))

        def values(grid: Pair) -> int:
            return grid[0] * grid[1] * max(4, channels)

        parts = sampled_parts(size, alignment.output_size, alignment.sampling_ratio, limit=VALUES, elements=values)
        for some, grid in parts:
            y, x = _sample_grid(start[some], size[some], alignment.output_size, grid)
            output[some], best = best_samples(table, image[some], y, x, (height, width))
            best_y[some], best_x[some] = (_take_sample(part, best) for part in (y, x))
        output, best_y, best_x = (
            part.view(len(rois), channels, *alignment.output_size) for part in (output, best_y, best_x)
        )
        ctx.save_for_backward(rois, best_y, best_x)
        ctx.shape = features.shape
        ctx.mark_non_differentiable(best_y, best_x)
        return output, best_y, best_x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        rois, best_y, best_x = ctx.saved_tensors
        gradient = roi_align_max_gradient(grad_output, rois, best_y, best_x, ctx.shape)
        return gradient.to(grad_output.dtype), None, None


def _sample_grid(start: Tensor, size: Tensor, bins: Pair, samples: Pair) -> tuple[Tensor, Tensor]:
    """Row and column of all samples of each bin, row by row, each [R, bins, S]."""
    y = bin_points(start[:, 0], size[:, 0], bins[0], samples[0])[:, :, None, :, None]
    x = bin_points(start[:, 1], size[:, 1], bins[1], samples[1])[:, None, :, None, :]
    y, x = torch.broadcast_tensors(y, x)
    return y.flatten(3).flatten(1, 2), x.flatten(3).flatten(1, 2)


def _take_sample(positions: Tensor, best: Tensor) -> Tensor:
    """Position [R, C, B] of sample ``best`` [R, C, B] among [R, B, S]."""
    return torch.gather(positions.transpose(1, 2), 1, best)
