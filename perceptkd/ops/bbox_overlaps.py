"""IoU of axis-aligned 2D boxes, and what the IoU of every kind of box checks."""

from typing import Literal

import torch
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_same_device, describe

_SMALLEST_AREA = 1e-14

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
        [M, N], or [M] when ``is_aligned``, computed in float32 or better; differentiable in both. Two boxes without
        area have overlap 0.

    >>> bbox_overlaps(torch.tensor([[0., 0, 2, 2]]), torch.tensor([[0., 0, 1, 2], [5, 5, 6, 6]]))
    tensor([[0.5000, 0.0000]])
    """
    check_mode(mode)
    check_pairs(boxes1, boxes2, 4, is_aligned=is_aligned)
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    boxes1, boxes2 = (boxes.to(torch.promote_types(dtype, torch.float32)) for boxes in (boxes1, boxes2))
    if not is_aligned:
        boxes1, boxes2 = boxes1[:, None], boxes2[None]
    low = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    high = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = (high - low + offset).clamp(min=0).prod(-1)
    base = (boxes1[..., 2:] - boxes1[..., :2] + offset).prod(-1)
    if mode == "iou":
        base = base + (boxes2[..., 2:] - boxes2[..., :2] + offset).prod(-1) - intersection
    return torch.where(base > 0, intersection / base.clamp(min=torch.finfo(base.dtype).tiny), 0).to(dtype)


def check_mode(mode: Mode) -> None:
    """Raises ValueError unless ``mode`` is one of the overlaps there are."""
    if mode not in ("iou", "iof"):
        raise ValueError(f"mode must be 'iou' or 'iof', got {mode!r}")


def check_pairs(boxes1: Tensor, boxes2: Tensor, columns: int, *, is_aligned: bool) -> None:
    """Raises ValueError unless both are boxes of ``columns`` numbers on one device, as many of them if aligned."""
    check_rows("boxes1", boxes1, columns)
    check_rows("boxes2", boxes2, columns)
    check_same_device(boxes1=boxes1, boxes2=boxes2)
    if is_aligned and len(boxes1) != len(boxes2):
        raise ValueError(f"aligned boxes must pair up, got {describe(boxes1)} and {describe(boxes2)}")


def overlap_of_areas(intersection: Tensor, area1: Tensor, area2: Tensor, *, mode: Mode, is_aligned: bool) -> Tensor:
    """Overlap of boxes whose areas are known.

    Args:
        intersection: [M, N], or [M] when ``is_aligned``.
        area1: [M].
        area2: [N].
        mode: 'iou' divides by the union, 'iof' by ``area1``.
        is_aligned: whether row belongs to row.

    Returns:
        As ``intersection``, at most 1; 0 where a box has no area.
    """
    if not is_aligned:
        area1, area2 = area1[:, None], area2[None]
    has_area = (area1 > _SMALLEST_AREA) & (area2 > _SMALLEST_AREA)
    base = area1 + area2 - intersection if mode == "iou" else area1
    return torch.where(has_area, intersection / torch.where(has_area, base, 1), 0).clamp(max=1)
