"""Agents: ten classes, believable sizes, on the ground, never in each other."""

from collections import Counter

import numpy as np
import pytest
from shapely.geometry import Polygon
from shapely.strtree import STRtree

from perceptkd.datasets.simworld import CLASS_NAMES, Scene, WorldSpec, build_scene
from perceptkd.datasets.simworld.ego import CENTRE_AHEAD_M, EGO_SIZE_WLH
from perceptkd.datasets.simworld.semantics import CLASS_PRIORS

SPLIT = ("scene-0061", "scene-0103", "scene-0553", "scene-0655", "scene-0757", "scene-0796")


@pytest.fixture(scope="module")
def split() -> list[Scene]:
    return [build_scene(WorldSpec(seed=11, scene_name=name)) for name in SPLIT]


def footprint(center: np.ndarray, yaw: float, length: float, width: float) -> Polygon:
    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * [length / 2, width / 2]
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    return Polygon(corners @ turn.T + center[:2])


def test_no_two_agents_touch_and_none_touches_the_ego_car(split: list[Scene]) -> None:
    for scene in split[:3]:
        for t in np.linspace(0.0, 20.0, 15):
            centers, yaws = scene.agent_poses(t)
            boxes = [
                footprint(center, yaw, agent.size_wlh[1], agent.size_wlh[0])
                for agent, center, yaw in zip(scene.agents, centers, yaws)
            ]
            ego = scene.ego_pose(t)
            body = ego[:3, 3] + CENTRE_AHEAD_M * ego[:3, 0]
            boxes.append(footprint(body, np.arctan2(ego[1, 0], ego[0, 0]), EGO_SIZE_WLH[1], EGO_SIZE_WLH[0]))
            tree = STRtree(boxes)
            pairs = tree.query(boxes, predicate="intersects").T
            assert [tuple(pair) for pair in pairs if pair[0] < pair[1]] == [], (scene.spec.scene_name, t)


def test_boxes_stand_on_the_ground(scene: Scene) -> None:
    for t in (0.0, 10.0):
        centers, _ = scene.agent_poses(t)
        s, d = scene.road.locate(centers[:, :2])
        bottom = centers[:, 2] - np.array([agent.size_wlh[2] for agent in scene.agents]) / 2
        np.testing.assert_allclose(bottom, scene.road.height(s, d), atol=0.02)


def test_every_class_is_near_often_enough_to_learn(split: list[Scene]) -> None:
    counts: Counter[str] = Counter()
    crowd = []
    for scene in split:
        for t in scene.keyframe_times:
            centers, _ = scene.agent_poses(t)
            near = np.linalg.norm(centers[:, :2] - scene.ego_pose(t)[:2, 3], axis=1) < 50.0
            counts.update(scene.agents[i].class_name for i in np.flatnonzero(near))
            crowd.append(near.sum())
    assert set(counts) == set(CLASS_NAMES)
    assert min(counts.values()) >= 50, counts
    assert 12 <= np.median(crowd) <= 45


def test_sizes_are_near_the_nuscenes_priors(split: list[Scene]) -> None:
    sizes: dict[str, list] = {name: [] for name in CLASS_NAMES}
    for scene in split:
        for agent in scene.agents:
            if not agent.rider and not agent.category.endswith("child"):
                sizes[agent.class_name].append(agent.size_wlh)
    for name, drawn in sizes.items():
        np.testing.assert_allclose(np.mean(drawn, 0), CLASS_PRIORS[name].size_wlh, rtol=0.12, err_msg=name)


def test_moving_agents_face_where_they_go(scene: Scene) -> None:
    velocities = scene.agent_velocities(5.0)
    _, yaws = scene.agent_poses(5.0)
    fast = np.linalg.norm(velocities[:, :2], axis=1) > 0.3
    assert fast.sum() > 10
    course = np.arctan2(velocities[fast, 1], velocities[fast, 0])
    assert np.abs(np.angle(np.exp(1j * (course - yaws[fast])))).max() < 0.02


def test_attributes_agree_with_motion(scene: Scene) -> None:
    seen = set()
    for agent in scene.agents:
        for t in (0.0, 9.0):
            attribute, speed = agent.attribute(t), np.linalg.norm(agent.velocity(t))
            seen.add(attribute)
            if attribute in ("vehicle.parked", "vehicle.stopped", "pedestrian.standing"):
                assert speed <= 0.2
            elif attribute.endswith("moving"):
                assert speed > 0.2
            elif attribute == "cycle.without_rider":
                assert not agent.rider
                assert speed == 0
            elif attribute == "":
                assert agent.class_name in ("traffic_cone", "barrier")
    assert seen >= {
        "vehicle.moving",
        "vehicle.parked",
        "pedestrian.moving",
        "cycle.with_rider",
        "cycle.without_rider",
        "",
    }
