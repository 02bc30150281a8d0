"""Construction vehicles: excavator and wheel loader."""

import numpy as np

from ..materials import Material
from ..mesh import BACK, FRONT, LEFT, RIGHT, Mesh, block, join_meshes, tube
from .parts import DARK, GLASS, STEEL, axle, fit_to_box, lamps

YELLOWS = ((0.75, 0.48, 0.04), (0.80, 0.55, 0.05), (0.72, 0.30, 0.04))


def _cabin(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], paint: tuple) -> list[Mesh]:
    """Glazed cabin with a painted roof and posts."""
    (x0, x1), (y0, y1), (z0, z1) = x, y, z
    belt = z0 + 0.30 * (z1 - z0)
    posts = [block((px - 0.04, py - 0.04, z0), (px + 0.04, py + 0.04, z1), Material.PAINT, paint)
             for px in (x0, x1) for py in (y0, y1)]  # fmt: skip
    return [
        block((x0, y0, z0), (x1, y1, belt), Material.PAINT, paint),
        block((x0, y0, belt), (x1, y1, z1 - 0.1), Material.GLASS, GLASS, faces=(FRONT, BACK, LEFT, RIGHT)),
        block((x0 - 0.05, y0 - 0.05, z1 - 0.1), (x1 + 0.05, y1 + 0.05, z1), Material.PAINT, paint),
        *posts,
    ]


def _excavator(length: float, half: float, height: float, paint: tuple) -> list[Mesh]:
    back = -length / 2
    house = back + 0.55 * length
    tracks = [block((back + 0.02 * length, side * half - (0.5 if side > 0 else 0), 0.0),
                    (house, side * half + (0.5 if side < 0 else 0), 0.85), Material.RUBBER, DARK,
                    inset_x=(0.25, 0.25)) for side in (1, -1)]  # fmt: skip
    return [
        *tracks,
        block((back + 0.6, -0.5 * half, 0.4), (house - 0.6, 0.5 * half, 1.0), Material.PLAIN, DARK),
        block((back, -0.92 * half, 0.95), (house - 0.5, 0.92 * half, 1.95), Material.PAINT, paint, inset_x=(0.15, 0.0)),
        *_cabin((house - 1.6, house), (0.1 * half, 0.9 * half), (0.95, min(2.85, height)), paint),
        tube((house - 0.6, -0.25 * half, 1.3), (0.36 * length, -0.25 * half, height - 0.2), 0.24, Material.PAINT, paint,
             sides=4, end_radius=0.18),
        tube((0.36 * length, -0.25 * half, height - 0.2), (0.46 * length, -0.25 * half, 0.9), 0.17, Material.PAINT,
             paint, sides=4, end_radius=0.12),
        block((0.36 * length, -0.6 * half, 0.15), (length / 2, 0.15 * half, 1.0), Material.PLAIN, STEEL,
              inset_x=(0.3, 0.0)),
        block((0.34 * length, -0.27 * half - 0.1, height - 0.4), (0.38 * length, -0.27 * half + 0.1, height),
              Material.PAINT, paint),
    ]  # fmt: skip


def _loader(length: float, half: float, height: float, paint: tuple) -> list[Mesh]:
    back = -length / 2
    middle = back + 0.52 * length
    radius = min(0.75, 0.25 * height)
    arms = [tube((middle - 0.2, y, 1.4), (0.40 * length, y, 0.55), 0.13, Material.PAINT, paint, sides=4)
            for y in (-0.45 * half, 0.45 * half)]  # fmt: skip
    return [
        block((back, -0.62 * half, 0.7), (middle - 1.2, 0.62 * half, 1.9), Material.PAINT, paint, inset_x=(0.12, 0.2)),
        block((middle - 1.3, -0.5 * half, 0.6), (0.3 * length, 0.5 * half, 1.15), Material.PLAIN, DARK),
        *_cabin((middle - 1.5, middle), (-0.5 * half, 0.5 * half), (1.0, height), paint),
        *arms,
        block((0.36 * length, -half, 0.05), (length / 2, half, 1.15), Material.PLAIN, (0.30, 0.27, 0.22),
              inset_x=(0.0, 0.45)),
        *(axle(x, 0.96 * half, radius, 0.45) for x in (back + 0.24 * length, 0.20 * length)),
        lamps(back - 0.01, (0.40 * half, 0.58 * half), (1.2, 1.4), Material.TAIL, facing=-1),
        tube((back + 0.8, 0.3 * half, 1.8), (back + 0.8, 0.3 * half, 2.4), 0.06, Material.METAL, STEEL),
    ]  # fmt: skip


def build_construction_vehicle(rng: np.random.Generator, size_wlh: tuple[float, float, float]) -> Mesh:
    """An excavator or a wheel loader."""
    width, length, height = size_wlh
    paint = YELLOWS[rng.integers(len(YELLOWS))]
    build = _excavator if rng.random() < 0.55 else _loader
    return fit_to_box(join_meshes(build(length, width / 2, height, paint)), size_wlh)
