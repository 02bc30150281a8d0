"""UniDistill's training targets: the few grid points nearest to each box are its positives, all alike.

The released code calls this an FCOS assigner. Unlike CenterPoint's targets the heatmap is 0 or 1 without a Gaussian,
and all positives of a box regress it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from perceptkd.core.distributed import all_reduce_mean


class NearestTargets(NamedTuple):
    """Targets of one task with P positives and K classes."""

    heatmap: Tensor  # [B, K, H, W] of 0 and 1
    sample: Tensor  # [P]
    row: Tensor  # [P]
    column: Tensor  # [P]
    boxes: Tensor  # [P, 10]: x and y from the grid point in cells, z, three dims (log), sin, cos, vx, vy
    num_positives: Tensor  # per rank, a mean over ranks


def build_nearest_targets(
    boxes: Tensor,
    labels: Tensor,
    *,
    sample: Tensor,
    batch_size: int,
    task_sizes: Sequence[int],
    top_k: int,
    train_cfg: Mapping,
) -> list[NearestTargets]:
    """Targets of every task.

    Grid point (row, column) lies at the low corner of its cell. A point that is among the ``top_k`` nearest of any box
    of the task belongs to the box of the task that is nearest to it. A box with its centre outside of the grid takes
    points of the border, as in the released code.

    Args:
        boxes: [M, 9] of all samples: gravity centre, dims, yaw, velocity (NaN where unknown).
        labels: [M] numbered through the tasks one after another.
        sample: [M] sample of the batch each box belongs to.
        batch_size: B.
        task_sizes: Classes of each task.
        top_k: Positives of a box that stands alone; the released code has 9.
        train_cfg: ``grid_size``, ``voxel_size``, ``out_size_factor`` and ``point_cloud_range`` as in ``CenterHead``.

    Returns:
        One entry per task.
    """
    factor = train_cfg["out_size_factor"]
    width, height = (int(cells) // factor for cells in train_cfg["grid_size"][:2])
    cell = boxes.new_tensor(train_cfg["voxel_size"][:2]) * factor
    centres = (boxes[:, :2] - boxes.new_tensor(train_cfg["point_cloud_range"][:2])) / cell
    rows, columns = torch.meshgrid(*(torch.arange(n, device=boxes.device) for n in (height, width)), indexing="ij")
    points = torch.stack((columns, rows), dim=-1).view(-1, 2)
    sin, cos = boxes[:, 6:7].sin(), boxes[:, 6:7].cos()
    codes = torch.cat([centres, boxes[:, 2:3], boxes[:, 3:6].log(), sin, cos, boxes[:, 7:9]], dim=1)

    targets, first_label = [], 0
    for classes in task_sizes:
        is_of_task = (labels >= first_label) & (labels < first_label + classes)
        positives = []
        for index in range(batch_size):
            own = (is_of_task & (sample == index)).nonzero().squeeze(1)
            point, nearest = _assign(points.to(centres.dtype), centres[own], top_k)
            positives.append((torch.full_like(point, index), point, own[nearest]))
        samples, point, box = (torch.cat(column) for column in zip(*positives))
        heatmap = boxes.new_zeros(batch_size, classes, height * width)
        heatmap[samples, labels[box] - first_label, point] = 1
        encoded = torch.cat([codes[box, :2] - points[point], codes[box, 2:]], dim=1)
        count = all_reduce_mean(torch.tensor(float(len(point)), device=boxes.device))
        heatmap = heatmap.view(batch_size, classes, height, width)
        targets.append(NearestTargets(heatmap, samples, point // width, point % width, encoded, count))
        first_label += classes
    return targets


def _assign(points: Tensor, centres: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Positive points [P] of [A, 2], rising, and the box [P] of [N, 2] that each belongs to; all in cells."""
    if len(centres) == 0:
        empty = torch.empty(0, dtype=torch.int64, device=points.device)
        return empty, empty
    distance = (points[:, None] - centres).square().sum(dim=2)
    chosen = distance.t().topk(top_k, largest=False).indices
    point = chosen.flatten().unique()
    return point, distance[point].argmin(dim=1)
