"""Which points lie inside which quadrilaterals, as the assigners of rotated detectors ask.

On CPU numba does the tests, elsewhere torch; both do the same arithmetic in the dtype of the arguments (float32 for
half types), so that they agree on the borders too.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_same_device
from perceptkd.ops.chunks import chunk
from perceptkd.ops.row_threads import share_rows

_PAIRS_AT_ONCE = 1 << 22
_PAIRS_WORTH_A_THREAD = 1 << 16


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
    if points.device.type == "cpu":
        inside = np.empty((len(points), len(polygons)), np.bool_)
        arrays = np.ascontiguousarray(points.numpy()), torch.stack(corners).numpy()

        def search(start: int, stop: int) -> None:
            _inside_numba(*arrays, start, stop, inside)

        share_rows(search, len(points), smallest_share=1 + _PAIRS_WORTH_A_THREAD // max(1, len(polygons)))
        return torch.from_numpy(inside)
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


@njit(cache=True, nogil=True)
def _inside_numba(points: np.ndarray, corners: np.ndarray, first: int, last: int, inside: np.ndarray) -> None:
    """Fills the rows ``first`` to ``last``; corners are [4, M, 2]."""
    for point in range(first, last):
        x, y = points[point]
        for polygon in range(corners.shape[1]):
            is_odd = False
            start_x, start_y = corners[3, polygon]
            for place in range(4):
                end_x, end_y = corners[place, polygon]
                if (end_x == x and end_y == y) or (start_x == x and start_y == y):
                    break
                if (end_y < y) != (start_y < y):
                    crossing = end_x + (y - end_y) * (start_x - end_x) / (start_y - end_y)
                    if crossing == x:
                        break
                    is_odd ^= crossing > x
                start_x, start_y = end_x, end_y
            inside[point, polygon] = is_odd
