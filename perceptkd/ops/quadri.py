"""Overlap and non-maximum suppression of convex quadrilaterals.

A box is (x1, y1, ..., x4, y4), its corners in turn, either way round.

The intersection is found as in :mod:`perceptkd.ops.box_iou_rotated`, without building a polygon. For every x the second
box covers the interval between its lower and its upper side; going once around the first box,

    area = | sum over its four edges of  integral over x of  clamp(y(x), lower(x), upper(x)) - lower(x) dx |.

Between two corners of the second box lower and upper are straight, and each integral is a sum of three trapezoids. The
result is continuous in the boxes, also where edges coincide.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.bbox_overlaps import Mode, check_mode, check_pairs, overlap_of_areas
from perceptkd.ops.checks import check_rows, check_same_device, check_vector
from perceptkd.ops.nms import greedy_keep, order_by_score, suppresses_own_label

_PAIRS_AT_ONCE = 1 << 18


def box_iou_quadri(boxes1: Tensor, boxes2: Tensor, *, mode: Mode = "iou", is_aligned: bool = False) -> Tensor:
    """Intersection over union, or over the first box, of convex quadrilaterals.

    Args:
        boxes1: [M, 8].
        boxes2: [N, 8]; N = M when ``is_aligned``.
        mode: 'iou' divides by the union, 'iof' by the area of the box in ``boxes1``.
        is_aligned: compare row with row instead of all with all.

    Returns:
        [M, N], or [M] when ``is_aligned``; 0 where a box has no area.

    >>> square = torch.tensor([[0.0, 0, 2, 0, 2, 2, 0, 2]])
    >>> diamond = torch.tensor([[1.0, 0, 2, 1, 1, 2, 0, 1]])
    >>> box_iou_quadri(square, torch.cat((square, diamond)))
    tensor([[1.0000, 0.5000]])
    """
    check_mode(mode)
    check_pairs(boxes1, boxes2, 8, is_aligned=is_aligned)
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    first, second = _prepare(boxes1, dtype), _prepare(boxes2, dtype)
    intersection = _intersections(first, second, is_aligned)
    return overlap_of_areas(intersection, _areas(first), _areas(second), mode=mode, is_aligned=is_aligned).to(dtype)


def nms_quadri(boxes: Tensor, scores: Tensor, iou_threshold: float, *, labels: Tensor | None = None) -> Tensor:
    """NMS of convex quadrilaterals.

    Args:
        boxes: [N, 8].
        scores: [N]; of equal ones the first box goes first.
        iou_threshold: boxes whose IoU with a better kept box is above this are dropped.
        labels: optional [N]; boxes suppress only boxes of their own label.

    Returns:
        int64 [K], indices of the boxes kept, by falling score.
    """
    check_rows("boxes", boxes, 8)
    order = order_by_score(boxes, scores)
    if labels is None:
        labels = torch.zeros_like(scores)
    check_vector("labels", labels, len(boxes))
    check_same_device(boxes=boxes, labels=labels)
    ordered, ordered_labels = _prepare(boxes, boxes.dtype)[order], labels[order]
    if boxes.device.type == "cpu":
        areas = _areas(ordered).numpy()
        kept = _greedy(
            ordered.numpy(), _slabs(ordered).numpy(), areas, ordered_labels.double().numpy(), float(iou_threshold)
        )
        return order[torch.from_numpy(kept)]

    suppresses = suppresses_own_label(box_iou_quadri, ordered, ordered_labels, iou_threshold)
    return order[greedy_keep(suppresses, len(order), boxes.device)]


def _prepare(boxes: Tensor, dtype: torch.dtype) -> Tensor:
    """Contiguous [N, 8], float64 on CPU, float32 or better elsewhere."""
    wide = torch.float64 if boxes.device.type == "cpu" else torch.promote_types(dtype, torch.float32)
    return boxes.detach().to(wide).contiguous()


def _areas(boxes: Tensor) -> Tensor:
    """[N]: half the cross product of the diagonals."""
    x, y = boxes[:, 0::2], boxes[:, 1::2]
    return ((x[:, 2] - x[:, 0]) * (y[:, 3] - y[:, 1]) - (x[:, 3] - x[:, 1]) * (y[:, 2] - y[:, 0])).abs() / 2


def _slabs(boxes: Tensor) -> Tensor:
    """The three strips between the corners' x of each box, [N, 3, 6]: x from and to, lower and upper y at both."""
    x, y = boxes[:, 0::2], boxes[:, 1::2]
    knots = x.sort(1).values
    left, right = knots[:, :-1, None], knots[:, 1:, None]
    start, stop = x[:, None], x.roll(-1, 1)[:, None]
    spans = (torch.minimum(start, stop) <= left) & (torch.maximum(start, stop) >= right) & (left < right)
    run = torch.where(spans, stop - start, 1)
    rise = (y.roll(-1, 1) - y)[:, None]
    sides = [y[:, None] + rise * ((at - start) / run) for at in (left, right)]
    lower = [torch.where(spans, side, torch.inf).amin(2) for side in sides]
    upper = [torch.where(spans, side, -torch.inf).amax(2) for side in sides]
    has_width = spans.any(2)
    values = (left[..., 0], right[..., 0], *(torch.where(has_width, side, 0) for side in (*lower, *upper)))
    return torch.stack(values, dim=-1)


