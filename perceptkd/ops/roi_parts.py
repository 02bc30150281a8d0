"""How the RoI ops cut their work: RoIs whose bins have equally many samples are computed together, in bounded parts."""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_same_device, check_tensor
from perceptkd.ops.chunks import chunk

#: (vertical, horizontal).
Pair = tuple[int, int]

#: Some of the RoIs.
Selection = Tensor | slice

#: A row or column outside of every map, where a sample reads 0 and gets no gradient.
NOWHERE = -2.0

#: Pixels that are summed at once, counting each use: at about 50 bytes of indices and weights, 50 MiB.
PIXELS = 2**20

#: Values that are compared at once, counting each channel: 16 MiB in float32.
VALUES = 2**22


def parts_by_grid(grids: Tensor) -> Iterator[tuple[Tensor, Pair]]:
    """Puts RoIs with the same grid together; those whose grid has no point are in no part.

    Args:
        grids: int64 [R, 2], points of each RoI's grid along (y, x).

    Yields:
        Indices of RoIs, int64 and rising, and their grid.

    >>> [(some.tolist(), grid) for some, grid in parts_by_grid(torch.tensor([[2, 1], [0, 3], [1, 4], [2, 1]]))]
    [([2], (1, 4)), ([0, 3], (2, 1))]
    """
    distinct, member, sizes = torch.unique(grids, dim=0, return_inverse=True, return_counts=True)
    members = torch.argsort(member, stable=True).split(sizes.tolist())
    for some, (rows, columns) in zip(members, distinct.tolist()):
        if rows > 0 and columns > 0:
            yield some, (rows, columns)


def _four_per_point(grid: Pair) -> int:
    return 4 * grid[0] * grid[1]


def sampled_parts(
    sizes: Tensor,
    output_size: Pair,
    sampling_ratio: int,
    *,
    limit: int,
    elements: Callable[[Pair], int] = _four_per_point,
) -> Iterator[tuple[Selection, Pair]]:
    """The parts of RoIs that sample a grid of points in every bin, as RoIAlign does.

    Args:
        sizes: [R, 2], height and width of each RoI in pixels.
        output_size: bins along (y, x).
        sampling_ratio: points along each side of a bin; 0 for one per pixel, rounded up (in float32 whatever the dtype,
            as mmcv does), so that a RoI of no width or height has none.
        limit: elements that a part may have; see :func:`bounded`.
        elements: how many a bin has, by its grid; the default is what bilinear samples read, four pixels for each.

    Yields:
        Some RoIs, and the points of their bins along (y, x).
    """
    groups: Iterable[tuple[Selection, Pair]]
    if sampling_ratio > 0:
        groups = [(slice(0, len(sizes)), (sampling_ratio, sampling_ratio))]
    else:
        grids = (sizes.detach() / sizes.new_tensor(output_size)).float().ceil().clamp(min=0).long()
        groups = parts_by_grid(grids)
    for group, grid in groups:
        for some in bounded(group, len(sizes[group]), math.prod(output_size) * elements(grid), limit):
            yield some, grid


def next_power_of_2(counts: Tensor) -> Tensor:
    """Rounds up int64 [...], so that few different counts remain; 0 stays 0.

    >>> next_power_of_2(torch.tensor([0, 1, 2, 3, 5])).tolist()
    [0, 1, 2, 4, 8]
    """
    powers = 2 ** torch.arange(31, device=counts.device)
    return torch.where(counts > 0, powers[torch.bucketize(counts, powers)], 0)


def bounded(some: Selection, count: int, elements_each: int, limit: int) -> Iterator[Selection]:
    """Cuts a selection of ``count`` RoIs into parts of at most ``limit`` elements, but at least one RoI."""
    for part in chunk(count, elements_each, limit) if count else []:
        yield part if isinstance(some, slice) else some[part]


def bin_points(start: Tensor, size: Tensor, bins: int, points: int) -> Tensor:
    """Evenly spaced points of the bins of RoIs along one axis.

    Args:
        start: [R], where the RoIs start.
        size: [R], their extent.
        bins: number of bins.
        points: points per bin.

    Returns:
        [R, bins, points].

    >>> bin_points(torch.tensor([1.0]), torch.tensor([4.0]), 2, 2).tolist()
    [[[1.5, 2.5], [3.5, 4.5]]]
    """
    bin_size = (size / bins)[:, None, None]
    first = start[:, None, None] + torch.arange(bins, device=start.device)[:, None] * bin_size
    return first + (torch.arange(points, device=start.device) + 0.5) * bin_size / points


def finite_rois(rois: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Splits RoIs [R, 1 + K] into sample int64 [R] and geometry [R, K] in float32 or better, and marks the finite ones.

    A diverging step of training has RoIs that are not numbers; their sample and geometry are 0.
    """
    rois = rois.detach().to(torch.promote_types(rois.dtype, torch.float32))
    is_finite = rois.isfinite().all(1)
    rois = torch.where(is_finite[:, None], rois, 0)
    return rois[:, 0].long(), rois[:, 1:], is_finite


def roi_boxes(rois: Tensor, spatial_scale: float, *, aligned: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Upright RoIs [R, 5] as (sample, x1, y1, x2, y2) in the pixels of a map.

    Returns:
        Sample int64 [R], start and size [R, 2] as (y, x); what is not finite lies outside the map.
    """
    image, corners, is_finite = finite_rois(rois)
    corners = corners * spatial_scale
    if aligned:
        corners = corners - 0.5
    start, size = corners[:, [1, 0]], corners[:, [3, 2]] - corners[:, [1, 0]]
    if not aligned:
        size = size.clamp(min=1)
    return image, torch.where(is_finite[:, None], start, NOWHERE), torch.where(is_finite[:, None], size, 0)


def check_rois(features: Tensor, rois: Tensor, columns: int, output_size: Pair) -> None:
    """Raises ValueError unless features are maps [N, C, H, W], RoIs rows of ``columns``, and there are bins."""
    check_tensor("features", features, ("N", "C", "H", "W"))
    check_rows("rois", rois, columns)
    check_same_device(features=features, rois=rois)
    if min(output_size) < 1:
        raise ValueError(f"output_size must be at least 1 by 1, got {tuple(output_size)}")
