"""NMS that keeps with every box those that it suppresses (Cao et al., Prime Sample Attention, 2020).

On CPU numba walks the sorted boxes, elsewhere torch solves the recursion of :mod:`perceptkd.ops.nms`; both compute the
overlaps alike, in the dtype of the boxes (float32 for half types), so that they agree at the threshold too.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.bbox_overlaps import bbox_overlaps
from perceptkd.ops.checks import check_rows
from perceptkd.ops.nms import as_floats, greedy_keep, order_by_score

#: Overlaps that are computed at once.
_PAIRS = 2**22


def nms_match(boxes: Tensor, scores: Tensor, iou_threshold: float) -> list[Tensor]:
    """Groups boxes by non-maximum suppression.

    Args:
        boxes: [N, 4] as (x1, y1, x2, y2).
        scores: [N]; of equal ones the first box goes first.
        iou_threshold: a box whose IoU with a better kept box reaches this is suppressed. That equality suppresses is
            mmcv's rule here, and differs from its :func:`perceptkd.ops.nms.nms`.

    Returns:
        One int64 tensor per kept box, by falling score: the box, then those that it suppresses, by falling score. A
        box that several would suppress belongs to the best of them.

    >>> boxes = torch.tensor([[0.0, 0, 2, 2], [4, 4, 5, 5], [0, 0, 2, 1.9]])
    >>> [group.tolist() for group in nms_match(boxes, torch.tensor([0.5, 0.6, 0.9]), 0.5)]
    [[2, 0], [1]]
    """
    check_rows("boxes", boxes, 4)
    order = order_by_score(boxes, scores)
    ordered = as_floats(boxes)[order]
    find_owners = _owners_numba if boxes.device.type == "cpu" else _owners_torch
    owner, groups = find_owners(ordered, float(iou_threshold))
    if groups == 0:
        return []
    sizes = torch.bincount(owner, minlength=groups)
    return list(order[torch.argsort(owner, stable=True)].split(sizes.tolist()))


def _owners_torch(boxes: Tensor, iou_threshold: float) -> tuple[Tensor, int]:
    """Which group each box [N, 4] is in, int64 [N], and how many groups there are; both by falling score."""

    def suppresses(rows: Tensor, columns: Tensor) -> Tensor:
        return bbox_overlaps(boxes[rows], boxes[columns]) >= iou_threshold

    kept = greedy_keep(suppresses, len(boxes), boxes.device)
    everyone = torch.arange(len(boxes), device=boxes.device)
    if len(kept) == 0:
        return everyone, 0
    owner = torch.cat([suppresses(kept, some).int().argmax(0) for some in everyone.split(max(1, _PAIRS // len(kept)))])
    owner[kept] = torch.arange(len(kept), device=boxes.device)
    return owner, len(kept)


def _owners_numba(boxes: Tensor, iou_threshold: float) -> tuple[Tensor, int]:
    """The same on CPU."""
    corners = np.ascontiguousarray(boxes.numpy())
    owner = np.full(len(corners), -1, np.int64)
    groups = _walk(corners, corners.dtype.type(iou_threshold), np.finfo(corners.dtype).tiny, owner)
    return torch.from_numpy(owner), groups


@njit(cache=True, nogil=True)
def _walk(boxes: np.ndarray, iou_threshold: np.floating, smallest: np.floating, owner: np.ndarray) -> int:
    """Numbers the groups of sorted (x1, y1, x2, y2) boxes in ``owner``, which comes full of -1; returns how many.

    The scalars are of the boxes' dtype, so that all is computed in it. Unions count as ``smallest`` at least, as in
    :func:`perceptkd.ops.bbox_overlaps.bbox_overlaps`.
    """
    groups = 0
    for i in range(boxes.shape[0]):
        if owner[i] >= 0:
            continue
        owner[i] = groups
        x1, y1, x2, y2 = boxes[i]
        area = (x2 - x1) * (y2 - y1)
        for j in range(i + 1, boxes.shape[0]):
            if owner[j] >= 0:
                continue
            overlap = 0.0
            width, height = min(x2, boxes[j, 2]) - max(x1, boxes[j, 0]), min(y2, boxes[j, 3]) - max(y1, boxes[j, 1])
            if width > 0 and height > 0:
                shared = width * height
                union = area + (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1]) - shared
                if union > 0:
                    overlap = shared / max(union, smallest)
            if overlap >= iou_threshold:
                owner[j] = groups
        groups += 1
    return groups
