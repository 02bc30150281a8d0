"""What a camera would see of each agent alone, and visible shares, against worked examples."""

import numpy as np
import pytest

from perceptkd.datasets.simworld import RIG, WorldSpec, build_scene, render_camera
from perceptkd.datasets.simworld.writers.nuscenes_tables import visibility_token
from perceptkd.datasets.simworld.writers.visibility import AgentShapes, seen_pixels, silhouette, visible_shares


def square(x: float, y: float, side: float) -> np.ndarray:
    """Two triangles [2, 3, 3] that fill a square on the screen."""
    a, b, c, d = ([x, y, 1], [x + side, y, 1], [x + side, y + side, 1], [x, y + side, 1])
    return np.array([[a, b, c], [a, c, d]], float)


def test_covered_pixels_are_counted_once():
    one = square(10.0, 20.0, 8.0)
    assert silhouette(one, (100, 100))[0] == 64
    assert silhouette(np.concatenate([one, one, square(14.0, 20.0, 8.0)]), (100, 100))[0] == 96


def test_covered_pixels_end_at_the_image():
    pixels, bounds = silhouette(square(-4.0, 96.0, 8.0), (100, 100))
    assert pixels == 16
    assert bounds.tolist() == [0, 96, 4, 100]
    pixels, bounds = silhouette(square(-40.0, 20.0, 8.0), (100, 100))
    assert pixels == 0
    assert np.isnan(bounds).all()


def test_bounds_are_finer_than_pixels():
    assert silhouette(square(10.3, 20.2, 8.0), (100, 100))[1] == pytest.approx([10.3, 20.2, 18.3, 28.2])


def test_what_lies_beyond_the_border_does_not_widen_the_bounds():
    """A triangle from (90, 50) to x = 190 spreads from 50 to 110 there, but to 56 at the border."""
    wedge = np.array([[[90.0, 50, 1], [190, 50, 1], [190, 110, 1]]])
    _, bounds = silhouette(wedge, (100, 100))
    assert bounds == pytest.approx([90, 50, 100, 56], abs=0.75)


def test_unoccluded_pixels_are_at_least_the_visible_ones():
    size = (400, 225)
    scene = build_scene(WorldSpec(scene_name="scene-0061", num_keyframes=1))
    t = scene.camera_times("CAM_FRONT", 0)
    seen = seen_pixels(render_camera(scene, "CAM_FRONT", t, size).instance, len(scene.agents))
    unoccluded = (
        AgentShapes(scene.agents)
        .silhouettes(
            scene.agent_poses(t),
            camera=scene.ego_pose(t) @ RIG["CAM_FRONT"].ego_from_sensor,
            intrinsics=RIG["CAM_FRONT"].intrinsics_at(size),
            size=size,
        )
        .pixels
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
    pixels, bounds = AgentShapes(scene.agents[:count]).silhouettes(
        (centers[:count], yaws[:count]),
        camera=scene.ego_pose(0.5) @ RIG["CAM_BACK"].ego_from_sensor,
        intrinsics=RIG["CAM_BACK"].intrinsics_at((64, 36)),
        size=(64, 36),
    )
    assert pixels.shape == (count,)
    assert bounds.shape == (count, 4)
