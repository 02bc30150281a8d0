"""Deferred shading: colour of every pixel from the triangle it shows.

Legend: T triangles, H x W pixels. Positions are relative to the camera, directions global.
"""

import numpy as np

from .kernel import inlined_kernel, kernel
from .materials import Material
from .shade_ground import GroundPlan, shade_ground
from .shade_surfaces import shade_surface
from .shadow import ShadowFrame, lit_share
from .sky import Light, mirrored, sky_colour

_GROUND, _FOLIAGE = int(Material.GROUND), int(Material.FOLIAGE)


@kernel
def frame_triangles(
    corners: np.ndarray, texture: np.ndarray, source: np.ndarray, origin: np.ndarray, rotation: np.ndarray
) -> np.ndarray:
    """Affine frames [T, 17] of the triangles in ``source``; ``rotation`` is global_from_camera.

    Columns: normal towards the camera (3), gradient of u (3), u at the camera's origin, gradient of v (3), v there,
    then the parts of the normal, of u's and of v's gradient along the image's two axes (2 each).
    """
    frames = np.zeros((len(corners), 17))
    a, b = np.empty(3), np.empty(3)
    for m in range(len(source)):
        t = source[m]
        for axis in range(3):
            a[axis] = corners[t, 1, axis] - corners[t, 0, axis]
            b[axis] = corners[t, 2, axis] - corners[t, 0, axis]
        nx, ny, nz = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
        square = nx * nx + ny * ny + nz * nz
        if square == 0.0:
            continue
        px, py, pz = corners[t, 0, 0] - origin[0], corners[t, 0, 1] - origin[1], corners[t, 0, 2] - origin[2]
        sign = -1.0 if nx * px + ny * py + nz * pz > 0 else 1.0
        scale = sign / np.sqrt(square)
        frames[t, 0], frames[t, 1], frames[t, 2] = nx * scale, ny * scale, nz * scale
        for k in range(2):
            da = (texture[t, 1, k] - texture[t, 0, k]) / square
            db = (texture[t, 2, k] - texture[t, 0, k]) / square
            # gradient = (da * (b x n) + db * (n x a)) / |n|^2
            gx = da * (b[1] * nz - b[2] * ny) + db * (ny * a[2] - nz * a[1])
            gy = da * (b[2] * nx - b[0] * nz) + db * (nz * a[0] - nx * a[2])
            gz = da * (b[0] * ny - b[1] * nx) + db * (nx * a[1] - ny * a[0])
            column = 3 + 4 * k
            frames[t, column], frames[t, column + 1], frames[t, column + 2] = gx, gy, gz
            frames[t, column + 3] = texture[t, 0, k] - (gx * px + gy * py + gz * pz)
        for k in range(3):
            at = 4 * k - (k > 0)
            for axis in range(2):
                for i in range(3):
                    frames[t, 11 + 2 * k + axis] += frames[t, at + i] * rotation[i, axis]
    return frames


