"""Scenes are pure functions of their specification, and their agents move as they say."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from perceptkd.datasets.simworld import CAMERAS, Scene, WorldSpec, build_scene, cast_lidar, render_camera
from perceptkd.datasets.simworld.ego import EgoDrive, draw_ego_travel
from perceptkd.datasets.simworld.road import Road

SPEC = WorldSpec(seed=3, scene_name="scene-0103", weather="rain", image_size=(160, 90))


def fingerprint() -> str:
    """Hash of a scene's poses, a sweep and a picture."""
    scene = build_scene(SPEC)
    digest = hashlib.sha256(scene.description.encode())
    digest.update(scene.ego_pose(3.2).tobytes())
    for array in (*scene.agent_poses(3.2), *cast_lidar(scene, 3.2), *render_camera(scene, "CAM_BACK_LEFT", 3.2)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def test_same_bytes_twice_and_in_another_process() -> None:
    here = fingerprint()
    assert fingerprint() == here
    program = (
        "import importlib.util as u; "
        f"spec = u.spec_from_file_location('t', {__file__!r}); m = u.module_from_spec(spec); "
        "spec.loader.exec_module(m); print(m.fingerprint())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == here


def drive(spec: WorldSpec) -> EgoDrive:
    """The ego car's drive alone, without building the street."""
    return EgoDrive(spec, Road(spec, 150.0), draw_ego_travel(spec))


def test_other_seeds_and_names_are_other_streets() -> None:
    specs = (WorldSpec(seed=0), WorldSpec(seed=1), WorldSpec(seed=0, scene_name="scene-0103"))
    assert len({drive(spec).pose(1.0).tobytes() for spec in specs}) == 3


def test_a_shorter_recording_shows_the_same_street(scene: Scene) -> None:
    short = build_scene(WorldSpec(seed=3, scene_name="scene-0103", weather="clear", num_keyframes=2, sweeps_between=1))
    np.testing.assert_array_equal(short.agent_poses(0.6)[0], scene.agent_poses(0.6)[0])
    np.testing.assert_array_equal(short.ego_pose(0.6), scene.ego_pose(0.6))
    assert len(short.lidar_times) == 3


def test_agents_move_with_their_velocity(scene: Scene) -> None:
    eps = 1e-3
    for t in (0.5, 4.0, 11.3):
        measured = (scene.agent_poses(t + eps)[0] - scene.agent_poses(t - eps)[0]) / (2 * eps)
        np.testing.assert_allclose(measured, scene.agent_velocities(t), atol=0.02)


def test_one_agent_agrees_with_all(scene: Scene) -> None:
    centers, yaws = scene.agent_poses(7.0)
    velocities = scene.agent_velocities(7.0)
    for index in range(0, len(scene.agents), 9):
        agent = scene.agents[index]
        assert agent.instance_id == index + 1
        np.testing.assert_allclose(agent.pose(7.0).center, centers[index], atol=1e-9)
        assert agent.pose(7.0).yaw == pytest.approx(yaws[index])
        np.testing.assert_allclose(agent.velocity(7.0), velocities[index], atol=1e-9)


def test_times_are_those_of_nuscenes(scene: Scene) -> None:
    assert len(scene.keyframe_times) == 40
    assert len(scene.lidar_times) == 391
    np.testing.assert_allclose(np.diff(scene.lidar_times), 0.05)
    np.testing.assert_allclose(scene.lidar_times[scene.keyframe_sweeps()], scene.keyframe_times)
    for camera in CAMERAS:
        early = scene.keyframe_times[3] - scene.camera_times(camera, 3)
        assert 0 <= early < 0.05
        assert scene.camera_times(camera, 0) >= 0


def test_ego_car_pitches_and_rolls() -> None:
    forward, left = [], []
    for seed in range(3):
        way = drive(WorldSpec(seed=seed))
        poses = np.stack([way.pose(t) for t in np.linspace(0, 19, 60)])
        forward.append(np.degrees(np.arcsin(poses[:, 2, 0])))
        left.append(np.degrees(np.arcsin(poses[:, 2, 1])))
        np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1.0)
    assert np.ptp(np.concatenate(forward)) > 2.0
    assert np.ptp(np.concatenate(left)) > 1.5


def test_ego_car_drives_forward_along_its_heading(scene: Scene) -> None:
    before, after = scene.ego_pose(5.0), scene.ego_pose(5.2)
    step = after[:3, 3] - before[:3, 3]
    assert step @ before[:3, 0] > 0.99 * np.linalg.norm(step) > 0.05
