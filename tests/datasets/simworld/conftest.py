"""Scenes and sensor readings that several test files share."""

import numpy as np
import pytest

from perceptkd.datasets.simworld import (
    CAMERAS,
    CameraFrame,
    LidarSweep,
    Scene,
    WorldSpec,
    build_scene,
    cast_lidar,
    render_camera,
)
from perceptkd.datasets.simworld.kitti_rig import KITTI_RIG

SMALL = (400, 225)
INSTANT = 6.0


@pytest.fixture(scope="session")
def scene() -> Scene:
    """A clear day."""
    return build_scene(WorldSpec(seed=3, scene_name="scene-0103", weather="clear", image_size=SMALL))


@pytest.fixture(scope="session")
def sweep(scene: Scene) -> LidarSweep:
    """One LiDAR sweep of ``scene``."""
    return cast_lidar(scene, INSTANT)


@pytest.fixture(scope="session")
def kitti_sweep(scene: Scene) -> LidarSweep:
    """One sweep of the LiDAR of a KITTI car."""
    return cast_lidar(scene, INSTANT, rig=KITTI_RIG)


@pytest.fixture(scope="session")
def frames(scene: Scene) -> dict[str, CameraFrame]:
    """All six pictures of ``scene`` at the sweep's instant."""
    return {name: render_camera(scene, name, INSTANT) for name in CAMERAS}


@pytest.fixture
def to_box():
    """Function from global points [N, 3] to an agent's box frame, in half sizes: inside is within [-1, 1]."""

    def convert(points: np.ndarray, agent, t: float) -> np.ndarray:
        pose = agent.pose(t).matrix
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        width, length, height = agent.size_wlh
        return local / (np.array([length, width, height]) / 2)

    return convert
