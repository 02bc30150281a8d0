"""Border align: the largest of evenly spaced samples on each side of a box (Qiu et al., BorderDet, 2020)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.bilinear import pixel_rows
from perceptkd.ops.checks import check_same_device, check_tensor
from perceptkd.ops.max_samples import best_samples, scatter_samples
from perceptkd.ops.roi_parts import VALUES, bounded


def border_align(features: Tensor, boxes: Tensor, pool_size: int) -> tuple[Tensor, Tensor]:
    """Takes the largest sample on each side of boxes. The values are differentiable by ``features``, once.

    Args:
        features: [N, 4 C, H, W], the channels of the top, left, bottom and right side after each other.
        boxes: [N, L, 4] as (x1, y1, x2, y2) in pixels; a pixel's centre lies at its integer coordinates.
        pool_size: steps along each side, which is sampled at ``pool_size + 1`` points. Top and left run from (x1, y1),
            bottom and right from (x2, y2).

    Returns:
        values [N, C, L, 4] in the dtype of ``features``, and int32 of that shape, which point each is; the first of
        equal ones. A point up to a pixel outside the map reads the border, one further off is 0.

    >>> features = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 4, 4, 4)
    >>> values, points = border_align(features, torch.tensor([[[0.0, 0.0, 2.0, 3.0]]]), 2)
    >>> values.tolist(), points.tolist()
    ([[[[2.0, 12.0, 14.0, 14.0]]]], [[[[2, 2, 0, 0]]]])
    """
    check_tensor("features", features, ("N", "4C", "H", "W"))
    check_tensor("boxes", boxes, (len(features), "L", 4))
    check_same_device(features=features, boxes=boxes)
    if features.shape[1] % 4:
        raise ValueError(f"the channels of features must divide by 4, got {features.shape[1]}")
    if pool_size < 1:
        raise ValueError(f"pool_size must be at least 1, got {pool_size}")
    return _BorderAlign.apply(features, boxes, pool_size)


def border_align_gradient(
    grad_output: Tensor, boxes: Tensor, points: Tensor, shape: torch.Size, pool_size: int
) -> Tensor:
    """Gradient of :func:`border_align` by features of ``shape``, in float32 or better, from the points it returned."""
    images, channels, height, width = shape
    image, start, step = _sides(boxes, pool_size)
    gradient, point = (part.permute(0, 2, 3, 1).flatten(0, 2)[..., None] for part in (grad_output, points))
    y, x = (start[:, axis, None, None] + step[:, axis, None, None] * point for axis in (0, 1))
    maps = torch.Size((4 * images, channels // 4, height, width))
    return scatter_samples(gradient, image, y, x, maps).view(shape)


class _BorderAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, boxes: Tensor, pool_size: int) -> tuple[Tensor, Tensor]:
        channels, size = features.shape[1] // 4, (features.shape[2], features.shape[3])
        table = pixel_rows(features.unflatten(1, (4, channels)).flatten(0, 1))
        image, start, step = _sides(boxes, pool_size)
        values = features.new_zeros(len(image), channels)
        points = torch.zeros_like(values, dtype=torch.int32)
        steps = torch.arange(pool_size + 1, device=boxes.device)
        for some in bounded(slice(None), len(image), (pool_size + 1) * max(4, channels), VALUES):
            y, x = (start[some, axis, None, None] + step[some, axis, None, None] * steps for axis in (0, 1))
            best, which = best_samples(table, image[some], y, x, size)
            values[some], points[some] = best[..., 0], which[..., 0].int()
        values, points = (
            part.view(len(boxes), boxes.shape[1], 4, channels).permute(0, 3, 1, 2) for part in (values, points)
        )
        ctx.save_for_backward(boxes, points)
        ctx.shape, ctx.pool_size = features.shape, pool_size
        ctx.mark_non_differentiable(points)
        return values, points

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        boxes, points = ctx.saved_tensors
        gradient = border_align_gradient(grad_output, boxes, points, ctx.shape, ctx.pool_size)
        return gradient.to(grad_output.dtype), None, None


def _sides(boxes: Tensor, pool_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Map int64 [N L 4], first point and step between points [N L 4, 2] as (y, x) of the sides of all boxes."""
    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    x1, y1, x2, y2 = boxes.unbind(-1)
    start = torch.stack((y1, x1, y1, x1, y2, x2, y2, x2), dim=-1)
    right, down, still = (x2 - x1) / pool_size, (y2 - y1) / pool_size, torch.zeros_like(x1)
    step = torch.stack((still, right, down, still, still, -right, -down, still), dim=-1)
    image = torch.arange(4 * len(boxes), device=boxes.device).view(-1, 1, 4).expand(-1, boxes.shape[1], 4)
    return image.flatten(), start.view(-1, 2), step.view(-1, 2)
