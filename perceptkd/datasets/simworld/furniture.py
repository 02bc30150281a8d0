"""Trees and street furniture, each in a local frame: x along the street, y away from the carriageway, z up."""

import numpy as np

from .materials import Material
from .mesh import Mesh, blob, block, join_meshes, triangles, tube
from .semantics import BUILDING, FENCE, POLE, SIGN, VEGETATION, WALL

POLE_GREY = (0.30, 0.31, 0.32)
LEAVES = np.array([
    (0.06, 0.13, 0.03), (0.09, 0.16, 0.035), (0.05, 0.10, 0.035), (0.13, 0.16, 0.04), (0.16, 0.12, 0.03),
])  # fmt: skip
SIGN_COLOURS = ((0.55, 0.03, 0.03), (0.03, 0.13, 0.45), (0.70, 0.55, 0.04), (0.04, 0.28, 0.12))
LAMP_HEIGHT_M = 7.6
LAMP_ARM_M = 1.9


def build_tree(rng: np.random.Generator, *, street: bool) -> Mesh:
    """A deciduous tree; street trees carry their crown above the vehicles."""
    trunk = rng.uniform(4.6, 5.4) if street else rng.uniform(1.8, 3.2)
    size = rng.uniform(1.5, 2.2) if street else rng.uniform(1.6, 3.0)
    colour = tuple(LEAVES[rng.integers(len(LEAVES))] * rng.uniform(0.8, 1.25))
    top = trunk + 1.2 * size
    tip = (rng.uniform(-0.1, 0.1), 0, top)
    wood = [tube((0, 0, -0.4), tip, 0.17, Material.WOOD, (0.13, 0.09, 0.06), end_radius=0.06)]
    crown = [blob((0, 0, top), (size, size, 0.9 * size), Material.FOLIAGE, colour, rng=rng, roughness=0.35)]
    for angle in rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(3) / 3:
        small = size * rng.uniform(0.6, 0.75)
        centre = (0.55 * size * np.cos(angle), 0.55 * size * np.sin(angle), top + rng.uniform(-0.35, 0.45) * size)
        crown.append(blob(centre, (small, small, small), Material.FOLIAGE, colour, rng=rng, roughness=0.35))
    return join_meshes([*wood, *crown]).labelled(semantic=VEGETATION)


def build_conifer(rng: np.random.Generator) -> Mesh:
    """A spruce: stacked ragged cones."""
    height, width = rng.uniform(5, 10), rng.uniform(1.3, 2.0)
    colour = tuple(np.array((0.03, 0.075, 0.03)) * rng.uniform(0.8, 1.3))
    parts = [tube((0, 0, -0.4), (0, 0, 1.2), 0.16, Material.WOOD, (0.12, 0.08, 0.05))]
    for share in (0.0, 0.28, 0.54):
        low = 0.9 + share * (height - 1.0)
        parts.append(tube((0, 0, low), (0, 0, min(height, low + 0.48 * height)), width * (1 - 0.8 * share),
                          Material.FOLIAGE, colour, end_radius=0.05, sides=9))  # fmt: skip
    return join_meshes(parts).labelled(semantic=VEGETATION)


def build_hedge(rng: np.random.Generator, length: float) -> Mesh:
    """Clipped hedge along the street."""
    colour = tuple(LEAVES[rng.integers(3)] * rng.uniform(0.7, 1.0))
    high = (length / 2, 0.7, rng.uniform(0.9, 1.7))
    body = block((-length / 2, 0, -0.5), high, Material.FOLIAGE, colour, inset_y=0.08)
    return body.labelled(semantic=VEGETATION)


def build_bush(rng: np.random.Generator) -> Mesh:
    """A shrub."""
    size, colour = rng.uniform(0.5, 1.1), tuple(LEAVES[rng.integers(len(LEAVES))])
    body = blob((0, 0, 0.5 * size), (size, size, 0.8 * size), Material.FOLIAGE, colour, rng=rng, roughness=0.4)
    return body.labelled(semantic=VEGETATION)


