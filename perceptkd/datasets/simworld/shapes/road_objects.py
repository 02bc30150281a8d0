"""Traffic cones and barriers."""

import numpy as np

from ..materials import Material
from ..mesh import Mesh, block, join_meshes, tube
from .parts import DARK, STEEL, fit_to_box

ORANGE = (0.85, 0.20, 0.02)
RED = (0.60, 0.05, 0.04)
CONCRETE = (0.45, 0.44, 0.41)


def build_cone(rng: np.random.Generator, size_wlh: tuple[float, float, float]) -> Mesh:
    """A cone on a square foot, with two white bands."""
    del rng  # all cones of a size are alike
    base = block((-0.2, -0.2, 0), (0.2, 0.2, 0.05), Material.PLAIN, DARK)
    body = tube((0, 0, 0.05), (0, 0, 1.0), 0.155, Material.BANDED, ORANGE, end_radius=0.03, sides=10, capped=True)
    body.texture[..., 1] /= 0.95
    return fit_to_box(join_meshes([base, body]), size_wlh)


def build_barrier(rng: np.random.Generator, size_wlh: tuple[float, float, float]) -> Mesh:
    """A barrier across its heading: concrete or plastic wall, or boards on trestles."""
    width, length, height = size_wlh
    half, deep = width / 2, length / 2
    kind = rng.integers(3)
    if kind == 2:
        legs = [block((-deep, y - 0.04, 0), (deep, y + 0.04, height), Material.METAL, STEEL,
                      inset_x=(0.8 * deep, 0.8 * deep)) for y in (-0.8 * half, 0.8 * half)]  # fmt: skip
        boards = [block((-0.04, -half, z * height), (0.04, half, (z + 0.26) * height), Material.STRIPED, RED)
                  for z in (0.25, 0.70)]  # fmt: skip
        return fit_to_box(join_meshes([*legs, *boards]), size_wlh)
    material, colour = (Material.PLAIN, CONCRETE) if kind == 0 else (Material.PAINT, (RED, ORANGE)[rng.integers(2)])
    foot = block((-deep, -half, 0), (deep, half, 0.30 * height), material, colour, inset_x=(0.15 * deep, 0.15 * deep))
    wall = block((-0.85 * deep, -half, 0.30 * height), (0.85 * deep, half, height), material, colour,
                 inset_x=(0.40 * deep, 0.40 * deep))  # fmt: skip
    band = block((-0.62 * deep, -half - 0.005, 0.62 * height), (0.62 * deep, half + 0.005, 0.80 * height),
                 Material.STRIPED, RED, inset_x=(0.08 * deep, 0.08 * deep))  # fmt: skip
    return fit_to_box(join_meshes([foot, wall, band]), size_wlh)
