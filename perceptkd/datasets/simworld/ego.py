"""The ego car's drive: speed, lane, and the pitch and roll that slope and suspension give it."""

import numpy as np

from .motion import Fleet, Track, Travel
from .road import Road
from .spec import WorldSpec

HALF_WHEELBASE_M = 1.4
HALF_GAUGE_M = 0.8
EGO_SIZE_WLH = (1.9, 4.6, 1.8)
CENTRE_AHEAD_M = 1.0
"""Centre of the car's body, ahead of the ego frame's origin at the rear axle."""


def draw_ego_travel(spec: WorldSpec) -> Travel:
    """Smooth speed profile: mostly cruising, sometimes with a stop."""
    rng = spec.stream("ego")
    stops = rng.random() < 0.3
    return Travel(
        speed=rng.uniform(3.5, 9.0),
        swing=1.0 if stops else rng.uniform(0.1, 0.5),
        rate=2 * np.pi / rng.uniform(14.0, 22.0),
        phase=rng.uniform(0, 2 * np.pi),
    )


class EgoDrive:
    """Pose of the ego car over time.

    Args:
        spec: Scene specification.
        road: The street.
        travel: Distance over time along the road.
    """

    def __init__(self, spec: WorldSpec, road: Road, travel: Travel) -> None:
        rng = spec.stream("suspension")
        self.road = road
        lane = road.section.lane * (rng.integers(road.section.lanes_per_side) + 0.5)
        self.d = lane if road.left_hand_traffic else -lane
        self.travel = travel
        self.track = Track(s=0.0, d=self.d, along=1.0, travel=travel)
        self.fleet = Fleet(road, [self.track])
        # amplitudes of (pitch, roll, heave): radians, radians, metres; one slow and one fast oscillation each
        self._amplitude = rng.uniform(0.4, 1.0, (3, 2)) * np.array([[0.010, 0.004], [0.009, 0.004], [0.02, 0.006]])
        self._rate = 2 * np.pi * rng.uniform(0.7, 1.3, (3, 2)) * np.array([[0.5, 1.6], [0.4, 1.3], [0.6, 1.7]])
        self._phase = rng.uniform(0, 2 * np.pi, (3, 2))

    def place(self, t: float) -> float:
        """Metres along the road."""
        return float(self.travel.distance(t))

    def steepness(self) -> float:
        """Largest slope |dz/ds| met in the first 20 s."""
        s = np.linspace(0.0, self.place(20.0), 200)
        return float(np.abs(np.gradient(self.road.height(s, self.d), s)).max())

    def pose(self, t: float) -> np.ndarray:
        """global_from_ego [4, 4]: x forward, y left, z up, origin on the ground below the rear axle."""
        s = self.place(t)
        pitch_noise, roll_noise, heave = (self._amplitude * np.sin(self._rate * t + self._phase)).sum(1)
        here = self.road.position(s, self.d)
        ahead = self.road.height(s + HALF_WHEELBASE_M, self.d) - self.road.height(s - HALF_WHEELBASE_M, self.d)
        aside = self.road.height(s, self.d + HALF_GAUGE_M) - self.road.height(s, self.d - HALF_GAUGE_M)
        yaw = float(self.road.heading(s))
        climb = np.arctan2(ahead, 2 * HALF_WHEELBASE_M) + pitch_noise
        lean = np.arctan2(aside, 2 * HALF_GAUGE_M) + roll_noise
        forward = np.array([np.cos(yaw) * np.cos(climb), np.sin(yaw) * np.cos(climb), np.sin(climb)])
        level = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
        left = np.cos(lean) * level + np.sin(lean) * np.cross(forward, level)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([forward, left, np.cross(forward, left)], axis=1)
        pose[:3, 3] = here
        pose[2, 3] += heave
        return pose