def build_wall(rng: np.random.Generator, length: float) -> Mesh:
    """Brick or plaster garden wall."""
    height = rng.uniform(0.9, 2.2)
    colour = ((0.34, 0.15, 0.09), (0.46, 0.43, 0.38))[rng.integers(2)]
    body = block((-length / 2, 0, -1.5), (length / 2, 0.3, height), Material.BRICK, colour)
    cap = block((-length / 2, -0.05, height), (length / 2, 0.35, height + 0.08), Material.PLAIN, (0.42, 0.41, 0.39))
    return join_meshes([body, cap]).labelled(semantic=WALL)


def build_fence(rng: np.random.Generator, length: float) -> Mesh:
    """See-through fence between posts."""
    height = rng.uniform(1.1, 1.9)
    colour = ((0.10, 0.11, 0.11), (0.30, 0.30, 0.30), (0.25, 0.16, 0.09))[rng.integers(3)]
    bars = block((-length / 2, 0.02, -0.4), (length / 2, 0.05, height), Material.FENCE, colour, faces=(3,))
    posts = [block((x - 0.05, 0, -0.5), (x + 0.05, 0.08, height + 0.08), Material.METAL, colour)
             for x in np.linspace(-length / 2, length / 2, max(2, round(length / 2.8)))]  # fmt: skip
    rail = block((-length / 2, 0.0, height - 0.06), (length / 2, 0.07, height), Material.METAL, colour)
    return join_meshes([bars, rail, *posts]).labelled(semantic=FENCE)


def build_lamp() -> Mesh:
    """Street lamp whose arm reaches over the carriageway (towards -y)."""
    parts = [
        tube((0, 0, -0.3), (0, 0, LAMP_HEIGHT_M), 0.10, Material.METAL, POLE_GREY, end_radius=0.06),
        tube((0, 0, LAMP_HEIGHT_M), (0, -LAMP_ARM_M, LAMP_HEIGHT_M + 0.25), 0.05, Material.METAL, POLE_GREY, sides=5),
        block((-0.14, -LAMP_ARM_M - 0.5, LAMP_HEIGHT_M + 0.16), (0.14, -LAMP_ARM_M, LAMP_HEIGHT_M + 0.30),
              Material.METAL, POLE_GREY),
        block((-0.12, -LAMP_ARM_M - 0.45, LAMP_HEIGHT_M + 0.12), (0.12, -LAMP_ARM_M - 0.05, LAMP_HEIGHT_M + 0.16),
              Material.LAMP, (1.0, 0.82, 0.55)),
    ]  # fmt: skip
    return join_meshes(parts).labelled(semantic=POLE)


def _disc(centre: tuple, radius: float, corners: int, facing: int, colour: tuple) -> Mesh:
    """Sign plate with its texture from -1 to 1, facing along x."""
    angle = 2 * np.pi * (np.arange(corners) + 0.5) / corners
    y, z = np.cos(angle), np.sin(angle)
    ring = np.stack([np.full(corners, 0.0), radius * y * facing, radius * z], -1) + np.asarray(centre)
    uv = np.stack([y, z], -1)
    fan = np.stack([np.broadcast_to(centre, ring.shape), ring, np.roll(ring, -1, axis=0)], 1)
    texture = np.stack([np.zeros_like(uv), uv, np.roll(uv, -1, axis=0)], 1)
    return triangles(fan, texture, Material.SIGN, colour)


