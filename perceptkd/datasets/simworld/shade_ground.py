"""Looks of the ground: asphalt, paint, kerbs, slabs, grass, from road coordinates."""

from typing import NamedTuple

import numpy as np

from .kernel import inlined_kernel, kernel
from .road import Road
from .textures import cell_hash, cover, noise_at, stripes, visible

STRIP_STEP_M = 0.25
OPEN_LEFT, OPEN_RIGHT, JUNCTION, ZEBRA, STOP_LEFT, STOP_RIGHT, BESIDE_LEFT, BESIDE_RIGHT = (1 << k for k in range(8))


class GroundPlan(NamedTuple):
    """What the ground shader knows of the road; lengths in metres.

    Args:
        start: s of the first entry of the tables.
        lane: Lane width.
        lanes: Half width of the lanes.
        kerb_left: Kerb at +d.
        kerb_right: Kerb at -d.
        walk: Width of the sidewalk.
        yellow: 1 where opposing lanes are parted by a yellow double line, 0 by a white dashed one.
        paved: 1 where the land beyond is paved, 0 grass.
    """

    start: float
    lane: float
    lanes: float
    kerb_left: float
    kerb_right: float
    walk: float
    yellow: float
    paved: float


def plan_ground(road: Road, *, paved: bool) -> tuple[GroundPlan, np.ndarray, np.ndarray]:
    """The plan and two tables with an entry per ``STRIP_STEP_M`` along the road.

    Returns:
        The plan, flags [R] uint8 of what is there, and s [R] of the middle of a side street.
    """
    s = np.arange(road.s_min, road.s_max + 2.0, STRIP_STEP_M) + STRIP_STEP_M / 2
    flags, middle = np.zeros(len(s), np.uint8), np.zeros(len(s))
    for j in road.junctions:
        within = (s > j.start) & (s < j.end)
        beside = (s > j.start - 3.0) & (s < j.end + 3.0) & ~within
        flags[within] |= JUNCTION | (OPEN_LEFT if j.left else 0) | (OPEN_RIGHT if j.right else 0)
        flags[beside] |= (BESIDE_LEFT if j.left else 0) | (BESIDE_RIGHT if j.right else 0)
        middle[within] = (j.start + j.end) / 2
        before, after = (s > j.start - 6.2) & (s < j.start - 5.7), (s > j.end + 5.7) & (s < j.end + 6.2)
        flags[before] |= STOP_LEFT if road.left_hand_traffic else STOP_RIGHT
        flags[after] |= STOP_RIGHT if road.left_hand_traffic else STOP_LEFT
    for start, end in road.crossings:
        flags[(s > start) & (s < end)] |= ZEBRA
    section = road.section
    plan = GroundPlan(road.s_min, section.lane, section.lanes, section.kerb(1), section.kerb(-1), section.walk,
                      float(not road.left_hand_traffic), float(paved))  # fmt: skip
    return plan, flags, middle


@inlined_kernel
def shade_ground(
    s: float,
    d: float,
    fs: float,
    fd: float,
    plan: GroundPlan,
    table: np.ndarray,
    middles: np.ndarray,
    wetness: float,
    noise: np.ndarray,
) -> tuple[float, float, float, float]:
    """Albedo (r, g, b) and mirror share of the ground at road coordinates (s, d)."""
    at = min(max(int((s - plan.start) / STRIP_STEP_M), 0), len(table) - 1)
    flags = table[at]
    left = d > 0
    across = abs(d)
    kerb = plan.kerb_left if left else plan.kerb_right
    opens = (flags & (OPEN_LEFT if left else OPEN_RIGHT)) != 0
    beside = (flags & (BESIDE_LEFT if left else BESIDE_RIGHT)) != 0
    if across < kerb or opens:
        return _asphalt(s, d, fs, fd, plan, flags, middles[at], opens and across >= kerb, wetness, noise)
    if across < kerb + 0.16:
        joint = 1.0 - 0.3 * stripes(s, 1.0, 0.03, fs)
        grey = (0.34 + 0.08 * noise_at(noise, s * 9, d * 9)) * joint * (1 - 0.4 * wetness)
        return grey, grey, grey * 0.97, 0.03 * wetness
    if across < kerb + plan.walk or beside:
        return _slabs(s, d, fs, fd, wetness, noise)
    return _land(s, d, fs, fd, plan.paved, wetness, noise)


