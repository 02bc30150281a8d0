"""The cameras: rasterise, shade, expose."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from . import lens
from .calibration import RIG, Sensor
from .kernel import kernel
from .materials import Material
from .porous import fill_porous
from .raster import NO_TRIANGLE, fill_nearest, project_perspective
from .scene import Scene, Snapshot
from .semantics import SKY
from .shading import frame_triangles, shade_pixels
from .shadow import build_shadow_map
from .sky import Light
from .textures import NOISE

HOLED = (int(Material.FOLIAGE), int(Material.FENCE))
LAMP_REACH_M = 75.0
HEADLIGHT_EGO = (3.6, 0.0, 0.75)


class CameraFrame(NamedTuple):
    """One picture and its exact labels.

    Args:
        rgb: [H, W, 3] uint8.
        instance: [H, W] int32, 0 where there is no agent.
        semantic: [H, W] uint8, see ``SEMANTICS``.
        depth: [H, W] float32, metres along the optical axis; inf in the sky.
    """

    rgb: np.ndarray
    instance: np.ndarray
    semantic: np.ndarray
    depth: np.ndarray


def render_camera(
    scene: Scene,
    camera_name: str,
    t: float,
    image_size: tuple[int, int] | None = None,
    *,
    rig: Mapping[str, Sensor] = RIG,
) -> CameraFrame:
    """The picture a camera of the rig takes at ``t`` seconds; ``image_size`` defaults to the specification's."""
    width, height = image_size or scene.spec.image_size
    snapshot = scene.snapshot(t)
    ego = scene.ego_pose(t)
    pose = ego @ rig[camera_name].ego_from_sensor
    intrinsics = rig[camera_name].intrinsics_at((width, height))
    key = np.uint64(scene.spec.noise_key(camera_name, t))
    nearest, winner, frames = see_nearest(snapshot, pose, intrinsics, width, height)
    light, lamps = gather_light(scene, ego, pose)
    weather = scene.weather
    shadow, shadow_frame = build_shadow_map(snapshot, weather.sun_direction, pose, weather.shadow_softness_m)
    rotation = np.ascontiguousarray(pose[:3, :3])
    image = shade_pixels(
        nearest, winner, frames, snapshot.colour, snapshot.material, rotation, intrinsics, light, lamps,
        shadow, shadow_frame, *scene.ground_plan, NOISE,
    )  # fmt: skip
    image = expose_through_air(image, scene, pose, intrinsics, winner, key)
    sharpness = 0.52 if weather.rain > 0 else 0.66
    rgb = lens.develop(image, weather.exposure, weather.noise, sharpness, lens.TONE_CURVE, key)
    return CameraFrame(rgb, *label_pixels(nearest, winner, snapshot.instance, snapshot.semantic))


def see_nearest(
    snapshot: Snapshot, pose: np.ndarray, intrinsics: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inverse depth [H, W] and triangle [H, W] of the nearest surface, and the frames [T, 17] of all on the screen."""
    rotation, origin = np.ascontiguousarray(pose[:3, :3]), np.ascontiguousarray(pose[:3, 3])
    toward = np.ascontiguousarray(rotation.T)
    screen, source = project_perspective(snapshot.corners, toward, origin, intrinsics, width, height)
    frames = frame_triangles(snapshot.corners, snapshot.texture, source, origin, rotation)
    nearest = np.zeros((height, width))
    winner = np.full((height, width), NO_TRIANGLE, np.int32)
    porous = np.isin(snapshot.material[source], HOLED)
    fill_nearest(screen[~porous], source[~porous], nearest, winner)
    fill_porous(screen[porous], source[porous], snapshot.material, frames, rotation, intrinsics, NOISE, nearest, winner)
    return nearest, winner, frames


@kernel
def label_pixels(
    nearest: np.ndarray, winner: np.ndarray, instances: np.ndarray, semantics: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Instance, semantic and depth [H, W] from the labels [T] of the triangles."""
    height, width = winner.shape
    instance = np.zeros((height, width), np.int32)
    semantic = np.full((height, width), SKY, np.uint8)
    depth = np.full((height, width), np.inf, np.float32)
    for row in range(height):
        for column in range(width):
            t = winner[row, column]
            if t >= 0:
                instance[row, column], semantic[row, column] = instances[t], semantics[t]
                depth[row, column] = 1.0 / nearest[row, column]
    return instance, semantic, depth


def gather_light(scene: Scene, ego: np.ndarray, pose: np.ndarray) -> tuple[Light, np.ndarray]:
    """Light of the scene as one camera sees it, and the lit street lamps [L, 3] relative to its place."""
    weather = scene.weather
    origin = pose[:3, 3]
    lamps = scene.lamps - origin
    near = lamps[np.hypot(lamps[:, 0], lamps[:, 1]) < LAMP_REACH_M]
    head = ego[:3, :3] @ np.array(HEADLIGHT_EGO) + ego[:3, 3] - origin
    colours = (weather.sun_direction, weather.sun, weather.ambient, weather.zenith, weather.horizon)
    light = Light(
        *(tuple(colour.tolist()) for colour in colours), weather.fog_density, float(weather.cloud), weather.wetness,
        float(weather.name in ("clear", "glare")), weather.lights_on, tuple(head.tolist()),
        tuple((ego[:3, 0] - 0.05 * ego[:3, 2]).tolist()),
    )  # fmt: skip
    return light, np.ascontiguousarray(near if weather.lights_on else near[:0])


def expose_through_air(
    image: np.ndarray, scene: Scene, pose: np.ndarray, intrinsics: np.ndarray, winner: np.ndarray, key: np.uint64
) -> np.ndarray:
    """Effects between the scene and the sensor: glare of the sun, bloom, rain."""
    weather = scene.weather
    if weather.name == "glare":
        add_sun_glare(image, weather.sun_direction, weather.sun, pose, intrinsics, winner)
    if weather.lights_on:
        lens.add_bloom(image, 0.9, 0.55)
    if weather.rain > 0:
        lens.add_streaks(image, weather.rain, key ^ np.uint64(0x51))
        image = lens.add_drops(image, int(24 * weather.rain), np.uint64(scene.spec.noise_key("drops", 0)) ^ key)
    return image


def add_sun_glare(
    image: np.ndarray, direction: np.ndarray, sun: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray,
    winner: np.ndarray,
) -> None:  # fmt: skip
    """Halo around the sun as far as it is not hidden; writes ``image``."""
    height, width = winner.shape
    local = pose[:3, :3].T @ direction
    if local[2] < 0.15:
        return
    x = intrinsics[0, 0] * local[0] / local[2] + intrinsics[0, 2]
    y = intrinsics[1, 1] * local[1] / local[2] + intrinsics[1, 2]
    reach = 0.75 * width
    if not (-0.5 * width < x < 1.5 * width and -height < y < 1.5 * height):
        return
    radius = max(2, width // 60)
    rows = slice(max(0, int(y) - radius), max(0, int(y) + radius))
    columns = slice(max(0, int(x) - radius), max(0, int(x) + radius))
    window = winner[rows, columns]
    shining = float((window == NO_TRIANGLE).mean()) if window.size else 0.6
    lens.add_glare(image, x, y, sun * (0.10 + 0.90 * shining), reach, 0.05)
