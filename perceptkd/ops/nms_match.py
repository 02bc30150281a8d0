"""NMS that keeps with every box those that it suppresses (Cao et al., Prime Sample Attention, 2020)."""

import torch
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

    def suppresses(rows: Tensor, columns: Tensor) -> Tensor:
        return bbox_overlaps(ordered[rows], ordered[columns]) >= iou_threshold

    kept = greedy_keep(suppresses, len(order), boxes.device)
    if len(kept) == 0:
        return []
    everyone = torch.arange(len(order), device=boxes.device)
    owner = torch.cat([suppresses(kept, some).int().argmax(0) for some in everyone.split(max(1, _PAIRS // len(kept)))])
    owner[kept] = torch.arange(len(kept), device=boxes.device)
    sizes = torch.bincount(owner, minlength=len(kept))
    return list(order[torch.argsort(owner, stable=True)].split(sizes.tolist()))