def build_sign(rng: np.random.Generator, facing: int) -> Mesh:
    """Traffic sign on a post: round, triangular, square or eight-cornered."""
    height = rng.uniform(2.2, 2.7)
    corners = int((14, 3, 4, 8)[rng.integers(4)])
    colour = SIGN_COLOURS[0] if corners in (3, 8) else SIGN_COLOURS[rng.integers(len(SIGN_COLOURS))]
    post = tube((0, 0, -0.3), (0, 0, height + 0.2), 0.035, Material.METAL, POLE_GREY, sides=5).labelled(semantic=POLE)
    plates = [_disc((0.045 * f, 0, height), 0.38, corners, f, colour if f == facing else POLE_GREY) for f in (1, -1)]
    return join_meshes([post, *(plate.labelled(semantic=SIGN) for plate in plates)])


def build_traffic_light(facing: int, *, green: bool) -> Mesh:
    """Traffic light on a pole, with a second head on an arm over the carriageway."""
    pole = [tube((0, 0, -0.3), (0, 0, 5.6), 0.09, Material.METAL, POLE_GREY),
            tube((0, 0, 5.5), (0, -4.0, 5.7), 0.05, Material.METAL, POLE_GREY, sides=5)]  # fmt: skip
    heads = []
    for y, z in ((-0.25, 2.4), (-3.8, 5.1)):
        heads.append(block((-0.16, y - 0.18, z), (0.16, y + 0.18, z + 1.0), Material.PLAIN, (0.02, 0.02, 0.02)))
        for k, colour in enumerate(((0.05, 0.9, 0.3), (0.9, 0.5, 0.05), (0.9, 0.05, 0.03))):
            lit = k == (0 if green else 2)
            x = 0.165 * facing
            low, high = (min(x, 0), y - 0.1, z + 0.08 + 0.3 * k), (max(x, 0), y + 0.1, z + 0.28 + 0.3 * k)
            material, dimmed = (Material.LAMP, colour) if lit else (Material.PLAIN, tuple(0.08 * c for c in colour))
            heads.append(block(low, high, material, dimmed))
    return join_meshes([join_meshes(pole).labelled(semantic=POLE), join_meshes(heads).labelled(semantic=SIGN)])


def build_shelter() -> Mesh:
    """Bus stop: glazed shelter with a bench."""
    steel = (0.20, 0.21, 0.22)
    parts = [
        block((-2.0, 0.9, 0.15), (2.0, 0.95, 2.3), Material.GLASS, (0.10, 0.12, 0.12)),
        block((-2.0, 0.1, 0.15), (-1.95, 0.9, 2.3), Material.SIGN, (0.05, 0.25, 0.40)),
        block((-2.1, -0.2, 2.35), (2.1, 1.1, 2.5), Material.METAL, steel),
        *(block((x - 0.05, 0.88, 0), (x + 0.05, 0.98, 2.4), Material.METAL, steel) for x in (-2.0, 0.0, 2.0)),
        block((-1.4, 0.5, 0.42), (1.2, 0.85, 0.48), Material.WOOD, (0.22, 0.13, 0.07)),
        *(block((x, 0.6, 0), (x + 0.08, 0.75, 0.42), Material.METAL, steel) for x in (-1.2, 1.0)),
    ]
    return join_meshes(parts).labelled(semantic=BUILDING)


def build_bin(rng: np.random.Generator) -> Mesh:
    """Litter bin, box or hydrant."""
    kind = rng.integers(3)
    if kind == 0:
        parts = [tube((0, 0, -0.1), (0, 0, 0.95), 0.24, Material.PLAIN, (0.05, 0.12, 0.07), sides=8, capped=True)]
    elif kind == 1:
        parts = [block((-0.4, -0.2, -0.2), (0.4, 0.2, 1.25), Material.PLAIN, (0.22, 0.25, 0.22))]
    else:
        parts = [tube((0, 0, -0.1), (0, 0, 0.62), 0.13, Material.PAINT, (0.55, 0.05, 0.03), sides=8, capped=True),
                 blob((0, 0, 0.62), (0.14, 0.14, 0.14), Material.PAINT, (0.55, 0.05, 0.03))]  # fmt: skip
    return join_meshes(parts).labelled(semantic=POLE)
