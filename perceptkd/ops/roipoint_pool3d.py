"""Collects the points of each 3D box: the same number of every box (Shi et al., PointRCNN, 2019)."""

import torch
from torch import Tensor

from perceptkd.ops.checks import check_same_device, check_tensor
from perceptkd.ops.points_in_boxes import points_in_boxes


def roipoint_pool3d(points: Tensor, features: Tensor, boxes: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Takes coordinates and features of the first ``samples`` points of each box; of fewer, it repeats all in turn.

    Differentiable in ``points`` and ``features`` (mmcv's has no gradient).

    Args:
        points: [B, N, 3], in metres.
        features: [B, N, C].
        boxes: [B, M, 7]; see :mod:`perceptkd.ops.points_in_boxes`.
        samples: points taken per box, by index.

    Returns:
        [B, M, samples, 3 + C] in the dtype of ``features``, zeros for a box without points; and int32 [B, M], 1 for
        such a box and 0 for others.
    """
    check_tensor("points", points, ("B", "N", 3))
    check_tensor("features", features, (*points.shape[:2], "C"))
    check_tensor("boxes", boxes, (len(points), "M", 7))
    check_same_device(points=points, features=features, boxes=boxes)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    values = torch.cat((points.to(features.dtype), features), dim=2)
    pooled = values.new_zeros((*boxes.shape[:2], samples, values.shape[2]))
    is_empty = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    for batch, cloud in enumerate(points):
        chosen, is_empty[batch] = _sample_boxes(points_in_boxes(cloud, boxes[batch]), samples)
        filled = torch.nonzero(~is_empty[batch]).squeeze(1)
        pooled[batch, filled] = values[batch][chosen[filled]]
    return pooled, is_empty.int()


def _sample_boxes(inside: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """From bool [N, M]: the point in each place of each box, int64 [M, samples], and which boxes are empty."""
    members = torch.nonzero(inside.T)[:, 1]
    counts = inside.sum(0)
    starts = counts.cumsum(0) - counts
    places = torch.arange(samples, device=inside.device) % counts.clamp(1, samples)[:, None]
    is_empty = counts == 0
    places = torch.where(is_empty[:, None], 0, places + starts[:, None])
    if not len(members):
        return places, is_empty
    return members[places], is_empty
