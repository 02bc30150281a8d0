"""Shadows: a depth map from the sun (or from above, under a cloudy sky) around the view."""

from typing import NamedTuple

import numpy as np

from .kernel import kernel
from .materials import Material
from .raster import fill_nearest, project_parallel
from .scene import Snapshot

MAP_CELLS = 512
MAP_HALF_M = 48.0
AHEAD_M = 32.0
"""The map is centred this far in front of the camera."""
BIAS_M = 0.25


class ShadowFrame(NamedTuple):
    """Where a shadow map lies.

    Args:
        rotation: The map's two axes and the direction of light: nine numbers, row by row.
        origin: Centre relative to the camera.
        blur: Radius of the soft edge, in cells.
    """

    rotation: tuple[float, ...]
    origin: tuple[float, float, float]
    blur: float


def build_shadow_map(
    snapshot: Snapshot, sun_direction: np.ndarray, camera: np.ndarray, softness_m: float
) -> tuple[np.ndarray, ShadowFrame]:
    """Shadow map for a camera pose [4, 4]: minus the distance along the light [S, S], -inf where nothing casts."""
    light = -sun_direction
    first = np.cross(light, [0.0, 0.0, 1.0])
    first /= np.linalg.norm(first)
    rotation = np.stack([first, np.cross(light, first), light])
    forward = camera[:3, 2] * [1.0, 1.0, 0.0]
    origin = camera[:3, 3] + AHEAD_M * forward / np.linalg.norm(forward)
    casts = snapshot.material != Material.GROUND
    scale = MAP_CELLS / (2 * MAP_HALF_M)
    screen = project_parallel(snapshot.corners[casts], rotation, origin, scale, MAP_CELLS)
    depth = np.full((MAP_CELLS, MAP_CELLS), -np.inf)
    winner = np.zeros((MAP_CELLS, MAP_CELLS), np.int32)
    fill_nearest(screen, np.zeros(len(screen), np.int32), depth, winner)
    centre = tuple((origin - camera[:3, 3]).tolist())
    axes = tuple(rotation.reshape(-1).tolist())
    return depth.astype(np.float32), ShadowFrame(axes, centre, float(max(softness_m * scale, 0.7)))


@kernel
def lit_share(x: float, y: float, z: float, row: int, column: int, depth: np.ndarray, frame: ShadowFrame) -> float:
    """Share of direct light that reaches a point relative to the camera, from two samples of the blurred edge.

    Where the samples lie changes from pixel to pixel in a 4 x 4 pattern, which the lens's point spread evens out.
    """
    dx, dy, dz = x - frame.origin[0], y - frame.origin[1], z - frame.origin[2]
    axes = frame.rotation
    scale = MAP_CELLS / (2 * MAP_HALF_M)
    u = (axes[0] * dx + axes[1] * dy + axes[2] * dz) * scale + MAP_CELLS / 2
    v = (axes[3] * dx + axes[4] * dy + axes[5] * dz) * scale + MAP_CELLS / 2
    if not (8.0 < u < MAP_CELLS - 8.0 and 8.0 < v < MAP_CELLS - 8.0):
        return 1.0
    own = -(axes[6] * dx + axes[7] * dy + axes[8] * dz) + BIAS_M
    c, s = frame.blur * (0.5 * (column & 3) - 0.75), frame.blur * (0.5 * (row & 3) - 0.75)
    lit = 0.0
    lit += depth[int(v + s), int(u + c)] <= own
    lit += depth[int(v - s), int(u - c)] <= own
    return lit * 0.5
