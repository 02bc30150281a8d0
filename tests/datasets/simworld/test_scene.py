"""Scenes are pure functions of their specification, and their agents move as they say."""

import numpy as np
import pytest

from perceptkd.datasets.simworld import Scene, WorldSpec, build_scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return build_scene(WorldSpec(seed=3, scene_name="scene-0103", num_keyframes=4))


def test_agents_move_with_their_velocity(scene: Scene) -> None:
    eps = 1e-3
    for t in (0.0, 4.0, 11.3):
        measured = (scene.agent_poses(t + eps)[0] - scene.agent_poses(t - eps)[0]) / (2 * eps)
        np.testing.assert_allclose(measured, scene.agent_velocities(t), atol=0.02)
