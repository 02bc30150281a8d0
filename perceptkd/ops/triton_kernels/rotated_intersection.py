"""Intersections of rotated boxes, all with all; the formula of :mod:`perceptkd.ops.box_iou_rotated`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from perceptkd.ops.triton_kernels import on_its_device

_ROWS, _COLUMNS = 8, 64


@on_its_device
def intersections(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Areas [M, N] of boxes [M, 5] and [N, 5] as (x, y, width, height, angle), of one floating point dtype."""
    area = boxes1.new_empty((len(boxes1), len(boxes2)))
    if area.numel():
        grid = (triton.cdiv(len(boxes1), _ROWS), triton.cdiv(len(boxes2), _COLUMNS))
        _intersection_kernel[grid](
            _prepare(boxes1), _prepare(boxes2), area, *area.shape, ROWS=_ROWS, COLUMNS=_COLUMNS, enable_fp_fusion=False
        )
    return area


def _prepare(boxes: Tensor) -> Tensor:
    """Centre, half sizes, cosine and sine: [6, N]."""
    x, y, width, height, angle = boxes.unbind(1)
    return torch.stack((x, y, width / 2, height / 2, angle.cos(), angle.sin()))


@triton.jit
def _intersection_kernel(boxes1, boxes2, area, count1, count2, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x1, y1, half_width1, half_height1, cos1, sin1 = _load_boxes(boxes1, row[:, None], count1)
    x2, y2, half_width2, half_height2, cos2, sin2 = _load_boxes(boxes2, column[None, :], count2)
    # the first box in the frame of the second
    centre_x = (x1 - x2) * cos2 + (y1 - y2) * sin2
    centre_y = (y1 - y2) * cos2 - (x1 - x2) * sin2
    cos, sin = cos1 * cos2 + sin1 * sin2, sin1 * cos2 - cos1 * sin2
    across_x, across_y = half_width1 * cos, half_width1 * sin
    along_x, along_y = -half_height1 * sin, half_height1 * cos
    ax, ay = centre_x - across_x - along_x, centre_y - across_y - along_y
    bx, by = centre_x + across_x - along_x, centre_y + across_y - along_y
    cx, cy = centre_x + across_x + along_x, centre_y + across_y + along_y
    dx, dy = centre_x - across_x + along_x, centre_y - across_y + along_y
    total = _below_edge(ax, ay, bx, by, half_width2, half_height2)
    total += _below_edge(bx, by, cx, cy, half_width2, half_height2)
    total += _below_edge(cx, cy, dx, dy, half_width2, half_height2)
    total += _below_edge(dx, dy, ax, ay, half_width2, half_height2)
    place = row[:, None].to(tl.int64) * count2 + column[None, :]
    tl.store(area + place, tl.abs(total), mask=(row[:, None] < count1) & (column[None, :] < count2))


@triton.jit
def _load_boxes(boxes, index, count):
    exists = index < count
    return (
        tl.load(boxes + index, mask=exists, other=0),
        tl.load(boxes + count + index, mask=exists, other=0),
        tl.load(boxes + 2 * count + index, mask=exists, other=0),
        tl.load(boxes + 3 * count + index, mask=exists, other=0),
        tl.load(boxes + 4 * count + index, mask=exists, other=0),
        tl.load(boxes + 5 * count + index, mask=exists, other=0),
    )


@triton.jit
def _below_edge(x0, y0, x1, y1, bound_x, bound_y):
    """Integral over x of the edge's y, both clamped to the second box."""
    first_x, last_x = _clamp(x0, bound_x), _clamp(x1, bound_x)
    slope = (y1 - y0) / tl.where(x1 == x0, 1, x1 - x0)
    first_y, last_y = y0 + slope * (first_x - x0), y0 + slope * (last_x - x0)
    change = tl.where(last_y == first_y, 1, last_y - first_y)
    crossing1 = tl.minimum(tl.maximum((-bound_y - first_y) / change, 0), 1)
    crossing2 = tl.minimum(tl.maximum((bound_y - first_y) / change, 0), 1)
    knot1, knot2 = tl.minimum(crossing1, crossing2), tl.maximum(crossing1, crossing2)
    rise = last_y - first_y
    y_a, y_d = _clamp(first_y, bound_y), _clamp(last_y, bound_y)
    y_b, y_c = _clamp(first_y + knot1 * rise, bound_y), _clamp(first_y + knot2 * rise, bound_y)
    mean = (knot1 * (y_a + y_b) + (knot2 - knot1) * (y_b + y_c) + (1 - knot2) * (y_c + y_d)) / 2
    return (last_x - first_x) * mean


@triton.jit
def _clamp(value, bound):
    return tl.minimum(tl.maximum(value, -bound), bound)
