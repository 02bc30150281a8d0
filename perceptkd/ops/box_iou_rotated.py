"""Overlap of rotated 2D boxes.

A box is (x, y, width, height, angle): centre, sizes, and the angle in radians that turns from x towards y.

The intersection is computed in the frame of the second box, which is then an axis-aligned rectangle R. For every x the
first box covers the interval between its lower and its upper edge, so, walking once around it,

    area = | sum over its four edges of  integral over x in R of  clamp(y(x), R) dx |,

where each integrand is a clamped line, whose integral is a sum of three trapezoids. No polygon is built and nothing is
sorted; the result is continuous in the boxes, also where edges coincide.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.bbox_overlaps import Mode, check_mode, check_pairs, overlap_of_areas
from perceptkd.ops.triton_kernels import runs_on_triton

_PAIRS_AT_ONCE = 1 << 20


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, *, mode: Mode = "iou", is_aligned: bool = False) -> Tensor:
    """Intersection over union, or over the first box, of rotated boxes.

    Args:
        boxes1: [M, 5] as (x, y, width, height, angle).
        boxes2: [N, 5]; N = M when ``is_aligned``.
        mode: 'iou' divides by the union, 'iof' by the area of the box in ``boxes1``.
        is_aligned: compare row with row instead of all with all.

    Returns:
        [M, N], or [M] when ``is_aligned``, computed in float32 or better, without gradient; 0 where a box has no area.

    >>> square = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0]])
    >>> turned = torch.tensor([[0.0, 0.0, 2.0, 2.0, torch.pi / 2], [1.0, 0.0, 2.0, 2.0, 0.0]])
    >>> box_iou_rotated(square, turned).round(decimals=4)
    tensor([[1.0000, 0.3333]])
    """
    check_mode(mode)
    check_pairs(boxes1, boxes2, 5, is_aligned=is_aligned)
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    first, second = (boxes.detach().to(torch.promote_types(dtype, torch.float32)) for boxes in (boxes1, boxes2))
    intersection = rotated_intersection(first, second, is_aligned=is_aligned)
    area1, area2 = first[:, 2] * first[:, 3], second[:, 2] * second[:, 3]
    return overlap_of_areas(intersection, area1, area2, mode=mode, is_aligned=is_aligned).to(dtype)


def rotated_intersection(boxes1: Tensor, boxes2: Tensor, *, is_aligned: bool = False) -> Tensor:
    """Area of the intersection, [M, N] or [M] when ``is_aligned``; arguments as :func:`box_iou_rotated`."""
    check_pairs(boxes1, boxes2, 5, is_aligned=is_aligned)
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    first, second = (boxes.detach().to(torch.promote_types(dtype, torch.float32)) for boxes in (boxes1, boxes2))
    if runs_on_triton(first) and not is_aligned:
        from perceptkd.ops.triton_kernels import rotated_intersection as kernels

        return kernels.intersections(first, second).to(dtype)
    if boxes1.device.type == "cpu" and not is_aligned:
        area = _intersections_numba(prepare_boxes(boxes1), prepare_boxes(boxes2))
        return torch.from_numpy(area).to(dtype)
    if is_aligned:
        return _intersection_torch(first, second).to(dtype)
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(second)))
    blocks = [_intersection_torch(block[:, None], second[None]) for block in first.split(rows)]
    return torch.cat(blocks).to(dtype)


def _intersection_torch(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """The module's formula for boxes [..., 5] that broadcast against each other."""
    corners_x, corners_y = _corners_in_frame(boxes1, boxes2)
    half_width, half_height = boxes2[..., 2] / 2, boxes2[..., 3] / 2
    area = torch.zeros_like(corners_x[0])
    for edge in range(4):
        start_x, start_y = corners_x[edge], corners_y[edge]
        run, rise = corners_x[(edge + 1) % 4] - start_x, corners_y[(edge + 1) % 4] - start_y
        first_x = torch.clamp(start_x, -half_width, half_width)
        last_x = torch.clamp(start_x + run, -half_width, half_width)
        safe_run = torch.where(run == 0, 1, run)
        first_y = start_y + rise * ((first_x - start_x) / safe_run)
        last_y = start_y + rise * ((last_x - start_x) / safe_run)
        area = area + (last_x - first_x) * _mean_of_clamped_line(first_y, last_y, half_height)
    return area.abs()


def _mean_of_clamped_line(first: Tensor, last: Tensor, bound: Tensor) -> Tensor:
    """Mean of clamp(y, -bound, bound) over a line from ``first`` to ``last``: trapezoids between the two crossings."""
    change = torch.where(first == last, 1, last - first)
    crossing1 = ((-bound - first) / change).clamp(0, 1)
    crossing2 = ((bound - first) / change).clamp(0, 1)
    knots = (torch.zeros_like(first), torch.minimum(crossing1, crossing2), torch.maximum(crossing1, crossing2), 1)
    values = [torch.clamp(first + knot * (last - first), -bound, bound) for knot in knots]
    steps = [(knots[k + 1] - knots[k]) * (values[k] + values[k + 1]) / 2 for k in range(3)]
    return steps[0] + steps[1] + steps[2]