def _intersections(boxes1: Tensor, boxes2: Tensor, is_aligned: bool) -> Tensor:
    """Areas of prepared boxes, [M, N] or [M]."""
    slabs = _slabs(boxes2)
    if is_aligned:
        return _intersection_torch(boxes1, slabs)
    if boxes1.device.type == "cpu":
        return torch.from_numpy(_intersections_numba(boxes1.numpy(), slabs.numpy()))
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(slabs)))
    return torch.cat([_intersection_torch(block[:, None], slabs[None]) for block in boxes1.split(rows)])


def _intersection_torch(boxes: Tensor, slabs: Tensor) -> Tensor:
    """The module's formula for boxes [..., 8] and slabs [..., 3, 6] that broadcast against each other."""
    x, y = boxes[..., 0::2, None], boxes[..., 1::2, None]
    next_x, rise = x.roll(-1, -2), y.roll(-1, -2) - y
    run = next_x - x
    left, right, lower1, lower2, upper1, upper2 = slabs[..., None, :, :].unbind(-1)
    first_x, last_x = torch.clamp(x, left, right), torch.clamp(next_x, left, right)
    safe_run, safe_width = torch.where(run == 0, 1, run), torch.where(right > left, right - left, 1)
    ends = []
    for at in (first_x, last_x):
        along = (at - left) / safe_width
        lower = lower1 + along * (lower2 - lower1)
        height = upper1 + along * (upper2 - upper1) - lower
        ends.append((y + rise * ((at - x) / safe_run) - lower, height))
    return ((last_x - first_x) * _mean_between(*ends[0], *ends[1])).sum((-1, -2)).abs()


def _mean_between(first: Tensor, first_height: Tensor, last: Tensor, last_height: Tensor) -> Tensor:
    """Mean of clamp(y, 0, height) where y and the height change evenly from first to last."""
    change, excess, gap = last - first, last - last_height, first - first_height
    enters = (-first / torch.where(change == 0, 1, change)).clamp(0, 1)
    leaves = (-gap / torch.where(excess == gap, 1, excess - gap)).clamp(0, 1)
    knots = (torch.zeros_like(first), torch.minimum(enters, leaves), torch.maximum(enters, leaves), 1)
    values = []
    for knot in knots:
        height = (first_height + knot * (last_height - first_height)).clamp(min=0)
        values.append(torch.minimum((first + knot * change).clamp(min=0), height))
    steps = [(knots[k + 1] - knots[k]) * (values[k] + values[k + 1]) / 2 for k in range(3)]
    return steps[0] + steps[1] + steps[2]


@njit(cache=True, nogil=True)
def _clamped(y: float, height: float) -> float:
    return min(max(y, 0.0), max(height, 0.0))


@njit(cache=True, nogil=True)
def _pair_intersection(box: np.ndarray, slabs: np.ndarray) -> float:
    """The module's formula for a box [8] and the slabs [3, 6] of another."""
    area = 0.0
    for edge in range(4):
        x, y = box[2 * edge], box[2 * edge + 1]
        next_x, next_y = box[2 * edge - 6], box[2 * edge - 5]
        run, rise = next_x - x, next_y - y
        for k in range(3):
            left, right, lower1, lower2, upper1, upper2 = slabs[k]
            first_x, last_x = min(max(x, left), right), min(max(next_x, left), right)
            if first_x == last_x:
                continue
            width = right - left
            lower = lower1 + (first_x - left) / width * (lower2 - lower1)
            height1 = upper1 + (first_x - left) / width * (upper2 - upper1) - lower
            y1 = y + rise * ((first_x - x) / run) - lower
            lower = lower1 + (last_x - left) / width * (lower2 - lower1)
            height2 = upper1 + (last_x - left) / width * (upper2 - upper1) - lower
            y2 = y + rise * ((last_x - x) / run) - lower
            enters, leaves = 0.0, 0.0
            if y1 != y2:
                enters = min(max(-y1 / (y2 - y1), 0.0), 1.0)
            gap, excess = y1 - height1, y2 - height2
            if gap != excess:
                leaves = min(max(-gap / (excess - gap), 0.0), 1.0)
            knot1, knot2 = min(enters, leaves), max(enters, leaves)
            value1, value4 = _clamped(y1, height1), _clamped(y2, height2)
            value2 = _clamped(y1 + knot1 * (y2 - y1), height1 + knot1 * (height2 - height1))
            value3 = _clamped(y1 + knot2 * (y2 - y1), height1 + knot2 * (height2 - height1))
            mean = knot1 * (value1 + value2) + (knot2 - knot1) * (value2 + value3) + (1.0 - knot2) * (value3 + value4)
            area += (last_x - first_x) * mean / 2
    return abs(area)


@njit(cache=True, nogil=True)
def _intersections_numba(boxes: np.ndarray, slabs: np.ndarray) -> np.ndarray:
    area = np.empty((boxes.shape[0], slabs.shape[0]), np.float64)
    for i in range(boxes.shape[0]):
        for j in range(slabs.shape[0]):
            area[i, j] = _pair_intersection(boxes[i], slabs[j])
    return area


@njit(cache=True, nogil=True)
def _greedy(
    boxes: np.ndarray, slabs: np.ndarray, areas: np.ndarray, labels: np.ndarray, iou_threshold: float
) -> np.ndarray:
    """Greedy NMS of sorted boxes; returns the kept indices."""
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
            intersection = _pair_intersection(boxes[i], slabs[j])
            if intersection > iou_threshold * (areas[i] + areas[j] - intersection):
                is_dropped[j] = True
    return kept[:size].copy()
