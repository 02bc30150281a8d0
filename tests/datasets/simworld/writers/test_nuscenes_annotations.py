"""Points in boxes and visible shares, against worked examples."""

import numpy as np
import pytest
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from perceptkd.datasets.simworld import RIG, WorldSpec, build_scene, render_camera
from perceptkd.datasets.simworld.writers.nuscenes_annotations import (
    AgentShapes,
    count_points,
    covered_pixels,
    visible_shares,
)
from perceptkd.datasets.simworld.writers.nuscenes_tables import visibility_token


def test_count_is_the_devkit_s():
    rng = np.random.default_rng(0)
    points = rng.uniform(-10, 10, (5000, 5)).astype(np.float32)
    for _ in range(20):
        box = Box(rng.uniform(-8, 8, 3).tolist(), rng.uniform(1, 6, 3).tolist(), Quaternion.random())
        assert count_points(box, points) == points_in_box(box, points[:, :3].T).sum()
    assert count_points(Box([100, 0, 0], [1, 1, 1], Quaternion()), points) == 0


def square(x: float, y: float, side: float) -> np.ndarray:
    """Two triangles [2, 3, 3] that fill a square on the screen."""
    a, b, c, d = ([x, y, 1], [x + side, y, 1], [x + side, y + side, 1], [x, y + side, 1])
    return np.array([[a, b, c], [a, c, d]], float)


def test_covered_pixels_are_counted_once():
    one = square(10.0, 20.0, 8.0)
    assert covered_pixels(one, (100, 100)) == 64
    assert covered_pixels(np.concatenate([one, one, square(14.0, 20.0, 8.0)]), (100, 100)) == 96


def test_covered_pixels_end_at_the_image():
    assert covered_pixels(square(-4.0, 96.0, 8.0), (100, 100)) == 16
    assert covered_pixels(square(-40.0, 20.0, 8.0), (100, 100)) == 0


def test_unoccluded_pixels_are_at_least_the_visible_ones():
    size = (400, 225)
    scene = build_scene(WorldSpec(scene_name="scene-0061", num_keyframes=1))
    t = scene.camera_times("CAM_FRONT", 0)
    seen = np.bincount(render_camera(scene, "CAM_FRONT", t, size).instance.ravel(), minlength=len(scene.agents) + 1)[1:]
    unoccluded = AgentShapes(scene.agents).count_pixels(
        scene.agent_poses(t),
        camera=scene.ego_pose(t) @ RIG["CAM_FRONT"].ego_from_sensor,
        intrinsics=RIG["CAM_FRONT"].intrinsics_at(size),
        size=size,
    )
    assert (unoccluded >= seen).all()
    shares = visible_shares(seen, unoccluded)[unoccluded > 20]
    assert (shares > 0.99).sum() >= 3
    assert (shares < 0.6).sum() >= 3


def test_shares_and_levels():
    shares = visible_shares(np.array([0, 40, 50, 70, 90, 100]), np.full(6, 100))
    assert [visibility_token(share) for share in shares] == ["1", "1", "2", "3", "4", "4"]
    assert visible_shares(np.array([3]), np.array([3])) == 0  # too small to tell


@pytest.mark.parametrize("count", [0, 1])
def test_scenes_of_few_agents(count):
    scene = build_scene(WorldSpec(scene_name="scene-0061", num_keyframes=1))
    centers, yaws = scene.agent_poses(0.5)
    pixels = AgentShapes(scene.agents[:count]).count_pixels(
        (centers[:count], yaws[:count]),
        camera=scene.ego_pose(0.5) @ RIG["CAM_BACK"].ego_from_sensor,
        intrinsics=RIG["CAM_BACK"].intrinsics_at((64, 36)),
        size=(64, 36),
    )
    assert pixels.shape == (count,)
