"""The LiDAR: beams turned through 360 degrees, with noise, lost returns and rain.

Rays are cast by visiting, per triangle, only the beams and azimuths it can cover: an exact nearest hit for every ray.

Legend: B beams, A azimuths, T triangles, N points.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .calibration import LIDAR, RIG, Sensor
from .counter import normal, uniform
from .kernel import inlined_kernel, kernel
from .lidar_model import LidarModel
from .materials import LOSS, POROSITY, REFLECTANCE
from .scene import Scene, Snapshot
from .semantics import VOID

NEAREST_M = 1.0
RANGE_NOISE_M = 0.02
DROP_OUT = 0.03
FAINTEST = 0.035
"""Share of a pulse that is always detected at close range; weaker returns are lost in proportion."""
LOW_M, LOW_LOSS = 0.35, 0.65
"""Returns of an object's lowest part drown in those of the ground."""
RAIN_RETURNS = 0.02


class LidarSweep(NamedTuple):
    """One revolution.

    Args:
        points: [N, 5] float32 (x, y, z, intensity, ring) in the sensor frame.
        instance_id: [N] int32, 0 for the street.
        semantic: [N] uint8, see ``SEMANTICS``; void for rain.
        material: [N] uint8, see ``Material``; means nothing where the semantic is void.
    """

    points: np.ndarray
    instance_id: np.ndarray
    semantic: np.ndarray
    material: np.ndarray


def cast_lidar(scene: Scene, t: float, *, rig: Mapping[str, Sensor] = RIG) -> LidarSweep:
    """The sweep that the rig's LiDAR takes at ``t`` seconds, as if at one instant."""
    lidar = rig[LIDAR].lidar
    snapshot = scene.snapshot(t, lidar.sight_m)
    pose = scene.ego_pose(t) @ rig[LIDAR].ego_from_sensor
    key = np.uint64(scene.spec.noise_key("lidar", t))
    distance, winner, facing = trace_rays(snapshot.corners, snapshot.material, pose, lidar, POROSITY, key)
    weather = scene.weather
    points, hit = collect_returns(
        distance, winner, facing, snapshot.material, snapshot.floor, pose, lidar, REFLECTANCE, LOSS,
        weather.rain, weather.lidar_loss, key,
    )  # fmt: skip
    return LidarSweep(points, *label_hits(snapshot, hit))


