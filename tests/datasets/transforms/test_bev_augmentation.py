"""AugmentBEV: points, boxes and the recorded matrix share one frame."""

import math

import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints

from perceptkd.datasets.transforms.bev_augmentation import (
    AugmentBEV,
    bev_augmentation_matrix,
    transform_boxes,
    transform_points,
)

BOX = (10.0, 5.0, -1.0, 4.0, 2.0, 1.5, math.pi / 6, 3.0, 1.0)  # gravity centre, dims, yaw, velocity
TRANSLATION = np.array([0.3, -0.2, 0.1])


def make_boxes(*values: tuple[float, ...]) -> LiDARInstance3DBoxes:
    """Boxes from gravity centres."""
    return LiDARInstance3DBoxes(torch.tensor(values), box_dim=9, origin=(0.5, 0.5, 0.5))


def as_gravity(boxes: LiDARInstance3DBoxes) -> np.ndarray:
    """[N, 9] with gravity centres."""
    return torch.cat([boxes.gravity_center, boxes.tensor[:, 3:]], dim=1).numpy()


def example() -> np.ndarray:
    """The matrix of worked example W7."""
    return bev_augmentation_matrix(math.pi / 6, 1.05, translate_m=TRANSLATION, flip_x=True, flip_y=False)


def draw() -> AugmentBEV:
    return AugmentBEV(
        rotate_range_deg=(-45, 45), scale_range=(0.9, 1.1), translate_std_m=(0.5, 0.5, 0.5), flip_probability=0.5
    )


def test_worked_example_matrix() -> None:
    expected = [[-0.909327, 0.525, 0, -0.3], [0.525, 0.909327, 0, -0.2], [0, 0, 1.05, 0.1], [0, 0, 0, 1]]
    np.testing.assert_allclose(example(), expected, atol=1e-6)


def test_worked_example_box() -> None:
    moved = as_gravity(transform_boxes(make_boxes(BOX), example()))[0]
    expected = [-6.768267, 9.596633, -0.95, 4.2, 2.1, 1.575, 2.094395, -2.20298, 2.484327]
    np.testing.assert_allclose(moved, expected, atol=2e-6)


def test_worked_example_both_flips() -> None:
    matrix = bev_augmentation_matrix(0.0, 1.0, translate_m=np.zeros(3), flip_x=True, flip_y=True)
    moved = as_gravity(transform_boxes(make_boxes(BOX), matrix))[0]
    np.testing.assert_allclose(moved, [-10, -5, -1, 4, 2, 1.5, -2.617994, -3, -1], atol=2e-6)


@pytest.mark.parametrize(("flip_x", "flip_y"), [(False, False), (True, False), (False, True), (True, True)])
def test_agrees_with_the_box_operations_of_mmdet3d(flip_x: bool, flip_y: bool) -> None:
    boxes = make_boxes(BOX, (-20.0, 30.0, 0.5, 8.0, 3.0, 3.0, -2.5, -1.0, 0.5))
    expected = boxes.clone()
    expected.rotate(0.4)
    expected.scale(0.95)
    expected.translate(torch.from_numpy(TRANSLATION).float())
    if flip_x:
        expected.flip("vertical")
    if flip_y:
        expected.flip("horizontal")
    matrix = bev_augmentation_matrix(0.4, 0.95, translate_m=TRANSLATION, flip_x=flip_x, flip_y=flip_y)
    moved = transform_boxes(boxes, matrix)
    np.testing.assert_allclose(moved.corners.numpy(), expected.corners.numpy(), atol=1e-4)
    turned = moved.yaw - expected.yaw
    np.testing.assert_allclose(torch.stack([turned.cos(), turned.sin()]).numpy(), [[1, 1], [0, 0]], atol=1e-5)
    np.testing.assert_allclose(moved.tensor[:, 7:].numpy(), expected.tensor[:, 7:].numpy(), atol=1e-5)


@pytest.mark.parametrize(("flip_x", "order"), [(False, [0, 1, 2, 3]), (True, [1, 0, 3, 2])])
def test_corners_move_with_the_matrix(flip_x: bool, order: list[int]) -> None:
    """F16: the corner set is the transformed corner set; one flip swaps left and right."""
    boxes = make_boxes(BOX)
    matrix = bev_augmentation_matrix(math.pi / 6, 1.05, translate_m=TRANSLATION, flip_x=flip_x, flip_y=False)
    ground = [0, 3, 7, 4]
    before = transform_points(boxes.corners[0, ground], matrix)
    after = transform_boxes(boxes, matrix).corners[0, ground]
    np.testing.assert_allclose(after.numpy(), before[order].numpy(), atol=1e-4)


def inside(points: torch.Tensor, box: np.ndarray) -> np.ndarray:
    """Mask of points in one gravity-centred box, by plain geometry."""
    offset = points.numpy()[:, :3].astype(np.float64) - box[:3]
    cosine, sine = math.cos(box[6]), math.sin(box[6])
    along = offset[:, 0] * cosine + offset[:, 1] * sine
    across = -offset[:, 0] * sine + offset[:, 1] * cosine
    return (np.abs(np.stack([along, across, offset[:, 2]])) <= box[3:6, None] / 2).all(axis=0)


@pytest.mark.parametrize("seed", range(5))
def test_points_stay_in_their_box(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002
    boxes = make_boxes(BOX)
    points = torch.cat([torch.randn(400, 3) * 1.5 + torch.tensor(BOX[:3]), torch.rand(400, 2)], dim=1)
    before = inside(points, as_gravity(boxes)[0])
    results = draw().transform({"points": LiDARPoints(points, points_dim=5), "gt_bboxes_3d": boxes})
    after = inside(results["points"].tensor, as_gravity(results["gt_bboxes_3d"])[0])
    assert 20 < before.sum() < 400
    assert (before != after).sum() <= 1  # one may lie on the face
    torch.testing.assert_close(results["points"].tensor[:, 3:], points[:, 3:])


def test_the_recorded_matrix_is_the_one_applied() -> None:
    points = torch.rand(50, 5)
    results = draw().transform({"points": LiDARPoints(points.clone(), points_dim=5)})
    moved = points[:, :3] @ torch.tensor(results["lidar_aug_matrix"][:3, :3]).float().T
    moved += torch.tensor(results["lidar_aug_matrix"][:3, 3]).float()
    torch.testing.assert_close(results["points"].tensor[:, :3], moved)


def test_a_frame_without_boxes() -> None:
    empty = LiDARInstance3DBoxes(torch.zeros(0, 9), box_dim=9)
    results = draw().transform({"gt_bboxes_3d": empty})
    assert results["gt_bboxes_3d"].tensor.shape == (0, 9)


def test_boxes_without_velocity_move_as_those_with_one() -> None:
    boxes = make_boxes(BOX, (-20.0, 30.0, 0.5, 8.0, 3.0, 3.0, -2.5, -1.0, 0.5))
    still = transform_boxes(LiDARInstance3DBoxes(boxes.tensor[:, :7], box_dim=7), example())
    assert torch.equal(still.tensor, transform_boxes(boxes, example()).tensor[:, :7])


def test_draws_follow_the_global_seed_only() -> None:
    drawn = []
    for _ in range(2):
        np.random.seed(7)  # noqa: NPY002
        drawn.append(draw().transform({})["lidar_aug_matrix"])
    np.testing.assert_array_equal(drawn[0], drawn[1])
