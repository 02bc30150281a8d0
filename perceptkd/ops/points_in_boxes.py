"""Which points lie in which rotated 3D boxes.

A box is (x, y, z, dx, dy, dz, yaw): (x, y, z) is the centre of its bottom face, in metres; yaw turns from x towards y,
in radians. Its side faces are open and its bottom and top closed, as in mmcv.
"""

import torch
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_same_device


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Tests every point against every box.

    Args:
        points: [N, >=3], columns 0-2 are x, y, z in metres.
        boxes: [M, 7].

    Returns:
        bool [N, M].

    >>> points_in_boxes(torch.tensor([[0., 0, 1], [3, 0, 1]]), torch.tensor([[0., 0, 0, 4, 2, 2, 0]])).tolist()
    [[True], [False]]
    """
    check_rows("points", points, at_least=3)
    check_rows("boxes", boxes, 7)
    check_same_device(points=points, boxes=boxes)
    x, y, z, length, width, height, yaw = boxes.unbind(1)
    shift_x = points[:, 0, None] - x
    shift_y = points[:, 1, None] - y
    local_x = shift_x * yaw.cos() + shift_y * yaw.sin()
    local_y = shift_y * yaw.cos() - shift_x * yaw.sin()
    is_level = (points[:, 2, None] - (z + height / 2)).abs() <= height / 2
    return is_level & (local_x.abs() < length / 2) & (local_y.abs() < width / 2)


def box_of_points(points: Tensor, boxes: Tensor) -> Tensor:
    """Returns the first box that holds each point, int32 [N]; -1 for none. Arguments as :func:`points_in_boxes`.

    >>> box_of_points(torch.tensor([[0., 0, 1], [3, 0, 1]]), torch.tensor([[0., 0, 0, 4, 2, 2, 0]])).tolist()
    [0, -1]
    """
    inside = points_in_boxes(points, boxes)
    if inside.shape[1] == 0:
        return torch.full((len(points),), -1, dtype=torch.int32, device=points.device)
    first = inside.int().argmax(1)
    return torch.where(inside.any(1), first, -1).int()
