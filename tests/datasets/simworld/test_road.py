"""The road's Frenet frame and height field are consistent."""

import numpy as np
import pytest

from perceptkd.datasets.simworld import Scene
from perceptkd.datasets.simworld.ground import build_ground, zone_semantics
from perceptkd.datasets.simworld.semantics import ROAD, SIDEWALK, TERRAIN


def test_locate_inverts_position(scene: Scene) -> None:
    rng = np.random.default_rng(0)
    s = rng.uniform(scene.road.s_min + 20, scene.road.s_max - 20, 200)
    d = rng.uniform(-40, 40, 200)
    found_s, found_d = scene.road.locate(scene.road.position(s, d)[:, :2])
    np.testing.assert_allclose(found_s, s, atol=0.02)
    np.testing.assert_allclose(found_d, d, atol=0.02)


def test_road_is_sloped_curved_and_banked() -> None:
    from perceptkd.datasets.simworld import WorldSpec
    from perceptkd.datasets.simworld.road import Road

    for seed in range(4):
        road = Road(WorldSpec(seed=seed), 120.0)
        s = np.linspace(0, 120, 400)
        assert np.abs(np.gradient(road.height(s, 0.0), s)).max() > 0.02
        assert np.abs(road.curvature(s)).max() > 1 / 400
        assert np.abs(road.height(s, 3.0) - road.height(s, -3.0)).max() > 0.03


def test_curvature_is_the_derivative_of_the_heading(scene: Scene) -> None:
    s = np.linspace(0, 100, 50)
    measured = (scene.road.heading(s + 1e-4) - scene.road.heading(s - 1e-4)) / 2e-4
    np.testing.assert_allclose(measured, scene.road.curvature(s), atol=1e-6)


def test_kerbs_rise_beside_the_road_and_vanish_at_side_streets(scene: Scene) -> None:
    road = scene.road
    junction = next(j for j in road.junctions if j.left)
    middle, kerb = (junction.start + junction.end) / 2, road.section.kerb(1)
    at_junction = road.height(middle, kerb + 0.1) - road.height(middle, kerb - 0.1)
    elsewhere = road.height(junction.end + 5.0, kerb + 0.1) - road.height(junction.end + 5.0, kerb - 0.1)
    assert abs(at_junction) < 0.02
    assert elsewhere == pytest.approx(0.13, abs=0.02)


def test_ground_mesh_follows_the_height_field(scene: Scene) -> None:
    mesh = build_ground(scene.road)
    middle = mesh.texture.mean(1)
    flat = np.abs(np.abs(middle[:, 1]) - scene.road.section.kerb(1)) > 0.5
    flat &= np.abs(np.abs(middle[:, 1]) - scene.road.section.kerb(-1)) > 0.5
    flat &= np.abs(middle[:, 1]) < 14
    gap = mesh.corners.mean(1)[:, 2] - scene.road.height(middle[:, 0], middle[:, 1])
    assert np.abs(gap[flat]).max() < 0.03
    np.testing.assert_array_equal(mesh.semantic[np.abs(middle[:, 1]) < 2.0], ROAD)


def test_zones_are_road_then_sidewalk_then_land(scene: Scene) -> None:
    section = scene.road.section
    clear = next(s for s in np.arange(0, 60, 1.0) if all(abs(s - j.start) > 25 for j in scene.road.junctions))
    d = np.array([0.0, section.kerb(1) + 0.5, section.walk_end(1) + 2.0])
    np.testing.assert_array_equal(zone_semantics(scene.road, np.full(3, clear), d), [ROAD, SIDEWALK, TERRAIN])