@kernel
def _asphalt(
    s: float, d: float, fs: float, fd: float, plan: GroundPlan, flags: int, middle: float, side_street: bool,
    wetness: float, noise: np.ndarray,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Worn asphalt with patches, cracks, manholes and paint."""
    f = max(fs, fd)
    broad = noise_at(noise, s * 0.7, d * 1.6)
    grey = 0.105 + 0.045 * (broad - 0.5) + 0.05 * visible(0.05, f) * (noise_at(noise, s * 37, d * 37) - 0.5)
    track = abs(abs(d) % plan.lane - plan.lane * 0.5)
    grey *= 1.0 - 0.14 * cover(track - 0.8, 0.35, 0.4 + fd)
    a, b = int(np.floor(s / 9.0)), int(np.floor(d / 2.9))
    patch = cell_hash(a, b)
    if patch < 0.10:
        inside = cover((s / 9.0 - a - 0.5) * 9.0, 1.5 + 25.0 * patch, fs) * cover((d / 2.9 - b - 0.5) * 2.9, 1.1, fd)
        grey *= 1.0 - 0.32 * inside
    elif patch > 0.90:
        distance = np.hypot((s / 9.0 - a - 0.5) * 9.0, (d / 2.9 - b - 0.5) * 2.9)
        grey *= 1.0 - 0.45 * cover(distance, 0.34, f)
    crack = abs(noise_at(noise, s * 1.3 + 70, d * 1.3) - 0.5)
    grey *= 1.0 - 0.4 * visible(0.12, f) * cover(crack, 0.012, 0.02)
    white, yellow = _road_paint(s, d, fs, fd, plan, flags, middle, side_street)
    wear = min(1.0, 0.55 + 0.75 * noise_at(noise, s * 5, d * 11))
    white, yellow = white * wear, yellow * wear
    r = grey + white * (0.62 - grey) + yellow * (0.60 - grey)
    g = grey + white * (0.62 - grey) + yellow * (0.42 - grey)
    b_ = grey * 1.02 + white * (0.60 - grey) + yellow * (0.06 - grey)
    puddle = min(1.0, max(0.0, 3.0 * (noise_at(noise, s * 1.1, d * 2.1 + 40) - 0.55)))
    dark = 1.0 - wetness * (0.35 + 0.15 * puddle)
    return r * dark, g * dark, b_ * dark, wetness * (0.045 + 0.12 * puddle)


@kernel
def _road_paint(
    s: float, d: float, fs: float, fd: float, plan: GroundPlan, flags: int, middle: float, side_street: bool
) -> tuple[float, float]:
    """Coverage by (white, yellow) paint."""
    across = abs(d)
    if side_street:
        return cover(s - middle, 0.07, fs) * stripes(d, 6.0, 3.0, fd), 0.0
    if flags & ZEBRA:
        return stripes(d, 1.0, 0.5, fd), 0.0
    if flags & JUNCTION:
        return 0.0, 0.0
    if (flags & STOP_LEFT and 0.2 < d < plan.lanes) or (flags & STOP_RIGHT and -plan.lanes < d < -0.2):
        return 1.0, 0.0
    white, yellow = 0.0, 0.0
    if plan.yellow > 0:
        yellow = min(1.0, cover(across - 0.13, 0.06, fd))
    else:
        white = cover(d, 0.07, fd) * stripes(s, 9.0, 4.0, fs)
    if plan.lanes > 1.5 * plan.lane:
        white += cover(across - plan.lane, 0.06, fd) * stripes(s, 9.0, 3.0, fs)
    kerb = plan.kerb_left if d > 0 else plan.kerb_right
    if kerb > plan.lanes + 0.5:
        white += cover(across - plan.lanes, 0.05, fd)
        if across > plan.lanes:
            white += stripes(s, 6.6, 0.10, fs)
    else:
        white += 0.8 * cover(across - plan.lanes + 0.3, 0.05, fd)
    return min(white, 1.0), yellow


@kernel
def _slabs(
    s: float, d: float, fs: float, fd: float, wetness: float, noise: np.ndarray
) -> tuple[float, float, float, float]:
    """Concrete slabs of the sidewalk."""
    tone = cell_hash(int(np.floor(s / 1.2)), int(np.floor(d / 1.2))) - 0.5
    grey = 0.30 + 0.05 * tone * visible(1.2, max(fs, fd)) + 0.07 * (noise_at(noise, s * 2.3, d * 2.3) - 0.5)
    grey += 0.04 * visible(0.05, max(fs, fd)) * (noise_at(noise, s * 31, d * 31) - 0.5)
    joint = max(stripes(s, 1.2, 0.025, fs), stripes(d, 1.2, 0.025, fd))
    grey *= (1.0 - 0.45 * joint) * (1.0 - 0.40 * wetness)
    return grey, grey * 0.97, grey * 0.92, 0.05 * wetness


@kernel
def _land(
    s: float, d: float, fs: float, fd: float, paved: float, wetness: float, noise: np.ndarray
) -> tuple[float, float, float, float]:
    """Grass with bare earth, or a paved yard."""
    f = max(fs, fd)
    broad = noise_at(noise, s * 0.9, d * 0.9)
    fine = noise_at(noise, s * 17, d * 17) - 0.5
    dark = 1.0 - 0.3 * wetness
    if paved > 0:
        grey = (0.20 + 0.08 * (broad - 0.5) + 0.06 * fine * visible(0.12, f)) * dark
        return grey, grey * 0.98, grey * 0.94, 0.04 * wetness
    earth = min(1.0, max(0.0, 3.0 * (broad - 0.68)))
    blade = 1.0 + 0.8 * fine * visible(0.12, f) + 0.5 * (noise_at(noise, s * 4, d * 4) - 0.5)
    r = (0.075 + 0.10 * earth) * blade
    g = (0.120 + 0.01 * earth) * blade
    b = (0.030 + 0.04 * earth) * blade
    return r * dark, g * dark, b * dark, 0.0
