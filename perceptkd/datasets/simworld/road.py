"""The street as a curved, sloped ribbon: Frenet frame, height field and cross-section.

Legend: ``s`` metres along the road, ``d`` metres to the left of its centre line, ``h`` height in metres.
"""

from dataclasses import dataclass

import numpy as np

from .spec import WorldSpec

TABLE_STEP_M = 0.1
REACH_M = 150.0
"""How far the road goes on behind the start and beyond the end of the ego car's way."""
EDGE_M = 56.0
"""Lateral end of the modelled ground."""
KERB_M = 0.13
KERB_FACE_M = 0.03


@dataclass(frozen=True)
class Junction:
    """A side street between ``start`` and ``end`` (s) that leaves to the left and/or to the right."""

    start: float
    end: float
    left: bool
    right: bool


@dataclass(frozen=True)
class CrossSection:
    """Widths of the street, metres."""

    lane: float
    lanes_per_side: int
    parking_left: float
    parking_right: float
    walk: float

    @property
    def lanes(self) -> float:
        """Half width of the driven lanes."""
        return self.lane * self.lanes_per_side

    def kerb(self, side: int) -> float:
        """|d| of the kerb on the left (+1) or right (-1)."""
        return self.lanes + (self.parking_left if side > 0 else self.parking_right)

    def walk_end(self, side: int) -> float:
        """|d| of the far edge of the sidewalk."""
        return self.kerb(side) + self.walk


