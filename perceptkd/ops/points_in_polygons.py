"""Which points lie inside which quadrilaterals, as the assigners of rotated detectors ask."""

import torch
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_same_device
from perceptkd.ops.chunks import chunk

_PAIRS_AT_ONCE = 1 << 22


def points_in_polygons(points: Tensor, polygons: Tensor) -> Tensor:
    """Tests every point against every quadrilateral, by the crossings of its edges to the right of the point.

    On the border the answer is mmcv's: edges are walked in order, from the one that closes the polygon, and the walk
    ends at the first that holds the point, with the crossings that were counted before it.

    Args:
        points: [N, 2].
        polygons: [M, 8] as (x1, y1, ..., x4, y4), in either sense of rotation; the edges may cross.

    Returns:
        bool [N, M].

    >>> points_in_polygons(torch.tensor([[1.0, 1], [3, 1]]), torch.tensor([[0.0, 0, 2, 0, 2, 2, 0, 2]])).tolist()
    [[True], [False]]
    """
    check_rows("points", points, 2)
    check_rows("polygons", polygons, 8)
    check_same_device(points=points, polygons=polygons)
    dtype = torch.promote_types(torch.promote_types(points.dtype, polygons.dtype), torch.float32)
    corners = polygons.detach().to(dtype).unflatten(1, (4, 2)).unbind(1)
    points = points.detach().to(dtype)
    parts = chunk(len(points), len(polygons), _PAIRS_AT_ONCE)
    return torch.cat([_inside(points[part], corners) for part in parts])


def _inside(points: Tensor, corners: tuple[Tensor, ...]) -> Tensor:
    """Points [N, 2] against polygons, whose four corners are [M, 2] each."""
    x, y = points[:, 0, None], points[:, 1, None]
    is_odd = torch.zeros((len(points), len(corners[0])), dtype=torch.bool, device=points.device)
    is_walking = torch.ones_like(is_odd)
    for place, end in enumerate(corners):
        (end_x, end_y), (start_x, start_y) = end.unbind(1), corners[place - 1].unbind(1)
        is_corner = ((end_x == x) & (end_y == y)) | ((start_x == x) & (start_y == y))
        is_level = ((end_y < y) & (start_y >= y)) | ((end_y >= y) & (start_y < y))
        crossing = end_x + (y - end_y) * (start_x - end_x) / (start_y - end_y)
        is_walking &= ~(is_corner | (is_level & (crossing == x)))
        is_odd ^= is_walking & is_level & (crossing > x)
    return is_odd
