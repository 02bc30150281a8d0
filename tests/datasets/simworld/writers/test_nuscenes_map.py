"""The map mask shows the street that the sensors see."""

import numpy as np
import pytest

from perceptkd.datasets.simworld import Scene, WorldSpec, build_scene
from perceptkd.datasets.simworld.writers.nuscenes_map import RESOLUTION_M, draw_map, map_origin


@pytest.fixture(scope="module")
def scene() -> Scene:
    return build_scene(WorldSpec(scene_name="scene-0061", num_keyframes=1))


@pytest.fixture(scope="module")
def mask(scene) -> np.ndarray:
    return draw_map(scene.road)


def is_white(scene: Scene, mask: np.ndarray, s: float, d: float) -> bool:
    x, y = (scene.road.position(s, d)[:2] - map_origin(scene.road)) / RESOLUTION_M
    return mask[mask.shape[0] - round(y), round(x)] == 255


def test_only_black_and_white(mask):
    assert set(np.unique(mask)) == {0, 255}


def test_road_sidewalk_and_land(scene, mask):
    road = scene.road
    junction = road.junctions[1]
    s = junction.start - 10.0
    assert is_white(scene, mask, s, 0.0)
    for side in (1, -1):
        assert is_white(scene, mask, s, side * (road.section.walk_end(side) - 0.5))
        assert not is_white(scene, mask, s, side * (road.section.walk_end(side) + 6.0))
        opens = junction.left if side > 0 else junction.right
        assert is_white(scene, mask, (junction.start + junction.end) / 2, side * 30.0) == opens


def test_the_car_drives_on_white(scene, mask):
    for t in np.linspace(0.0, 19.0, 20):
        x, y = (scene.ego_pose(t)[:2, 3] - map_origin(scene.road)) / RESOLUTION_M
        assert mask[mask.shape[0] - round(y), round(x)] == 255


def test_the_map_starts_left_of_and_below_everything(scene):
    origin = map_origin(scene.road)
    centers, _ = scene.agent_poses(0.0)
    assert (centers[:, :2] > origin).all()
    assert np.array_equal(origin, np.floor(origin))
