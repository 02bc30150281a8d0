"""How things move: smooth, exactly differentiable travel along or across the road."""

from dataclasses import dataclass, fields

import numpy as np

from .road import Road


@dataclass(frozen=True)
class Travel:
    """Distance over time of one thing or, with arrays, of N things.

    distance(t) = speed * (t + swing * (sin(rate t + phase) - sin(phase)) / rate) + sway * (same sine of its own)

    With ``swing`` <= 1 the speed never turns negative and touches zero where ``swing`` = 1: stop and go.
    """

    speed: np.ndarray | float = 0.0
    swing: np.ndarray | float = 0.0
    rate: np.ndarray | float = 1.0
    phase: np.ndarray | float = 0.0
    sway: np.ndarray | float = 0.0
    sway_rate: np.ndarray | float = 1.0
    sway_phase: np.ndarray | float = 0.0

    def distance(self, t: float) -> np.ndarray:
        """Metres travelled since t = 0."""
        swing = self.swing * (np.sin(self.rate * t + self.phase) - np.sin(self.phase)) / self.rate
        sway = self.sway * (np.sin(self.sway_rate * t + self.sway_phase) - np.sin(self.sway_phase))
        return self.speed * (t + swing) + sway

    def velocity(self, t: float) -> np.ndarray:
        """Metres per second, the derivative of ``distance``."""
        swing = 1.0 + self.swing * np.cos(self.rate * t + self.phase)
        return self.speed * swing + self.sway * self.sway_rate * np.cos(self.sway_rate * t + self.sway_phase)


@dataclass(frozen=True)
class Track:
    """Where one thing starts on the road, where it faces and how it travels.

    Args:
        s: Start along the road, m.
        d: Start across the road, m.
        turn: Heading relative to the road's, radians.
        along: Change of s per metre travelled: -1, 0 or 1.
        across: Change of d per metre travelled: -1, 0 or 1.
        travel: Distance over time.
        lift: Height of the box's bottom above the ground, m.
    """

    s: float
    d: float
    turn: float = 0.0
    along: float = 0.0
    across: float = 0.0
    travel: Travel = Travel()
    lift: float = 0.0


class Fleet:
    """Tracks of N things, evaluated together."""

    def __init__(self, road: Road, tracks: list[Track]) -> None:
        self.road = road
        self._s, self._d, self._turn, self._along, self._across, self._lift = (
            np.array([getattr(track, name) for track in tracks], float)
            for name in ("s", "d", "turn", "along", "across", "lift")
        )
        columns = ([getattr(track.travel, field.name) for track in tracks] for field in fields(Travel))
        self._travel = Travel(*(np.array(column, float) for column in columns))

    def frenet(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """(s, d), [N] each, at ``t`` seconds."""
        distance = self._travel.distance(t)
        return self._s + self._along * distance, self._d + self._across * distance

    def pose(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Ground points [N, 3] and headings [N] at ``t`` seconds."""
        s, d = self.frenet(t)
        ground = self.road.position(s, d)
        ground[:, 2] += self._lift
        return ground, self.road.heading(s) + self._turn

    def velocity(self, t: float) -> np.ndarray:
        """Global velocities [N, 3] in m/s."""
        s, d = self.frenet(t)
        rate = self._travel.velocity(t)
        return self.road.velocity(s, d, self._along * rate, self._across * rate)