@kernel
def shade_pixels(
    nearest: np.ndarray, winner: np.ndarray, frames: np.ndarray, colour: np.ndarray, material: np.ndarray,
    rotation: np.ndarray, intrinsics: np.ndarray, light: Light, lamps: np.ndarray, shadow: np.ndarray,
    shadow_frame: ShadowFrame, plan: GroundPlan, flags: np.ndarray, middles: np.ndarray, noise: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Linear radiance [H, W, 3] float32.

    Args:
        nearest: [H, W] inverse depth.
        winner: [H, W] triangle, -1 in the sky.
        frames: [T, 17], see ``frame_triangles``.
        colour: [T, 3] albedo.
        material: [T].
        rotation: [3, 3] global_from_camera.
        intrinsics: [3, 3].
        light: Light and air.
        lamps: [L, 3] lit street lamps nearby.
        shadow: [S, S] shadow map.
        shadow_frame: Where it lies.
        plan: Road for the ground shader.
        flags: [R] its table of what is where along the road.
        middles: [R] its table of the side streets' middles.
        noise: Noise table.
    """
    height, width = nearest.shape
    image = np.empty((height, width, 3), np.float32)
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    for row in range(height):
        for column in range(width):
            ax, ay = (column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy
            x = rotation[0, 0] * ax + rotation[0, 1] * ay + rotation[0, 2]
            y = rotation[1, 0] * ax + rotation[1, 1] * ay + rotation[1, 2]
            z = rotation[2, 0] * ax + rotation[2, 1] * ay + rotation[2, 2]
            length = np.sqrt(x * x + y * y + z * z)
            t = winner[row, column]
            if t < 0:
                r, g, b = sky_colour(x / length, y / length, z / length, light, noise)
            else:
                depth = 1.0 / nearest[row, column]
                r, g, b = _shade_hit(row, column, x, y, z, length, depth, t, frames, colour, material[t], fx, light,
                                     lamps, shadow, shadow_frame, plan, flags, middles, noise)  # fmt: skip
            image[row, column, 0], image[row, column, 1], image[row, column, 2] = r, g, b
    return image


@inlined_kernel
def _shade_hit(
    row: int, column: int, x: float, y: float, z: float, length: float, depth: float, t: int, frames: np.ndarray,
    colour: np.ndarray, material: int, focal: float, light: Light, lamps: np.ndarray, shadow: np.ndarray,
    shadow_frame: ShadowFrame, plan: GroundPlan, flags: np.ndarray, middles: np.ndarray, noise: np.ndarray,
) -> tuple[float, float, float]:  # fmt: skip
    """Radiance of the surface at ``depth`` along the ray (x, y, z) of unit depth."""
    px, py, pz = x * depth, y * depth, z * depth
    nx, ny, nz = frames[t, 0], frames[t, 1], frames[t, 2]
    facing = min(nx * x + ny * y + nz * z, -1e-3)
    u_rate = frames[t, 3] * x + frames[t, 4] * y + frames[t, 5] * z
    v_rate = frames[t, 7] * x + frames[t, 8] * y + frames[t, 9] * z
    u, v = u_rate * depth + frames[t, 6], v_rate * depth + frames[t, 10]
    # footprint: change of u and v from a pixel to its neighbours, along the surface
    metres = depth / focal
    inverse = 1.0 / facing
    lean_x, lean_y = frames[t, 11] * inverse, frames[t, 12] * inverse
    fu = metres * (abs(frames[t, 13] - u_rate * lean_x) + abs(frames[t, 14] - u_rate * lean_y))
    fv = metres * (abs(frames[t, 15] - v_rate * lean_x) + abs(frames[t, 16] - v_rate * lean_y))
    glow = 0.0
    if material == _GROUND:
        r, g, b, mirror = shade_ground(u, v, fu, fv, plan, flags, middles, light.wetness, noise)
    else:
        r, g, b, mirror, glow = shade_surface(material, u, v, fu, fv, colour[t, 0], colour[t, 1], colour[t, 2],
                                              light.night, noise)  # fmt: skip
    toward = nx * light.sun_direction[0] + ny * light.sun_direction[1] + nz * light.sun_direction[2]
    if material == _FOLIAGE:
        toward = 0.35 + 0.65 * toward
    lit = 0.0
    if toward > 0.0:
        lit = lit_share(px + 0.12 * nx, py + 0.12 * ny, pz + 0.12 * nz, row, column, shadow, shadow_frame)
    direct = max(toward, 0.0) * lit
    up = max(nz, 0.0)  # what stands above a floor also hides some of the sky from it
    around = (0.60 + 0.40 * nz) * (0.85 + 0.15 * up) * (1.0 - 0.45 * up * (1.0 - lit))
    er = light.ambient[0] * around + light.sun[0] * direct
    eg = light.ambient[1] * around + light.sun[1] * direct
    eb = light.ambient[2] * around + light.sun[2] * direct
    if light.night:
        warm, cold = _lamp_light(px, py, pz, nx, ny, nz, light, lamps)
        er, eg, eb = er + warm + cold, eg + 0.74 * warm + 0.97 * cold, eb + 0.42 * warm + 0.90 * cold
    r, g, b = r * (er + glow), g * (eg + glow), b * (eb + glow)
    if mirror > 0.0:
        r, g, b = _add_mirror(x, y, z, length, nx, ny, nz, facing, mirror, r, g, b, light)
    clear = np.exp(-light.fog * depth * length)
    return (r * clear + light.horizon[0] * (1.0 - clear), g * clear + light.horizon[1] * (1.0 - clear),
            b * clear + light.horizon[2] * (1.0 - clear))  # fmt: skip


@kernel
def _add_mirror(
    x: float, y: float, z: float, length: float, nx: float, ny: float, nz: float, facing: float, mirror: float,
    r: float, g: float, b: float, light: Light,
) -> tuple[float, float, float]:  # fmt: skip
    """Surroundings mirrored with Fresnel's increase at grazing angles (Schlick)."""
    cosine = -facing / length
    rest = 1.0 - cosine
    share = mirror + (min(0.6, 6.0 * mirror) - mirror) * rest * rest * rest * rest * rest
    mx, my, mz = (x - 2 * facing * nx) / length, (y - 2 * facing * ny) / length, (z - 2 * facing * nz) / length
    sr, sg, sb = mirrored(mx, my, mz, light)
    return r + share * sr * 2.0, g + share * sg * 2.0, b + share * sb * 2.0


@kernel
def _lamp_light(
    px: float, py: float, pz: float, nx: float, ny: float, nz: float, light: Light, lamps: np.ndarray
) -> tuple[float, float]:
    """Light of the street lamps (warm) and of the ego car's headlights (cold)."""
    warm, cold = 0.0, 0.0
    for k in range(len(lamps)):
        dx, dy, dz = lamps[k, 0] - px, lamps[k, 1] - py, lamps[k, 2] - pz
        square = dx * dx + dy * dy + dz * dz
        if square < 900.0 and dz > 0.0:
            distance = np.sqrt(square)
            angle = max(0.15, (nx * dx + ny * dy + nz * dz) / distance)
            down = dz / distance
            warm += 13.0 * angle * (0.25 + 0.75 * down) / (square + 6.0)
    dx, dy, dz = px - light.head[0], py - light.head[1], pz - light.head[2]
    along = dx * light.head_direction[0] + dy * light.head_direction[1] + dz * light.head_direction[2]
    if along > 0.3:
        square = dx * dx + dy * dy + dz * dz
        aside = (square - along * along) / (along * along)
        angle = max(0.12, -(nx * dx + ny * dy + nz * dz) / np.sqrt(square))
        cold = 95.0 * angle * np.exp(-aside / 0.16) / (square + 25.0)
    return warm, cold
