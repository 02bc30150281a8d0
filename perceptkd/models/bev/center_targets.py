"""CenterPoint's training targets for a whole batch at once, without a loop over boxes.

Shapes: B batch, N boxes of a task inside the grid, K classes of a task, H W rows and columns of the map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from perceptkd.core.bev import draw_gaussians, gaussian_radius
from perceptkd.core.distributed import all_reduce_mean


class CenterTargets(NamedTuple):
    """Targets of one task."""

    heatmap: Tensor  # [B, K, H, W], a Gaussian around every centre, combined by max
    sample: Tensor  # [N]
    row: Tensor  # [N]
    column: Tensor  # [N]
    boxes: Tensor  # [N, 10]: x and y offset in cells, z, three dims (log), sin, cos, vx, vy
    num_peaks: Tensor  # cells with value 1 per rank, a mean over ranks
    num_boxes: Tensor  # boxes per rank, a mean over ranks


def build_center_targets(
    boxes: Tensor,
    labels: Tensor,
    *,
    sample: Tensor,
    batch_size: int,
    task_sizes: Sequence[int],
    norm_bbox: bool,
    train_cfg: Mapping,
) -> list[CenterTargets]:
    """Targets of every task.

    A centre below the low edge of the grid is left out (upstream truncates it into cell 0).

    Args:
        boxes: [M, 9] of all samples: gravity centre, dims, yaw, velocity.
        labels: [M] numbered through the tasks one after another.
        sample: [M] sample of the batch each box belongs to.
        batch_size: B.
        task_sizes: Classes of each task.
        norm_bbox: Whether dims are targets as logarithms.
        train_cfg: ``grid_size``, ``voxel_size``, ``out_size_factor``, ``point_cloud_range``, ``gaussian_overlap`` and
            ``min_radius`` as in ``CenterHead``.

    Returns:
        One entry per task.
    """
    factor = train_cfg["out_size_factor"]
    width, height = (int(cells) // factor for cells in train_cfg["grid_size"][:2])
    cell = boxes.new_tensor(train_cfg["voxel_size"][:2]) * factor
    centre = (boxes[:, :2] - boxes.new_tensor(train_cfg["point_cloud_range"][:2])) / cell
    index = centre.floor().long()
    size = boxes[:, 3:5] / cell
    inside = (index >= 0).all(1) & (index[:, 0] < width) & (index[:, 1] < height) & (size > 0).all(1) & (labels >= 0)
    radius = gaussian_radius(size[:, 0], size[:, 1], train_cfg["gaussian_overlap"]).long()
    radius = radius.clamp(min=train_cfg["min_radius"])
    dims = boxes[:, 3:6].log() if norm_bbox else boxes[:, 3:6]
    yaw = boxes[:, 6:7]
    codes = torch.cat([centre - index, boxes[:, 2:3], dims, yaw.sin(), yaw.cos(), boxes[:, 7:9]], dim=1)

    targets, first_label = [], 0
    for classes in task_sizes:
        chosen = inside & (labels >= first_label) & (labels < first_label + classes)
        column, row = index[chosen].unbind(1)
        plane = sample[chosen] * classes + labels[chosen] - first_label
        shape = (batch_size * classes, height, width)
        heatmap = draw_gaussians(plane, row, column, radius[chosen], shape=shape)
        num_peaks = all_reduce_mean(heatmap.eq(1).sum().float())
        num_boxes = all_reduce_mean(chosen.sum().float())
        heatmap = heatmap.view(batch_size, classes, height, width)
        targets.append(CenterTargets(heatmap, sample[chosen], row, column, codes[chosen], num_peaks, num_boxes))
        first_label += classes
    return targets
