"""Velocities are derivatives of poses."""

import numpy as np
import pytest

from perceptkd.datasets.simworld import Scene
from perceptkd.datasets.simworld.motion import Fleet, Track, Travel


def test_travel_velocity_is_the_derivative_of_distance() -> None:
    travel = Travel(speed=5.0, swing=0.8, rate=0.4, phase=1.0, sway=1.5, sway_rate=0.3, sway_phase=2.0)
    for t in np.linspace(0, 20, 30):
        measured = (travel.distance(t + 1e-5) - travel.distance(t - 1e-5)) / 2e-5
        assert measured == pytest.approx(travel.velocity(t), abs=1e-6)
    assert travel.distance(0.0) == 0.0


def test_stop_and_go_never_reverses() -> None:
    travel = Travel(speed=4.0, swing=1.0, rate=0.4, phase=0.5)
    speeds = np.array([travel.velocity(t) for t in np.linspace(0, 20, 400)])
    assert speeds.min() >= 0
    assert speeds.min() < 0.01


def test_tracks_follow_the_road(scene: Scene) -> None:
    fleet = Fleet(
        scene.road, [Track(s=5.0, d=-2.0, along=1.0, travel=Travel(speed=3.0)), Track(s=9.0, d=6.0, turn=1.0)]
    )
    ground, yaw = fleet.pose(2.0)
    np.testing.assert_allclose(ground[0], scene.road.position(11.0, -2.0))
    assert yaw[1] == pytest.approx(float(scene.road.heading(9.0)) + 1.0)
    np.testing.assert_allclose(fleet.velocity(2.0)[1], 0.0, atol=1e-12)
    speed = np.linalg.norm(fleet.velocity(2.0)[0][:2])
    assert speed == pytest.approx(3.0 * (1 + 2.0 * float(scene.road.curvature(11.0))), rel=1e-6)
