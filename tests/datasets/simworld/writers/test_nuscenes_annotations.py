"""Points in boxes and visible shares, against worked examples."""

import numpy as np
import pytest
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from perceptkd.datasets.simworld.writers.nuscenes_annotations import (
    EDGES,
    box_corners,
    count_points,
    outline_areas,
    visible_shares,
)
from perceptkd.datasets.simworld.writers.nuscenes_tables import visibility_token

INTRINSICS = np.array([[100.0, 0, 50], [0, 100.0, 50], [0, 0, 1]])


def cube(z: float, x: float = 0.0) -> np.ndarray:
    """A cube of 2 m, [1, 8, 3] in a camera's frame."""
    return box_corners(np.array([[x, 0.0, z]]), np.zeros(1), np.full((1, 3), 2.0))


def test_corners_are_the_devkit_s():
    box = Box([1, 2, 3], [2.0, 4.5, 1.5], Quaternion(axis=[0, 0, 1], radians=0.7))
    (ours,) = box_corners(np.array([[1.0, 2, 3]]), np.array([0.7]), np.array([[2.0, 4.5, 1.5]]))
    theirs = box.corners().T
    assert np.allclose(ours[np.lexsort(ours.T.round(6))], theirs[np.lexsort(theirs.T.round(6))])


def test_edges_are_as_long_as_the_sides():
    (corners,) = box_corners(np.zeros((1, 3)), np.array([0.3]), np.array([[2.0, 5.0, 3.0]]))
    lengths = np.linalg.norm(corners[EDGES[:, 0]] - corners[EDGES[:, 1]], axis=1)
    assert sorted(lengths.round(6)) == [2.0] * 4 + [3.0] * 4 + [5.0] * 4


def test_count_is_the_devkit_s():
    rng = np.random.default_rng(0)
    points = rng.uniform(-10, 10, (5000, 5)).astype(np.float32)
    for _ in range(20):
        box = Box(rng.uniform(-8, 8, 3).tolist(), rng.uniform(1, 6, 3).tolist(), Quaternion.random())
        assert count_points(box, points) == points_in_box(box, points[:, :3].T).sum()
    assert count_points(Box([100, 0, 0], [1, 1, 1], Quaternion()), points) == 0


def test_outline_of_a_cube_is_that_of_its_near_face():
    # The near face is 9 m away: 2 m are 22.2 pixels.
    assert outline_areas(cube(10.0), INTRINSICS, (100, 100)) == pytest.approx([(200 / 9) ** 2], rel=1e-4)


def test_outline_is_cut_at_the_image():
    assert outline_areas(cube(10.0), INTRINSICS, (50, 100)) == pytest.approx([(200 / 9) ** 2 / 2], rel=1e-4)
    assert outline_areas(cube(10.0, x=50.0), INTRINSICS, (100, 100)) == 0


def test_outline_of_a_box_around_the_camera_fills_the_image():
    assert outline_areas(cube(0.5), INTRINSICS, (100, 100)) == pytest.approx([100 * 100])
    assert outline_areas(cube(-5.0), INTRINSICS, (100, 100)) == 0
    assert len(outline_areas(np.zeros((0, 8, 3)), INTRINSICS, (100, 100))) == 0


def test_shares_and_levels():
    shares = visible_shares(np.array([0.0, 7, 35, 49, 63, 90]), np.array([100.0] * 6))
    assert [visibility_token(share) for share in shares] == ["1", "1", "2", "3", "4", "4"]
    assert visible_shares(np.array([3.0]), np.array([3.9])) == 0  # too small to tell
