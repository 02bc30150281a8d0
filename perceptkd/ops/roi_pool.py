"""RoIPool: the largest pixel in each bin of a RoI, bins rounded to whole pixels (Girshick, Fast R-CNN, 2015)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.bilinear import pixel_rows
from perceptkd.ops.roi_parts import VALUES, Pair, bounded, check_rois, finite_rois, next_power_of_2, parts_by_grid


def roi_pool(features: Tensor, rois: Tensor, *, output_size: Pair, spatial_scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Takes the largest pixel of every bin. The values are differentiable by ``features``, once.

    Args:
        features: [N, C, H, W].
        rois: [R, 5] as (sample, x1, y1, x2, y2) in whole pixels, both corners included: a RoI spans x1 to x2 + 1. The
            sample is not checked, which would stall a GPU.
        output_size: bins along (y, x).
        spatial_scale: pixels of the map per unit of the RoIs.

    Returns:
        values [R, C, *output_size], and int32 of that shape, the pixel ``row * W + column`` of each; the first of equal
        ones, row by row. A bin covers every pixel that it touches. Bins without a pixel have value 0 and pixel -1:
        those outside the map, and those of a RoI that is not finite or whose width or height is not positive.

    >>> features = torch.tensor([[[[1.0, 5.0, 2.0, 3.0]]]])
    >>> values, pixels = roi_pool(features, torch.tensor([[0.0, 0, 0, 3, 0]]), output_size=(1, 2))
    >>> values.tolist(), pixels.tolist()
    ([[[[5.0, 3.0]]]], [[[[1, 3]]]])
    """
    check_rois(features, rois, 5, output_size)
    return _RoIPool.apply(features, rois, output_size, spatial_scale)


def roi_pool_gradient(grad_output: Tensor, rois: Tensor, pixels: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of :func:`roi_pool` by features of ``shape``, in float32 or better, from the pixels that it returned."""
    dtype = torch.promote_types(grad_output.dtype, torch.float32)
    image = finite_rois(rois)[0]
    total = grad_output.new_zeros(shape[0] * shape[1], shape[2] * shape[3], dtype=dtype)
    plane = image[:, None] * shape[1] + torch.arange(shape[1], device=image.device)
    places = plane[..., None] * total.shape[1] + pixels.flatten(2).clamp(min=0)
    gradient = torch.where(pixels >= 0, grad_output.to(dtype), 0).flatten()
    return total.view(-1).scatter_add_(0, places.flatten(), gradient).view(shape)


class _RoIPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, rois: Tensor, output_size: Pair, spatial_scale: float
    ) -> tuple[Tensor, Tensor]:
        table, (_, channels, height, width) = pixel_rows(features), features.shape
        values = features.new_zeros(len(rois), channels, output_size[0] * output_size[1])
        pixels = torch.full_like(values, -1, dtype=torch.int32)
        image, windows_y, windows_x = _windows(rois, output_size, spatial_scale, (height, width))
        largest = torch.stack([(stop - start).amax(1) for start, stop in (windows_y, windows_x)], dim=1)
        for group, grid in parts_by_grid(next_power_of_2(largest)):
            each = values.shape[2] * grid[0] * grid[1] * channels
            for some in bounded(group, len(group), each, VALUES):
                rows, columns = (
                    _window_pixels(start[some], stop[some], size)
                    for (start, stop), size in zip((windows_y, windows_x), grid)
                )
                covered = (rows[:, :, None, :, None] * width + columns[:, None, :, None, :]).flatten(3).flatten(1, 2)
                found = table[covered + (image[some] * (height * width))[:, None, None]].max(dim=2)
                best = covered.transpose(1, 2).gather(1, found.indices.transpose(1, 2))
                is_empty = _is_empty(windows_y, windows_x, some)[:, None]
                values[some] = torch.where(is_empty, 0, found.values.transpose(1, 2))
                pixels[some] = torch.where(is_empty, -1, best).int()
        values, pixels = (part.view(len(rois), channels, *output_size) for part in (values, pixels))
        ctx.save_for_backward(rois, pixels)
        ctx.shape = features.shape
        ctx.mark_non_differentiable(pixels)
        return values, pixels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        rois, pixels = ctx.saved_tensors
        gradient = roi_pool_gradient(grad_output, rois, pixels, ctx.shape)
        return gradient.to(grad_output.dtype), None, None, None


Window = tuple[Tensor, Tensor]


def _windows(rois: Tensor, bins: Pair, scale: float, size: Pair) -> tuple[Tensor, Window, Window]:
    """Sample [R] and the pixels that the bins cover along y and x: start and stop, int64 [R, bins]."""
    image, corners, is_finite = finite_rois(rois)
    low, high = corners[:, :2] * scale, (corners[:, 2:] + 1) * scale
    is_sound = is_finite & (high > low).all(1)
    windows = []
    counts = rois.new_tensor((bins[1], bins[0]))  # a tensor: by a number, CUDA multiplies with the reciprocal
    for axis, count, extent in ((1, bins[0], size[0]), (0, bins[1], size[1])):
        start, bin_size = low[:, axis, None], ((high - low) / counts)[:, axis, None]
        edge = torch.arange(count + 1, device=rois.device) * bin_size + start
        first = edge[:, :-1].floor().clamp(0, extent)
        last = torch.where(is_sound[:, None], edge[:, 1:].ceil().clamp(0, extent), first)
        windows.append((first.long(), last.long()))
    return image, windows[0], windows[1]


def _window_pixels(start: Tensor, stop: Tensor, size: int) -> Tensor:
    """Pixels of windows [R, bins] along one axis, [R, bins, size]; short windows repeat their last one."""
    pixels = start[..., None] + torch.arange(size, device=start.device)
    return torch.minimum(pixels, stop[..., None] - 1).clamp(min=0)


def _is_empty(windows_y: Window, windows_x: Window, some: Tensor | slice) -> Tensor:
    """Marks the bins without pixels, bool [R, bins_y * bins_x]."""
    has_rows, has_columns = (stop[some] > start[some] for start, stop in (windows_y, windows_x))
    return ~(has_rows[:, :, None] & has_columns[:, None]).flatten(1)
