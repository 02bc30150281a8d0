"""Non-maximum suppression of axis-aligned and rotated boxes, and its soft form.

Greedy: boxes are visited by falling score (equal scores by index), and a box is dropped when its IoU with an earlier
kept box exceeds the threshold. On CPU numba walks the list; elsewhere torch solves the same recursion block by block:
``keep[j] = not any(keep[i] and iou[i, j] > threshold for i < j)`` has one solution, and iterating it from "keep all"
reaches that solution in as many rounds as the longest chain of suppressions.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.bbox_overlaps import bbox_overlaps
from perceptkd.ops.box_iou_rotated import box_iou_rotated, greedy_rotated, prepare_boxes
from perceptkd.ops.checks import check_rows, check_same_device, check_vector

_BLOCK = 2048

SoftMethod = Literal["naive", "linear", "gaussian"]
Suppresses = Callable[[Tensor, Tensor], Tensor]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, *, offset: int = 0) -> Tensor:
    """NMS of axis-aligned boxes.

    Args:
        boxes: [N, 4] as (x1, y1, x2, y2).
        scores: [N].
        iou_threshold: boxes whose IoU with a better kept box is above this are dropped.
        offset: added to every width and height (1 for inclusive pixel coordinates).

    Returns:
        int64 [K], indices of the boxes kept, by falling score.

    >>> nms(torch.tensor([[0., 0, 2, 2], [0, 0, 2, 1.9], [4, 4, 5, 5]]), torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist()
    [1, 2]
    """
    check_rows("boxes", boxes, 4)
    order = order_by_score(boxes, scores)
    ordered = as_floats(boxes)[order]
    if boxes.device.type == "cpu":
        corners = np.ascontiguousarray(ordered.double().numpy())
        return order[torch.from_numpy(_greedy_aligned(corners, float(iou_threshold), float(offset)))]

    def suppresses(rows: Tensor, columns: Tensor) -> Tensor:
        return bbox_overlaps(ordered[rows], ordered[columns], offset=offset) > iou_threshold

    return order[greedy_keep(suppresses, len(order), boxes.device)]


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float, *, labels: Tensor | None = None) -> Tensor:
    """NMS of rotated boxes.

    Args:
        boxes: [N, 5] as (x, y, width, height, angle); see :mod:`perceptkd.ops.box_iou_rotated`.
        scores: [N].
        iou_threshold: boxes whose IoU with a better kept box is above this are dropped.
        labels: optional [N]; boxes suppress only boxes of their own label.

    Returns:
        int64 [K], indices of the boxes kept, by falling score.
    """
    check_rows("boxes", boxes, 5)
    order = order_by_score(boxes, scores)
    if labels is None:
        labels = torch.zeros_like(scores)
    check_vector("labels", labels, len(boxes))
    ordered, ordered_labels = as_floats(boxes)[order], labels[order]
    if boxes.device.type == "cpu":
        kept = greedy_rotated(prepare_boxes(ordered), ordered_labels.double().numpy(), float(iou_threshold))
        return order[torch.from_numpy(kept)]

    suppresses = suppresses_own_label(box_iou_rotated, ordered, ordered_labels, iou_threshold)
    return order[greedy_keep(suppresses, len(order), boxes.device)]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    method: SoftMethod = "linear",
    sigma: float = 0.5,
    min_score: float = 1e-3,
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS: instead of dropping overlapping boxes it lowers their scores (Bodla et al., 2017).

    Args:
        boxes: [N, 4] as (x1, y1, x2, y2).
        scores: [N].
        iou_threshold: overlap from which 'naive' and 'linear' act.
        method: factor on the score of a box with IoU o: 'naive' 0, 'linear' 1 - o, 'gaussian' exp(-o^2 / sigma).
        sigma: width of 'gaussian'.
        min_score: boxes whose score falls below this are dropped.
        offset: added to every width and height.

    Returns:
        indices int64 [K] in the order of selection, and the lowered scores [K], without gradient.
    """
    check_rows("boxes", boxes, 4)
    check_vector("scores", scores, len(boxes))
    check_same_device(boxes=boxes, scores=scores)
    corners, current = as_floats(boxes), as_floats(scores).clone()
    soften = _soften_torch
    if boxes.device.type == "cpu":
        soften, corners, current = _soften_numba, corners.double(), current.double()
    indices = soften(corners, current, float(iou_threshold), method, sigma, min_score, offset)
    return indices, current[indices].to(scores.dtype)


def _soften_torch(
    boxes: Tensor, scores: Tensor, iou_threshold: float, method: SoftMethod, sigma: float, min_score: float, offset: int
) -> Tensor:
    """Lowers the scores in place; returns the boxes in the order of selection."""
    left = torch.arange(len(boxes), device=boxes.device)
    chosen: list[Tensor] = []
    while len(left):
        best = left[scores[left].argmax()]
        chosen.append(best)
        left = left[left != best]
        overlap = bbox_overlaps(boxes[best][None], boxes[left], offset=offset)[0]
        if method == "gaussian":
            factor = torch.exp(-(overlap**2) / sigma)
        else:
            factor = torch.where(overlap >= iou_threshold, 0.0 if method == "naive" else 1 - overlap, 1.0)
        scores[left] *= factor.to(scores.dtype)
        left = left[scores[left] >= min_score]
    return torch.stack(chosen) if chosen else left


def _soften_numba(
    boxes: Tensor, scores: Tensor, iou_threshold: float, method: SoftMethod, sigma: float, min_score: float, offset: int
) -> Tensor:
    """The same on CPU, in float64."""
    corners, is_gaussian, is_linear = np.ascontiguousarray(boxes.numpy()), method == "gaussian", method == "linear"
    return torch.from_numpy(
        _soften(corners, scores.numpy(), iou_threshold, is_gaussian, is_linear, float(sigma), min_score, float(offset))
    )


def suppresses_own_label(
    iou: Callable[[Tensor, Tensor], Tensor], boxes: Tensor, labels: Tensor, iou_threshold: float
) -> Suppresses:
    """The rule of :func:`greedy_keep` by which boxes drop those of their own label that overlap too much."""

    def suppresses(rows: Tensor, columns: Tensor) -> Tensor:
        is_same = labels[rows][:, None] == labels[columns]
        return is_same & (iou(boxes[rows], boxes[columns]) > iou_threshold)

    return suppresses


def greedy_keep(suppresses: Suppresses, count: int, device: torch.device) -> Tensor:
    """Solves the greedy recursion of the module docstring in torch, for boxes already sorted by score.

    Args:
        suppresses: maps indices [A] and [B] to bool [A, B], whether box a would drop box b.
        count: number of boxes.
        device: where to work.

    Returns:
        int64 [K], indices of the boxes kept, rising.
    """
    kept = torch.empty(0, dtype=torch.int64, device=device)
    for start in range(0, count, _BLOCK):
        block = torch.arange(start, min(start + _BLOCK, count), device=device)
        block = block[~suppresses(kept, block).any(0)]
        matrix = suppresses(block, block).triu(1)
        keep = torch.ones_like(block, dtype=torch.bool)
        while True:
            updated = ~(matrix & keep[:, None]).any(0)
            if torch.equal(updated, keep):
                break
            keep = updated
        kept = torch.cat((kept, block[keep]))
    return kept


def as_floats(tensor: Tensor) -> Tensor:
    """Without gradient and in float32 or better, so that overlaps meet their threshold before they are rounded."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def order_by_score(boxes: Tensor, scores: Tensor) -> Tensor:
    """Indices of the boxes by falling score, equal scores by index, int64 [N]; checks that the scores are theirs."""
    check_vector("scores", scores, len(boxes))
    check_same_device(boxes=boxes, scores=scores)
    return torch.sort(scores.detach(), descending=True, stable=True).indices


@njit(cache=True, nogil=True)
def _greedy_aligned(boxes: np.ndarray, iou_threshold: float, offset: float) -> np.ndarray:
    """Greedy NMS of sorted (x1, y1, x2, y2) boxes; returns the kept indices."""
    count = boxes.shape[0]
    is_dropped = np.zeros(count, np.bool_)
    kept = np.empty(count, np.int64)
    size = 0
    for i in range(count):
        if is_dropped[i]:
            continue
        kept[size] = i
        size += 1
        x1, y1, x2, y2 = boxes[i]
        area = (x2 - x1 + offset) * (y2 - y1 + offset)
        for j in range(i + 1, count):
            width = min(x2, boxes[j, 2]) - max(x1, boxes[j, 0]) + offset
            height = min(y2, boxes[j, 3]) - max(y1, boxes[j, 1]) + offset
            if width <= 0 or height <= 0:
                continue
            other = (boxes[j, 2] - boxes[j, 0] + offset) * (boxes[j, 3] - boxes[j, 1] + offset)
            union = area + other - width * height
            if width * height > iou_threshold * union:
                is_dropped[j] = True
    return kept[:size].copy()


@njit(cache=True, nogil=True)
def _soften(
    boxes: np.ndarray,
    scores: np.ndarray,
    iou_threshold: float,
    is_gaussian: bool,
    is_linear: bool,
    sigma: float,
    min_score: float,
    offset: float,
) -> np.ndarray:
    """Soft-NMS of (x1, y1, x2, y2) boxes; lowers the scores and returns the boxes in the order of selection."""
    left = np.arange(boxes.shape[0])
    chosen = np.empty(boxes.shape[0], np.int64)
    size, count = boxes.shape[0], 0
    while size:
        best = left[0]
        for place in range(1, size):
            if scores[left[place]] > scores[best]:
                best = left[place]
        chosen[count] = best
        count += 1
        x1, y1, x2, y2 = boxes[best]
        area = (x2 - x1 + offset) * (y2 - y1 + offset)
        kept = 0
        for place in range(size):
            other = left[place]
            if other == best:
                continue
            width = min(x2, boxes[other, 2]) - max(x1, boxes[other, 0]) + offset
            height = min(y2, boxes[other, 3]) - max(y1, boxes[other, 1]) + offset
            overlap = 0.0
            if width > 0 and height > 0:
                other_area = (boxes[other, 2] - boxes[other, 0] + offset) * (boxes[other, 3] - boxes[other, 1] + offset)
                union = area + other_area - width * height
                if union > 0:
                    overlap = width * height / union
            if is_gaussian:
                scores[other] *= np.exp(-(overlap * overlap) / sigma)
            elif overlap >= iou_threshold:
                scores[other] *= 1 - overlap if is_linear else 0.0
            if scores[other] >= min_score:
                left[kept] = other
                kept += 1
        size = kept
    return chosen[:count].copy()
