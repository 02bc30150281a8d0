"""LiDAR sweeps: exact hits, labels that lie in their boxes, and the losses a real one has."""

import numpy as np
import pytest

from perceptkd.datasets.simworld import LIDAR, RIG, LidarSweep, Scene
from perceptkd.datasets.simworld.lidar import collect_returns, trace_rays
from perceptkd.datasets.simworld.lidar_model import HDL_32E, HDL_64E, LidarModel
from perceptkd.datasets.simworld.materials import LOSS, POROSITY, REFLECTANCE, Material
from perceptkd.datasets.simworld.semantics import ROAD

INSTANT = 6.0
KEY = np.uint64(9)
MODELS = pytest.mark.parametrize("model", [HDL_32E, HDL_64E], ids=["HDL-32E", "HDL-64E"])


@MODELS
def test_traced_rays_hit_what_brute_force_hits(model: LidarModel) -> None:
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(80, 1, 3)) * [9, 9, 3]
    corners = middle + rng.normal(size=(80, 3, 3)) * 2
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    pose[:3, 3] = (0.5, -0.3, 0.2)
    solid = np.full(80, Material.PLAIN, np.uint8)
    distance, winner, _ = trace_rays(corners, solid, pose, model, POROSITY, KEY)
    rays = model.directions[:, ::7] @ pose[:3, :3].T
    e1, e2, off = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], pose[:3, 3] - corners[:, 0]
    p = np.cross(rays[:, :, None], e2)
    det = (p * e1).sum(-1)
    u, q = (p * off).sum(-1) / det, np.cross(off, e1)
    v = (rays[:, :, None] * q).sum(-1) / det
    metres = (q * e2).sum(-1) / det
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (metres >= 1.0) & (metres <= model.range_m)
    expected = np.where(hit, metres, np.inf).min(-1)
    np.testing.assert_allclose(distance[:, ::7], expected, rtol=1e-9)
    assert 0.1 < (winner >= 0).mean() < 0.9


@MODELS
def test_a_plane_is_seen_at_its_distance(model: LidarModel) -> None:
    ground = np.array([[[-90, -90, -1.8], [90, -90, -1.8], [0, 120, -1.8]]], float)
    distance, _, facing = trace_rays(ground, np.zeros(1, np.uint8), np.eye(4), model, POROSITY, KEY)
    for beam in (0, 5, 12):
        down = -model.directions[beam, 0, 2]
        np.testing.assert_allclose(distance[beam], 1.8 / down, rtol=1e-9)
        np.testing.assert_allclose(facing[beam], down, rtol=1e-9)
    assert np.isinf(distance[-6:]).all()


def test_sweeps_look_like_nuscenes(sweep: LidarSweep) -> None:
    points = sweep.points
    assert points.dtype == np.float32
    assert points.shape[1] == 5
    assert 20_000 < len(points) < 32 * 1084
    assert set(np.unique(points[:, 4])) <= set(range(32))
    assert points[:, 3].min() >= 0
    assert points[:, 3].max() <= 255
    assert np.linalg.norm(points[:, :3], axis=1).max() < 70.2
    elevation = np.degrees(np.arcsin(points[:, 2] / np.linalg.norm(points[:, :3], axis=1)))
    for ring in (2, 16, 30):
        np.testing.assert_allclose(elevation[points[:, 4] == ring], -30.67 + ring * 4 / 3, atol=0.01)


def test_sweeps_look_like_kitti(kitti_sweep: LidarSweep) -> None:
    points = kitti_sweep.points
    assert 90_000 < len(points) < 64 * 2083
    assert set(np.unique(points[:, 4])) <= set(range(64))
    np.testing.assert_allclose(points[:, 3] * 100, np.round(points[:, 3] * 100), atol=1e-4)
    assert points[:, 3].min() >= 0
    assert points[:, 3].max() == pytest.approx(0.99)
    assert 0.15 < points[:, 3].mean() < 0.4
    metres = np.linalg.norm(points[:, :3], axis=1)
    assert 75 < metres.max() < 80.2
    elevation = np.degrees(np.arcsin(points[:, 2] / metres))
    assert elevation.max() - elevation.min() == pytest.approx(26.9, abs=0.05)
    assert set(np.round(np.degrees(np.arctan2(points[:, 1], points[:, 0])) / 30)) == set(range(-6, 7))  # all around
    assert np.median(points[kitti_sweep.semantic == ROAD][:, 2]) == pytest.approx(-1.73, abs=0.15)


@pytest.mark.parametrize("model", [HDL_32E, HDL_64E])
def test_beams_ascend(model: LidarModel) -> None:
    """The search for the beams that a triangle can meet relies on it."""
    assert (np.diff(model.elevations_deg) > 0.2).all()
    np.testing.assert_allclose(np.linalg.norm(model.directions, axis=-1), 1.0)


def test_labelled_points_lie_in_their_boxes(scene: Scene, sweep: LidarSweep, to_box) -> None:
    pose = scene.ego_pose(INSTANT) @ RIG[LIDAR].ego_from_sensor
    world = sweep.points[:, :3].astype(float) @ pose[:3, :3].T + pose[:3, 3]
    seen = [agent for agent in scene.agents if (sweep.instance_id == agent.instance_id).any()]
    assert len(seen) >= 10
    for agent in seen:
        own = sweep.instance_id == agent.instance_id
        half = np.array(agent.size_wlh)[[1, 0, 2]] / 2
        beyond = (np.abs(to_box(world[own], agent, INSTANT)) - 1) * half
        assert beyond.max() < 0.08, "range noise of 2 cm, four standard deviations"
        np.testing.assert_array_equal(sweep.semantic[own], agent.semantic)


def test_range_noise_is_about_two_centimetres(scene: Scene) -> None:
    snapshot = scene.snapshot(INSTANT)
    pose = scene.ego_pose(INSTANT) @ RIG[LIDAR].ego_from_sensor
    distance, winner, facing = trace_rays(snapshot.corners, snapshot.material, pose, HDL_32E, POROSITY, KEY)
    points, hit = collect_returns(
        distance, winner, facing, snapshot.material, snapshot.floor, pose, HDL_32E, REFLECTANCE, LOSS, 0.0, 0.0, KEY
    )
    ring = points[:, 4].astype(int)
    azimuth = np.round(-np.arctan2(points[:, 1], points[:, 0]) * 1084 / (2 * np.pi)).astype(int) % 1084
    error = np.linalg.norm(points[:, :3], axis=1) - distance[ring, azimuth]
    assert 0.015 < error.std() < 0.025
    assert abs(error.mean()) < 0.002
    np.testing.assert_array_equal(hit, winner[ring, azimuth])


def returned_share(material: int, metres: float, floor: float = -np.inf) -> float:
    """Share of rays that come back from a wall of one material all around."""
    shape = HDL_32E.directions.shape[:2]
    points, _ = collect_returns(
        np.full(shape, metres), np.zeros(shape, np.int32), np.ones(shape), np.full(1, material, np.uint8),
        np.full(1, floor), np.eye(4), HDL_32E, REFLECTANCE, LOSS, 0.0, 0.0, KEY,
    )  # fmt: skip
    return len(points) / np.prod(shape)


def test_glass_far_and_low_things_are_lost() -> None:
    plain = returned_share(Material.PLAIN, 10.0)
    assert plain > 0.95
    assert returned_share(Material.GLASS, 10.0) < 0.2
    assert returned_share(Material.RUBBER, 65.0) < 0.5 * returned_share(Material.RUBBER, 10.0)
    assert returned_share(Material.PLAIN, 10.0, floor=10.0) < 0.5 * plain  # all of it at or below the floor