def label_hits(snapshot: Snapshot, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Instance, semantic and material of triangles [N]; a negative index is rain."""
    solid = hit >= 0
    instance = np.where(solid, snapshot.instance[hit], 0)
    semantic = np.where(solid, snapshot.semantic[hit], VOID)
    return instance.astype(np.int32), semantic.astype(np.uint8), snapshot.material[hit]


@kernel
def trace_rays(
    corners: np.ndarray,
    material: np.ndarray,
    pose: np.ndarray,
    lidar: LidarModel,
    porosity: np.ndarray,
    key: np.uint64,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest hit of every ray.

    Args:
        corners: [T, 3, 3] global.
        material: [T].
        pose: global_from_sensor [4, 4].
        lidar: Its beams.
        porosity: Probability by material that a ray passes through.
        key: Noise key.

    Returns:
        Distance in metres (inf where nothing is hit), triangle (-1) and |cos| of incidence, each [B, A].
    """
    shape = lidar.directions.shape[:2]
    distance = np.full(shape, np.inf)
    winner = np.full(shape, -1, np.int32)
    facing = np.zeros(shape)
    local = np.empty((3, 3))
    for t in range(len(corners)):
        for k in range(3):
            dx = corners[t, k, 0] - pose[0, 3]
            dy = corners[t, k, 1] - pose[1, 3]
            dz = corners[t, k, 2] - pose[2, 3]
            for axis in range(3):
                local[k, axis] = pose[0, axis] * dx + pose[1, axis] * dy + pose[2, axis] * dz
        _visit_triangle(local, t, porosity[material[t]], key, lidar, distance, winner, facing)
    return distance, winner, facing


@kernel
def _visit_triangle(
    local: np.ndarray, t: int, pores: float, key: np.uint64, lidar: LidarModel, distance: np.ndarray,
    winner: np.ndarray, facing: np.ndarray,
) -> None:  # fmt: skip
    """Intersect one triangle [3, 3] in the sensor frame with the rays it can meet.

    A ray d meets it where the three volumes d . (p x q) over its edges have one sign; its distance is the triangle's
    own volume over their sum.
    """
    beams, azimuths = distance.shape
    first, last, low, high = _window(local, lidar.elevations_deg, azimuths, lidar.range_m)
    c0, c1, c2 = _cross(local[1], local[2]), _cross(local[2], local[0]), _cross(local[0], local[1])
    volume = local[0, 0] * c0[0] + local[0, 1] * c0[1] + local[0, 2] * c0[2]
    nx, ny, nz = c0[0] + c1[0] + c2[0], c0[1] + c1[1] + c2[1], c0[2] + c1[2] + c2[2]
    doubled_area = np.sqrt(nx * nx + ny * ny + nz * nz)
    if low > high or doubled_area == 0.0:
        return
    for column in range(first, last + 1):
        azimuth = column % azimuths
        for beam in range(low, high + 1):
            ray = lidar.directions[beam, azimuth]
            x, y, z = ray[0], ray[1], ray[2]
            w0 = c0[0] * x + c0[1] * y + c0[2] * z
            w1 = c1[0] * x + c1[1] * y + c1[2] * z
            w2 = c2[0] * x + c2[1] * y + c2[2] * z
            total = w0 + w1 + w2
            if total == 0.0 or not ((w0 >= 0 and w1 >= 0 and w2 >= 0) or (w0 <= 0 and w1 <= 0 and w2 <= 0)):
                continue
            metres = volume / total
            if metres < NEAREST_M or metres >= distance[beam, azimuth] or metres > lidar.range_m:
                continue
            if pores > 0.0 and uniform(key, np.uint64((t * beams + beam) * azimuths + azimuth)) < pores:
                continue
            distance[beam, azimuth] = metres
            winner[beam, azimuth] = t
            facing[beam, azimuth] = abs(total) / doubled_area


@inlined_kernel
def _cross(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@kernel
def _window(local: np.ndarray, elevations_deg: np.ndarray, azimuths: int, range_m: float) -> tuple[int, int, int, int]:
    """Columns (first, last) and beams (low, high) a triangle [3, 3] can cover; low > high when none."""
    nearest, farthest = _horizontal_range(local)
    if nearest > range_m:
        return 0, -1, 0, -1
    lowest, highest = min(local[0, 2], local[1, 2], local[2, 2]), max(local[0, 2], local[1, 2], local[2, 2])
    bottom = np.arctan2(lowest, nearest if lowest < 0 else farthest)
    top = np.arctan2(highest, nearest if highest > 0 else farthest)
    low = np.searchsorted(elevations_deg, np.degrees(bottom) - 1e-9)
    high = np.searchsorted(elevations_deg, np.degrees(top) + 1e-9, side="right") - 1
    if low > high:
        return 0, -1, 0, -1
    start = np.arctan2(local[0, 1], local[0, 0])
    left, right = 0.0, 0.0
    for k in (1, 2):
        turn = np.arctan2(local[k, 1], local[k, 0]) - start
        if turn > np.pi:
            turn -= 2 * np.pi
        elif turn < -np.pi:
            turn += 2 * np.pi
        left, right = max(left, turn), min(right, turn)
    if nearest == 0.0 or left - right > np.pi:
        return 0, azimuths - 1, low, high
    per_radian = azimuths / (2 * np.pi)
    first = int(np.ceil(-(start + left) * per_radian - 1e-9)) + azimuths
    last = int(np.floor(-(start + right) * per_radian + 1e-9)) + azimuths
    return first, last, low, high


@kernel
def _horizontal_range(local: np.ndarray) -> tuple[float, float]:
    """Smallest and largest horizontal distance of a triangle from the sensor's axis; 0 when it encloses the axis."""
    nearest, farthest = np.inf, 0.0
    positive, negative = 0, 0
    for k in range(3):
        ax, ay = local[k, 0], local[k, 1]
        bx, by = local[(k + 1) % 3, 0] - ax, local[(k + 1) % 3, 1] - ay
        length = bx * bx + by * by
        share = 0.0 if length == 0.0 else min(max(-(ax * bx + ay * by) / length, 0.0), 1.0)
        nearest = min(nearest, np.hypot(ax + share * bx, ay + share * by))
        farthest = max(farthest, np.hypot(ax, ay))
        side = ax * by - ay * bx
        positive += side > 0
        negative += side < 0
    if positive == 3 or negative == 3:
        nearest = 0.0
    return nearest, farthest


@kernel
def collect_returns(
    distance: np.ndarray, winner: np.ndarray, facing: np.ndarray, material: np.ndarray, floor: np.ndarray,
    pose: np.ndarray, lidar: LidarModel, reflectance: np.ndarray, loss: np.ndarray, rain: float,
    loss_per_10m: float, key: np.uint64,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Points that come back.

    Args:
        distance: [B, A] metres.
        winner: [B, A] triangle, -1 for none.
        facing: [B, A] |cos| of incidence.
        material: [T].
        floor: [T] global height of the ground below an agent's triangle, -inf for the street.
        pose: global_from_sensor [4, 4].
        lidar: Its beams, reach and intensities.
        reflectance: Share sent back, by material.
        loss: Probability of loss, by material.
        rain: Rain in the air, 0..1.
        loss_per_10m: Extra loss by the air.
        key: Noise key.

    Returns:
        Points [N, 5] in the sensor frame and the triangle [N] of each (-1: rain).
    """
    beams, azimuths = distance.shape
    points = np.empty((beams * azimuths, 5), np.float32)
    hit = np.empty(beams * azimuths, np.int32)
    count = 0
    for azimuth in range(azimuths):
        for beam in range(beams):
            ray = np.uint64(beam * azimuths + azimuth)
            metres, t = distance[beam, azimuth], winner[beam, azimuth]
            direction = lidar.directions[beam, azimuth]
            x, y, z = direction[0], direction[1], direction[2]
            echo = 0.0
            if t >= 0:
                above = (pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z) * metres + pose[2, 3] - floor[t]
                share = reflectance[material[t]] * (0.25 + 0.75 * facing[beam, azimuth])
                arrives = _arrival(share, metres / lidar.half_strength_m, above) * (1.0 - loss[material[t]])
                arrives *= (1.0 - loss_per_10m) ** (metres / 10.0)
                if uniform(key ^ np.uint64(0xD1), ray) < arrives:
                    echo = share
            if echo == 0.0 and rain > 0.0 and uniform(key ^ np.uint64(0xA7), ray) < RAIN_RETURNS * rain:
                metres, echo, t = 1.5 + 9.0 * uniform(key ^ np.uint64(0xB3), ray) ** 2, 0.02, -1
            if echo == 0.0:
                continue
            metres += RANGE_NOISE_M * normal(key ^ np.uint64(0xC5), ray)
            points[count, 0], points[count, 1], points[count, 2] = x * metres, y * metres, z * metres
            level = lidar.intensity_gain * echo * (0.85 + 0.3 * uniform(key ^ np.uint64(0xE9), ray))
            points[count, 3] = np.floor(min(lidar.intensity_max, level) / lidar.intensity_step) * lidar.intensity_step
            points[count, 4] = beam
            hit[count] = t
            count += 1
    return points[:count].copy(), hit[:count].copy()


@inlined_kernel
def _arrival(share: float, reach: float, above: float) -> float:
    """Probability that a return is detected: falls with range and, close to the ground, with height.

    ``reach`` is the distance over the one at half strength.
    """
    strength = share / (1.0 + reach**4)
    arrives = (1.0 - DROP_OUT) * min(1.0, strength / FAINTEST)
    if above < LOW_M:
        arrives *= 1.0 - LOW_LOSS * (1.0 - max(above, 0.0) / LOW_M)
    return arrives