@dataclass(frozen=True)
class Wave:
    """A sum of sines over s: ``sum(amplitude * sin(2 pi s / length + phase))``."""

    amplitude: np.ndarray
    length: np.ndarray
    phase: np.ndarray

    def __call__(self, s: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * np.asarray(s, float)[..., None] / self.length + self.phase
        return (self.amplitude * np.sin(angle)).sum(-1)

    def slope(self, s: np.ndarray) -> np.ndarray:
        """Derivative over s."""
        rate = 2 * np.pi / self.length
        angle = rate * np.asarray(s, float)[..., None] + self.phase
        return (self.amplitude * rate * np.cos(angle)).sum(-1)


def _wave(rng: np.random.Generator, terms: list[tuple[float, float]]) -> Wave:
    """Wave of (steepest slope, mean length) terms, each varied by the stream."""
    length = np.array([length * rng.uniform(0.8, 1.25) for _, length in terms])
    slope = np.array([slope * rng.uniform(0.6, 1.0) for slope, _ in terms])
    return Wave(slope * length / (2 * np.pi), length, rng.uniform(0, 2 * np.pi, len(terms)))


class Road:
    """The street of one scene.

    Args:
        spec: Scene specification.
        way_m: Metres the ego car drives.
    """

    def __init__(self, spec: WorldSpec, way_m: float) -> None:
        rng = spec.stream("road")
        self.s_min, self.s_max = -REACH_M, way_m + REACH_M
        self.left_hand_traffic = bool(rng.random() < 0.4)
        self.section = CrossSection(
            lane=rng.uniform(3.2, 3.6),
            lanes_per_side=1 if rng.random() < 0.55 else 2,
            parking_left=2.3 if rng.random() < 0.75 else 0.0,
            parking_right=2.3 if rng.random() < 0.75 else 0.0,
            walk=rng.uniform(2.6, 4.2),
        )
        self._base_heading = rng.uniform(0, 2 * np.pi)
        self._turn = _wave(rng, [(0.0095, 320.0), (0.003, 130.0)])
        self._hill = _wave(rng, [(0.055, 210.0), (0.022, 75.0), (0.008, 11.0)])
        self._bank = _wave(rng, [(0.0012, 140.0), (0.0010, 60.0)])
        self._rise_left = _wave(rng, [(0.004, 120.0)])
        self._rise_right = _wave(rng, [(0.004, 120.0)])
        self._lift = rng.uniform(-0.02, 0.07, 2)
        self._build_table(np.array([rng.uniform(500, 1500), rng.uniform(500, 1500)]))
        self.junctions = self._place_junctions(rng)
        self.crossings = self._place_crossings(rng)
        self.stops = self._place_stops(rng)

    def _build_table(self, origin: np.ndarray) -> None:
        count = round((self.s_max - self.s_min) / TABLE_STEP_M)
        self._s = self.s_min + TABLE_STEP_M * np.arange(count + 1)
        middle = self.heading(self._s[:-1] + TABLE_STEP_M / 2)
        steps = TABLE_STEP_M * np.stack([np.cos(middle), np.sin(middle)], -1)
        self._xy = origin + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])

    def _place_junctions(self, rng: np.random.Generator) -> tuple[Junction, ...]:
        junctions, s = [], self.s_min + rng.uniform(20, 60)
        while s < self.s_max - 30:
            width = float(rng.choice([7.5, 9.0, 10.5]))
            start = round(s / 1.5) * 1.5
            sides = [(True, True), (True, False), (False, True)][rng.integers(3)]
            junctions.append(Junction(start, start + width, *sides))
            s += rng.uniform(75, 130)
        return tuple(junctions)

    def _place_crossings(self, rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
        """Zebra crossings as (start, end) in s, before or behind junctions."""
        crossings = []
        for junction in self.junctions:
            if rng.random() < 0.75:
                crossings.append((junction.start - 4.5, junction.start - 1.0))
            if rng.random() < 0.5:
                crossings.append((junction.end + 1.0, junction.end + 4.5))
        return tuple(crossings)

    def _place_stops(self, rng: np.random.Generator) -> tuple[tuple[float, int], ...]:
        """Bus shelters as (s, side: left +1, right -1)."""
        stops = []
        for side in (1, -1):
            for start in np.arange(self.s_min + 30, self.s_max - 70, 95.0):
                s = float(start + rng.uniform(0, 40))
                joins = [(j.start, j.end) for j in self.junctions if (j.left if side > 0 else j.right)]
                if not any(a - 6 < s < b + 6 for a, b in [*joins, *self.crossings]):
                    stops.append((s, side))
        return tuple(stops)

    def heading(self, s: np.ndarray) -> np.ndarray:
        """Direction of the centre line, radians."""
        return self._base_heading + self._turn(s)

    def curvature(self, s: np.ndarray) -> np.ndarray:
        """d heading / d s, 1/m; positive turns left."""
        return self._turn.slope(s)

    def kerb_height(self, s: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Height of the kerb: lowered to nothing where a side street joins."""
        s = np.asarray(s, float)
        height = np.full(np.broadcast(s, side).shape, KERB_M)
        for junction in self.junctions:
            joins = np.where(np.asarray(side) > 0, junction.left, junction.right)
            gap = np.maximum(np.maximum(junction.start - s, s - junction.end), 0.0)
            height = np.where(joins, np.minimum(height, KERB_M * np.minimum(gap / 1.5, 1.0)), height)
        return height

    def height(self, s: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Height of the ground."""
        s, d = np.asarray(s, float), np.asarray(d, float)
        side = np.where(d >= 0, 1, -1)
        kerb_at = np.where(side > 0, self.section.kerb(1), self.section.kerb(-1))
        beyond = np.maximum(np.abs(d) - kerb_at, 0.0)
        step = self.kerb_height(s, side) * np.minimum(beyond / KERB_FACE_M, 1.0)
        field = np.maximum(beyond - self.section.walk - 1.0, 0.0)
        rise = np.where(side > 0, self._rise_left(s) + self._lift[0], self._rise_right(s) + self._lift[1])
        camber = -0.015 * np.minimum(np.abs(d), kerb_at)
        return self._hill(s) + self._bank(s) * np.clip(d, -14, 14) + camber + step + rise * field

    def position(self, s: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Global point [..., 3] on the ground."""
        s, d = np.broadcast_arrays(np.asarray(s, float), np.asarray(d, float))
        heading = self.heading(s)
        x = np.interp(s, self._s, self._xy[:, 0]) - d * np.sin(heading)
        y = np.interp(s, self._s, self._xy[:, 1]) + d * np.cos(heading)
        return np.stack([x, y, self.height(s, d)], -1)

    def velocity(self, s: np.ndarray, d: np.ndarray, s_rate: np.ndarray, d_rate: np.ndarray) -> np.ndarray:
        """Global velocity [..., 3] of a point that moves with the given rates along s and d, m/s."""
        heading = self.heading(s)
        along = np.asarray(s_rate) * (1.0 - self.curvature(s) * d)
        x = along * np.cos(heading) - d_rate * np.sin(heading)
        y = along * np.sin(heading) + d_rate * np.cos(heading)
        eps = 1e-3
        z = (self.height(s + eps * s_rate, d + eps * d_rate) - self.height(s - eps * s_rate, d - eps * d_rate)) / (
            2 * eps
        )
        return np.stack([x, y, z], -1)

    def locate(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(s, d) of global points [N, 2] within ``EDGE_M`` of the road."""
        xy = np.atleast_2d(np.asarray(xy, float))
        coarse = self._xy[::20]
        nearest = np.argmin(((xy[:, None] - coarse) ** 2).sum(-1), axis=1)
        s = self._s[::20][nearest]
        for _ in range(8):
            heading = self.heading(s)
            offset = xy - self.position(s, 0.0)[:, :2]
            along = offset[:, 0] * np.cos(heading) + offset[:, 1] * np.sin(heading)
            d = -offset[:, 0] * np.sin(heading) + offset[:, 1] * np.cos(heading)
            s = np.clip(s + along / np.maximum(1.0 - self.curvature(s) * d, 0.2), self.s_min, self.s_max)
        return s, d
