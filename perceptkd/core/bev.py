"""What methods on BEV maps share: the annotated boxes of a batch, maps at metric points, masks.

Shapes: B samples, N boxes of the whole batch, P points, C channels, H rows (y), W columns (x). BEV boxes are
``(x, y, length, width, yaw)`` in metres and radians, counter-clockwise.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perceptkd.core.geometry import GeometryError
from perceptkd.core.tap import Extent, Tap
from perceptkd.ops.bilinear import bilinear_corners


def batch_boxes(data_samples: Sequence[Any], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Joins the annotated boxes of a batch: BEV boxes [N, 5] in fp32 and which sample each belongs to [N]."""
    per_sample = [sample.gt_instances_3d.bboxes_3d.bev.to(device, torch.float32) for sample in data_samples]
    counts = torch.tensor([len(boxes) for boxes in per_sample], device=device)
    return torch.cat(per_sample), torch.repeat_interleave(torch.arange(len(per_sample), device=device), counts)


def tap_extent(tap: Tap) -> Extent:
    """The metric extent that the tap declares."""
    if tap.extent is None:
        raise GeometryError(
            f"The tap '{tap.spec}' of the {tap.model} does not say which area it covers: give it "
            "extent=(x0, y0, x1, y1) in metres, or give the model bev_geometry=dict(layout=..., extent=...)"
        )
    return tap.extent


def sample_points(
    bev_map: Tensor, points: Tensor, sample_index: Tensor, *, extent: Extent, swap: bool = False
) -> Tensor:
    """Reads a BEV map at metric points, bilinearly; outside of the map it is zero.

    Args:
        bev_map: Map [B, C, H, W], row = y, column = x.
        points: Metric points [N, P, 2].
        sample_index: Which sample each row of ``points`` belongs to [N].
        extent: Outer edges of the map ``(x0, y0, x1, y1)`` in metres.
        swap: Exchange the two axes of the normalised points, as the released code does by mistake.

    Returns:
        Features [N, P, C] in the precision of ``points``; empty, yet connected to the graph, where N is zero.
    """
    channels, height, width = bev_map.shape[1:]
    low, high = points.new_tensor(extent).view(2, 2)
    normalised = (points - low) / (high - low)
    column, row = (normalised.flip(-1) if swap else normalised).unbind(dim=-1)
    cell, weight = bilinear_corners(row * height - 0.5, column * width - 0.5, height, width, border="zeros")
    # Only the cells around the points are read: the map may have a hundred times as many.
    cells = bev_map.permute(0, 2, 3, 1).reshape(-1, channels)
    corners = cells[cell + sample_index[:, None, None] * (height * width)].to(points.dtype)
    weight = weight[..., None]
    return (torch.where(weight > 0, corners, 0) * weight).sum(dim=2)  # a broken cell far away has no part in it


def map_grid(like: Tensor, *, shape: tuple[int, int], extent: Extent) -> tuple[Tensor, Tensor]:
    """The low corner of a map and the sides of a cell, both (x, y) [2] in metres, on device and of type of ``like``."""
    height, width = shape
    low, high = like.new_tensor(extent).view(2, 2)
    return low, (high - low) / low.new_tensor((width, height))


def cell_offsets(boxes: Tensor, *, shape: tuple[int, int], extent: Extent) -> tuple[Tensor, Tensor]:
    """How far the centre of every cell is from that of every box.

    Args:
        boxes: BEV boxes [N, 5].
        shape: Of the map: (H, W).
        extent: Outer edges of the map ``(x0, y0, x1, y1)`` in metres.

    Returns:
        x and y in metres [N, H, W, 2], and the sides of a cell [2].
    """
    height, width = shape
    low, cell_m = map_grid(boxes, shape=shape, extent=extent)
    rows, columns = torch.meshgrid(*(torch.arange(n, device=boxes.device) for n in (height, width)), indexing="ij")
    centres = (torch.stack((columns, rows), dim=-1) + 0.5) * cell_m + low
    return centres - boxes[:, None, None, :2], cell_m


def in_map_frame(offset: Tensor, boxes: Tensor) -> Tensor:
    """Points [N, P, 2] in metres along the length of each box and across it, as coordinates of the map."""
    cos, sin = boxes[:, None, 4].cos(), boxes[:, None, 4].sin()
    x, y = offset.unbind(dim=-1)
    return torch.stack((cos * x - sin * y, sin * x + cos * y), dim=-1) + boxes[:, None, :2]


def in_box_frame(offset: Tensor, boxes: Tensor) -> Tensor:
    """Offsets [N, ..., 2] turned into each box's frame: along its length and across."""
    shape = (-1, *[1] * (offset.ndim - 2))
    cos, sin = boxes[:, 4].cos().view(shape), boxes[:, 4].sin().view(shape)
    x, y = offset.unbind(dim=-1)
    return torch.stack((cos * x + sin * y, cos * y - sin * x), dim=-1)


@torch.no_grad()
def cells_in_boxes(boxes: Tensor, *, shape: tuple[int, int], extent: Extent, enlarge: float = 1.0) -> Tensor:
    """Which cells have their centre in which box.

    Args:
        boxes: BEV boxes [N, 5].
        shape: Of the map: (H, W).
        extent: Outer edges of the map ``(x0, y0, x1, y1)`` in metres.
        enlarge: Factor on length and width; a box counts as a diagonal of a cell long and wide at least, so that
            however it is turned it has a cell.

    Returns:
        bool [N, H, W].
    """
    offset, cell_m = cell_offsets(boxes, shape=shape, extent=extent)
    diagonal_m = float(torch.linalg.vector_norm(cell_m)) * (1 + 1e-6)  # else a centre on its corner may round outside
    half = (boxes[:, 2:4] * enlarge).clamp(min=diagonal_m) / 2
    return (in_box_frame(offset, boxes).abs() <= half[:, None, None]).all(dim=-1)


