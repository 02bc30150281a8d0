"""IoU of axis-aligned 2D boxes."""

from typing import Literal

import torch
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_same_device, describe

Mode = Literal["iou", "iof"]


def bbox_overlaps(
    boxes1: Tensor, boxes2: Tensor, *, mode: Mode = "iou", is_aligned: bool = False, offset: int = 0
) -> Tensor:
    """Intersection over union, or over the first box, of axis-aligned boxes.

    Args:
        boxes1: [M, 4] as (x1, y1, x2, y2).
        boxes2: [N, 4]; N = M when ``is_aligned``.
        mode: 'iou' divides by the union, 'iof' by the area of the box in ``boxes1``.
        is_aligned: compare row with row instead of all with all.
        offset: added to every width and height (1 for boxes in inclusive pixel coordinates).

    Returns:
        [M, N], or [M] when ``is_aligned``. Two boxes without area have overlap 0.

    >>> bbox_overlaps(torch.tensor([[0., 0, 2, 2]]), torch.tensor([[0., 0, 1, 2], [5, 5, 6, 6]]))
    tensor([[0.5000, 0.0000]])
    """
    check_rows("boxes1", boxes1, 4)
    check_rows("boxes2", boxes2, 4)
    check_same_device(boxes1=boxes1, boxes2=boxes2)
    if mode not in ("iou", "iof"):
        raise ValueError(f"mode must be 'iou' or 'iof', got {mode!r}")
    if is_aligned and len(boxes1) != len(boxes2):
        raise ValueError(f"aligned boxes must pair up, got {describe(boxes1)} and {describe(boxes2)}")
    if not is_aligned:
        boxes1, boxes2 = boxes1[:, None], boxes2[None]
    low = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    high = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = (high - low + offset).clamp(min=0).prod(-1)
    base = (boxes1[..., 2:] - boxes1[..., :2] + offset).prod(-1)
    if mode == "iou":
        base = base + (boxes2[..., 2:] - boxes2[..., :2] + offset).prod(-1) - intersection
    return torch.where(base > 0, intersection / base.clamp(min=torch.finfo(base.dtype).tiny), 0)