def _corners_in_frame(boxes1: Tensor, boxes2: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Corners of the first boxes, counter-clockwise, in the frame of the second."""
    shift_x, shift_y = boxes1[..., 0] - boxes2[..., 0], boxes1[..., 1] - boxes2[..., 1]
    cos2, sin2 = boxes2[..., 4].cos(), boxes2[..., 4].sin()
    centre_x, centre_y = shift_x * cos2 + shift_y * sin2, shift_y * cos2 - shift_x * sin2
    turn = boxes1[..., 4] - boxes2[..., 4]
    cos, sin = turn.cos(), turn.sin()
    half_width, half_height = boxes1[..., 2] / 2, boxes1[..., 3] / 2
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners_x = [centre_x + u * half_width * cos - v * half_height * sin for u, v in signs]
    corners_y = [centre_y + u * half_width * sin + v * half_height * cos for u, v in signs]
    return corners_x, corners_y


def prepare_boxes(boxes: Tensor) -> np.ndarray:
    """Float64 [N, 5] of boxes on CPU, as the numba kernels take them."""
    return np.ascontiguousarray(boxes.detach().double().numpy())


@njit(cache=True, nogil=True)
def _pair_intersection(box1: np.ndarray, box2: np.ndarray) -> float:
    """The module's formula for two boxes [5], with a quick way out for boxes too far apart to meet."""
    shift_x, shift_y = box1[0] - box2[0], box1[1] - box2[1]
    reach = (np.hypot(box1[2], box1[3]) + np.hypot(box2[2], box2[3])) / 2
    if shift_x * shift_x + shift_y * shift_y >= reach * reach:
        return 0.0
    cos2, sin2 = np.cos(box2[4]), np.sin(box2[4])
    centre_x, centre_y = shift_x * cos2 + shift_y * sin2, shift_y * cos2 - shift_x * sin2
    cos, sin = np.cos(box1[4] - box2[4]), np.sin(box1[4] - box2[4])
    across_x, across_y = cos * box1[2] / 2, sin * box1[2] / 2
    along_x, along_y = -sin * box1[3] / 2, cos * box1[3] / 2
    bound_x, bound_y = box2[2] / 2, box2[3] / 2
    area = 0.0
    for edge in range(4):
        u0, v0 = (-1, 1, 1, -1)[edge], (-1, -1, 1, 1)[edge]
        u1, v1 = (1, 1, -1, -1)[edge], (-1, 1, 1, -1)[edge]
        x0, y0 = centre_x + u0 * across_x + v0 * along_x, centre_y + u0 * across_y + v0 * along_y
        x1, y1 = centre_x + u1 * across_x + v1 * along_x, centre_y + u1 * across_y + v1 * along_y
        if x0 == x1:
            continue
        slope = (y1 - y0) / (x1 - x0)
        first_x, last_x = min(max(x0, -bound_x), bound_x), min(max(x1, -bound_x), bound_x)
        if first_x == last_x:
            continue
        first_y, last_y = y0 + slope * (first_x - x0), y0 + slope * (last_x - x0)
        change = last_y - first_y
        knot1, knot2 = 0.0, 1.0
        if change != 0:
            crossing1 = min(max((-bound_y - first_y) / change, 0.0), 1.0)
            crossing2 = min(max((bound_y - first_y) / change, 0.0), 1.0)
            knot1, knot2 = min(crossing1, crossing2), max(crossing1, crossing2)
        y_a = min(max(first_y, -bound_y), bound_y)
        y_b = min(max(first_y + knot1 * change, -bound_y), bound_y)
        y_c = min(max(first_y + knot2 * change, -bound_y), bound_y)
        y_d = min(max(last_y, -bound_y), bound_y)
        mean = knot1 * (y_a + y_b) + (knot2 - knot1) * (y_b + y_c) + (1.0 - knot2) * (y_c + y_d)
        area += (last_x - first_x) * mean / 2
    return abs(area)


@njit(cache=True, nogil=True)
def _intersections_numba(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    area = np.empty((boxes1.shape[0], boxes2.shape[0]), np.float64)
    for i in range(boxes1.shape[0]):
        for j in range(boxes2.shape[0]):
            area[i, j] = _pair_intersection(boxes1[i], boxes2[j])
    return area


@njit(cache=True, nogil=True)
def greedy_rotated(boxes: np.ndarray, labels: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy NMS of sorted boxes for :mod:`perceptkd.ops.nms`; returns the kept indices.

    It stands here because numba's cache does not see a change of an inlined function in another file.
    """
    count = boxes.shape[0]
    is_dropped = np.zeros(count, np.bool_)
    kept = np.empty(count, np.int64)
    size = 0
    for i in range(count):
        if is_dropped[i]:
            continue
        kept[size] = i
        size += 1
        for j in range(i + 1, count):
            if is_dropped[j] or labels[i] != labels[j]:
                continue
            intersection = _pair_intersection(boxes[i], boxes[j])
            union = boxes[i, 2] * boxes[i, 3] + boxes[j, 2] * boxes[j, 3] - intersection
            if intersection > iou_threshold * union:
                is_dropped[j] = True
    return kept[:size].copy()