@torch.no_grad()
def points_in_boxes_bev(
    points: Tensor, sample: Tensor, boxes: Tensor, sample_index: Tensor, *, min_size_m: float = 0.0
) -> Tensor:
    """Which points lie in any annotated box of their sample, seen from above.

    Args:
        points: [M, 2] in metres.
        sample: Which sample each point belongs to [M].
        boxes: BEV boxes [N, 5].
        sample_index: Which sample each box belongs to [N].
        min_size_m: Boxes count as this long and wide at least.

    Returns:
        bool [M].
    """
    inside = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    half = boxes[:, 2:4].clamp(min=min_size_m) / 2
    for number in sample_index.unique():
        rows, mine = (sample == number).nonzero()[:, 0], sample_index == number
        offset = in_box_frame(points[rows] - boxes[mine, None, :2], boxes[mine])
        inside[rows] = (offset.abs() <= half[mine, None]).all(dim=-1).any(dim=0)
    return inside


@torch.no_grad()
def centre_cells(boxes: Tensor, *, shape: tuple[int, int], extent: Extent) -> tuple[Tensor, Tensor, Tensor]:
    """The cell that the centre of each box lies in.

    Args:
        boxes: BEV boxes [N, 5].
        shape: Of the map: (H, W).
        extent: Outer edges of the map ``(x0, y0, x1, y1)`` in metres.

    Returns:
        Row and column [N], which may be off the map, and whether they are on it, bool [N].
    """
    low, cell_m = map_grid(boxes.double(), shape=shape, extent=extent)
    column, row = ((boxes[:, :2].double() - low) / cell_m).floor().long().unbind(1)
    return row, column, (row >= 0) & (column >= 0) & (row < shape[0]) & (column < shape[1])


@torch.no_grad()
def gaussian_mask(
    boxes: Tensor,
    sample_index: Tensor,
    *,
    shape: tuple[int, int, int],
    extent: Extent,
    overlap: float = 0.7,
    min_radius: int = 0,
) -> Tensor:
    """Draws a Gaussian around every box centre and keeps the largest value per cell (Sec. 3.4).

    Args:
        boxes: BEV boxes [N, 5].
        sample_index: Which sample each box belongs to [N].
        shape: Of the mask: (B, H, W).
        extent: Outer edges of the map ``(x0, y0, x1, y1)`` in metres.
        overlap: Smallest IoU that a box shifted by the radius keeps, as in CornerNet.
        min_radius: Smallest radius in cells; 0 lets small objects have a single cell.

    Returns:
        Mask [B, H, W] in [0, 1], fp32, without a gradient.
    """
    low, cell_m = map_grid(boxes.double(), shape=shape[1:], extent=extent)
    # trunc, not floor: a centre less than one cell outside of the low edge is drawn in the first cell, as published.
    centre = ((boxes[:, :2].double() - low) / cell_m).trunc().long()
    length, width_cells = (boxes[:, 2:4].double() / cell_m).unbind(1)
    radius = gaussian_radius(length, width_cells, overlap).long().clamp(min=min_radius)
    column, row = centre.unbind(1)
    return draw_gaussians(sample_index, row, column, radius, shape=shape)


def draw_gaussians(
    plane: Tensor, row: Tensor, column: Tensor, radius: Tensor, *, shape: tuple[int, int, int]
) -> Tensor:
    """Gaussians with sigma (2 R + 1) / 6, cut off at R cells in each direction, the largest value kept per cell.

    Args:
        plane: Index of the plane each one is drawn on [N].
        row: Of the centre [N]; it may lie off the map.
        column: Of the centre [N].
        radius: R in cells, whole numbers [N].
        shape: (P planes, H, W).

    Returns:
        [P, H, W] in [0, 1], fp32, without a gradient.
    """
    height, width = shape[1:]
    reach = int(radius.max()) if len(radius) else 0
    step = torch.arange(-reach, reach + 1, device=row.device)
    step_y, step_x = (axis.reshape(1, -1) for axis in torch.meshgrid(step, step, indexing="ij"))
    limit = radius[:, None]
    sigma = (2 * limit.double() + 1) / 6
    value = torch.exp(-(step_y**2 + step_x**2) / (2 * sigma**2)).float()
    rows, columns = row[:, None] + step_y, column[:, None] + step_x
    drawn = (step_y.abs() <= limit) & (step_x.abs() <= limit)
    drawn &= (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    cell = (plane[:, None] * height + rows) * width + columns
    mask = value.new_zeros(shape[0] * height * width)
    return mask.scatter_reduce_(0, cell[drawn], value[drawn], reduce="amax").view(shape)


def gaussian_radius(length: Tensor, width: Tensor, min_overlap: float) -> Tensor:
    """CornerNet's radius, in cells, at which two boxes still overlap by ``min_overlap`` (as released: halved roots).

    >>> radius = gaussian_radius(torch.tensor([4.62 / 0.6]), torch.tensor([1.95 / 0.6]), 0.7)
    >>> round(float(radius), 4)
    1.2666
    """
    total, area = length + width, length * width
    first = (total + (total**2 - 4 * area * (1 - min_overlap) / (1 + min_overlap)).sqrt()) / 2
    second = (2 * total + (4 * total**2 - 16 * (1 - min_overlap) * area).sqrt()) / 2
    product = 2 * min_overlap * total
    third = (-product + (product**2 + 16 * min_overlap * (1 - min_overlap) * area).sqrt()) / 2
    return torch.minimum(torch.minimum(first, second), third)
