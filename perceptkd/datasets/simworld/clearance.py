"""Who may stand where: keeps every pair of boxes apart at every instant."""

import numpy as np

from .motion import Fleet, Track
from .road import Road

SAMPLE_S = 0.1


class Clearance:
    """Footprints of all accepted tracks over the whole scene.

    Args:
        road: The street.
        duration_s: Seconds to keep apart.
        margin_m: Least gap along and across; fast crossing things move up to a metre between samples.
    """

    def __init__(self, road: Road, duration_s: float, *, margin_m: float = 0.3) -> None:
        self.road = road
        self.times = np.arange(0.0, duration_s + SAMPLE_S, SAMPLE_S)
        self.margin_m = margin_m
        self._centres: list[np.ndarray] = []
        self._halves: list[tuple[float, float]] = []
        self._yaws: list[np.ndarray] = []

    def admit(self, track: Track, length: float, width: float, *, margin_m: float = 0.0) -> bool:
        """Accept a track if its footprint never comes near another one and never leaves the road's ends."""
        path = self._follow(track)
        if path is None:
            return False
        centre, yaw = path
        grown = self.margin_m + margin_m
        half = (length / 2 + grown, width / 2 + grown)
        if self._centres and self._touches(centre, yaw, half):
            return False
        self.reserve(centre, yaw, length, width)
        return True

    def reserve(self, centre: np.ndarray, yaw: np.ndarray, length: float, width: float) -> None:
        """Occupy a footprint over time without a check; ``centre`` [N, 2], ``yaw`` [N] at ``times``."""
        self._centres.append(centre)
        self._yaws.append(yaw)
        self._halves.append((length / 2, width / 2))

    def _follow(self, track: Track) -> tuple[np.ndarray, np.ndarray] | None:
        fleet = Fleet(self.road, [track])
        s, d = fleet.frenet(self.times)
        if s.min() < self.road.s_min + 12 or s.max() > self.road.s_max - 12:
            return None
        s, d = np.broadcast_to(s, self.times.shape), np.broadcast_to(d, self.times.shape)
        return self.road.position(s, d)[:, :2], self.road.heading(s) + track.turn

    def _touches(self, centre: np.ndarray, yaw: np.ndarray, half: tuple[float, float]) -> bool:
        """Separating-axis test of one footprint against all others, at all times at once."""
        offset = np.stack(self._centres) - centre
        halves = np.array(self._halves)
        reach = np.hypot(*half) + np.hypot(halves[:, 0], halves[:, 1])
        close = (offset**2).sum(-1) < reach[:, None] ** 2
        other, when = np.nonzero(close)
        if not len(other):
            return False
        gap = offset[other, when]
        turn = np.stack(self._yaws)[other, when]
        apart = np.zeros(len(other), bool)
        a, b = _axes(yaw[when]), _axes(turn)
        for axes in (a, b):
            for k in range(2):
                axis = axes[:, k]
                mine = sum(half[i] * np.abs((a[:, i] * axis).sum(-1)) for i in range(2))
                theirs = sum(halves[other, i] * np.abs((b[:, i] * axis).sum(-1)) for i in range(2))
                apart |= np.abs((gap * axis).sum(-1)) > mine + theirs
        return not apart.all()


def _axes(yaw: np.ndarray) -> np.ndarray:
    """Unit vectors along and across [N, 2, 2]."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], 1)
