"""Parts that several classes are composed of: lofted bodies, wheels, lamps, and the final fit into the box."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..materials import Material
from ..mesh import Mesh, join_meshes, quads, triangles, tube

DARK = (0.03, 0.03, 0.035)
GLASS = (0.05, 0.06, 0.07)
STEEL = (0.35, 0.36, 0.38)
WHITE_LAMP = (0.9, 0.88, 0.8)
RED_LAMP = (0.45, 0.02, 0.02)

CAR_COLOURS = np.array([
    (0.58, 0.58, 0.58), (0.38, 0.39, 0.41), (0.20, 0.21, 0.22), (0.030, 0.030, 0.034), (0.62, 0.61, 0.58),
    (0.42, 0.04, 0.04), (0.05, 0.10, 0.30), (0.10, 0.20, 0.13), (0.30, 0.22, 0.14), (0.70, 0.50, 0.08),
    (0.12, 0.28, 0.45), (0.16, 0.16, 0.18),
])  # fmt: skip
CAR_COLOUR_SHARES = np.array([0.18, 0.16, 0.13, 0.16, 0.09, 0.08, 0.06, 0.03, 0.03, 0.03, 0.03, 0.02])


def draw_colour(rng: np.random.Generator) -> tuple[float, ...]:
    """A paint as cars wear it."""
    colour = CAR_COLOURS[rng.choice(len(CAR_COLOURS), p=CAR_COLOUR_SHARES)]
    return tuple(np.clip(colour * rng.uniform(0.85, 1.1) + rng.uniform(-0.01, 0.01, 3), 0.01, 0.85))


def fit_to_box(mesh: Mesh, size_wlh: Sequence[float]) -> Mesh:
    """The shape stretched such that it fills its box exactly: origin at the centre of the bottom, x forward."""
    width, length, height = size_wlh
    low, high = mesh.corners.min((0, 1)), mesh.corners.max((0, 1))
    target = np.array([length, width, height])
    corners = (mesh.corners - (low + high) / 2) * (target / (high - low))
    corners[..., 2] += height / 2
    # the stretching must not leave a face beyond the box by a rounding error
    bound = np.array([length / 2, width / 2, height])
    return replace(mesh, corners=np.clip(corners, [-length / 2, -width / 2, 0.0], bound))


def loft(
    stations: Sequence[tuple[float, float, float, float, float]], material: int, colour: tuple, *,
    side_material: int | None = None, side_colour: tuple | None = None,
) -> Mesh:  # fmt: skip
    """Body through cross-sections from back to front.

    Args:
        stations: (x, low z, high z, half width at the bottom, half width at the top).
        material: Of the top, bottom and ends.
        colour: Its colour.
        side_material: Of the two flanks; the same when None.
        side_colour: Its colour.
    """
    sections = np.array([
        [(x, -yl, zl), (x, yl, zl), (x, yh, zh), (x, -yh, zh)] for x, zl, zh, yl, yh in stations
    ])  # fmt: skip
    back, front = sections[:-1], sections[1:]

    def strip(i: int, j: int) -> np.ndarray:
        return np.stack([back[:, i], front[:, i], front[:, j], back[:, j]], 1)

    right, left = strip(0, 3), strip(1, 2)[:, [1, 0, 3, 2]]
    top, bottom = strip(3, 2), strip(1, 0)
    ends = np.stack([sections[-1], sections[0][[1, 0, 3, 2]]])
    shell = np.concatenate([top, bottom, ends])
    side_material = material if side_material is None else side_material
    flanks = np.concatenate([right, left])
    return join_meshes([
        quads(shell, shell[..., [1, 2]], material, colour),
        quads(flanks, flanks[..., [0, 2]], side_material, colour if side_colour is None else side_colour),
    ])  # fmt: skip


def wheel(x: float, y: float, radius: float, width: float, *, sides: int = 10) -> Mesh:
    """Wheel whose outer face is at ``y``; its axis is along y."""
    inner = y - np.sign(y) * width
    tyre = tube((x, inner, radius), (x, y, radius), radius, Material.RUBBER, DARK, sides=sides)
    angle = 2 * np.pi * np.arange(sides) / sides
    rim = np.stack([np.cos(angle), np.sin(angle)], -1)
    corners = np.zeros((sides, 3, 3))
    corners[:, 0] = (x, y, radius)
    texture = np.zeros((sides, 3, 2))
    for k, ring in ((1, rim), (2, np.roll(rim, -1, axis=0))):
        corners[:, k, 0], corners[:, k, 1], corners[:, k, 2] = x + radius * ring[:, 0], y, radius + radius * ring[:, 1]
        texture[:, k] = ring
    if y > 0:
        corners, texture = corners[:, ::-1], texture[:, ::-1]
    return join_meshes([tyre, triangles(corners, texture, Material.WHEEL, STEEL)])


def axle(x: float, half_width: float, radius: float, width: float) -> Mesh:
    """A wheel on either side."""
    return join_meshes(wheel(x, side * half_width, radius, width) for side in (1, -1))


def panel(
    x: float, y: tuple[float, float], z: tuple[float, float], material: int, colour: tuple, *, facing: int
) -> Mesh:
    """Upright rectangle across the car at ``x`` that faces forward (+1) or back (-1); texture in metres."""
    corners = np.array([[(x, y[0], z[0]), (x, y[1], z[0]), (x, y[1], z[1]), (x, y[0], z[1])]])
    if facing < 0:
        corners = corners[:, [1, 0, 3, 2]]
    return quads(corners, corners[..., [1, 2]], material, colour)


def side_panel(y: float, x: tuple[float, float], z: tuple[float, float], material: int, colour: tuple) -> Mesh:
    """Upright rectangle along the car at ``y`` that faces outwards; texture in metres."""
    corners = np.array([[(x[0], y, z[0]), (x[1], y, z[0]), (x[1], y, z[1]), (x[0], y, z[1])]])
    if y > 0:
        corners = corners[:, [1, 0, 3, 2]]
    return quads(corners, corners[..., [0, 2]], material, colour)


def lamps(x: float, y: tuple[float, float], z: tuple[float, float], material: int, *, facing: int) -> Mesh:
    """A pair of lamps, mirrored."""
    colour = WHITE_LAMP if material == Material.LAMP else RED_LAMP
    pair = ((y[0], y[1]), (-y[1], -y[0]))
    return join_meshes(panel(x, side, z, material, colour, facing=facing) for side in pair)


def plate(x: float, z: float, *, facing: int) -> Mesh:
    """Licence plate."""
    return panel(x, (-0.26, 0.26), (z - 0.06, z + 0.06), Material.PLATE, (0.75, 0.75, 0.70), facing=facing)
