"""Buildings: shops and flats, towers, houses and halls, in a local frame with the street in front.

Local frame: x along the street, y away from it, z up; the front wall is at y = 0 and street level at z = 0.
"""

from dataclasses import replace

import numpy as np

from .materials import FACADE_PERIOD_M, Material
from .mesh import BACK, FRONT, LEFT, RIGHT, TOP, Mesh, block, hexahedron, join_meshes, quads

WALL_COLOURS = np.array([
    (0.48, 0.42, 0.34), (0.34, 0.17, 0.11), (0.55, 0.53, 0.48), (0.28, 0.27, 0.26), (0.42, 0.33, 0.22),
    (0.40, 0.21, 0.14), (0.58, 0.50, 0.36), (0.32, 0.36, 0.40), (0.50, 0.36, 0.28), (0.22, 0.24, 0.27),
])  # fmt: skip
SHOP_COLOURS = ((0.50, 0.08, 0.06), (0.08, 0.20, 0.42), (0.10, 0.30, 0.16), (0.65, 0.48, 0.10), (0.06, 0.06, 0.07),
                (0.60, 0.58, 0.54), (0.35, 0.10, 0.28))  # fmt: skip
ROOF_COLOURS = ((0.28, 0.10, 0.06), (0.16, 0.15, 0.15), (0.22, 0.16, 0.12))
BELOW_M = 6.0
"""Foundations reach this far below street level, to meet sloping ground."""
SHOP_FLOOR_M = 3.9
WALLS = (FRONT, BACK, LEFT, RIGHT)


def _walls(low: tuple, high: tuple, material: int, colour: tuple, style: int) -> Mesh:
    """Upright walls whose texture is (metres along + a period per style, metres above street level)."""
    mesh = block(low, high, material, colour, faces=WALLS)
    texture = mesh.texture.copy()
    texture[..., 0] += style * FACADE_PERIOD_M + 2.0
    texture[..., 1] = mesh.corners[..., 2]
    return replace(mesh, texture=texture)


def _flat_roof(low: tuple, high: tuple) -> Mesh:
    return block(low, high, Material.ROOF, (0.22, 0.21, 0.20), faces=(TOP,))


def _roof_boxes(width: float, depth: float, top: float, rng: np.random.Generator) -> list[Mesh]:
    """Lift houses and air conditioning."""
    boxes = []
    for _ in range(rng.integers(0, 3)):
        x, y, size = rng.uniform(-0.35, 0.3) * width, rng.uniform(0.2, 0.6) * depth, rng.uniform(1.2, 3.0)
        high = (x + size, y + size, top + rng.uniform(1.0, 2.5))
        boxes.append(block((x, y, top), high, Material.PLAIN, (0.3, 0.3, 0.3)))
    return boxes


def _balconies(width: float, height: float, floor_m: float, rng: np.random.Generator) -> list[Mesh]:
    slabs = []
    columns = np.arange(-width / 2 + 1.8, width / 2 - 2.6, 5.4)
    colour = (0.5, 0.49, 0.47) if rng.random() < 0.5 else (0.12, 0.12, 0.13)
    for z in np.arange(SHOP_FLOOR_M, height - 2.5, floor_m):
        for x in columns:
            rail = block((x, -0.9, z), (x + 2.4, 0.0, z + 0.95), Material.FENCE, colour, faces=(BACK, FRONT, RIGHT))
            slabs.append(rail)
            slabs.append(block((x, -0.9, z - 0.12), (x + 2.4, 0.0, z), Material.PLAIN, (0.4, 0.39, 0.37)))
    return slabs


def build_block(rng: np.random.Generator, width: float, depth: float, height: float, *, style: int, shop: bool) -> Mesh:
    """City building: windows on all floors, often shops below, a cornice, sometimes balconies."""
    colour = tuple(WALL_COLOURS[rng.integers(len(WALL_COLOURS))] * rng.uniform(0.8, 1.15))
    half = width / 2
    parts = [
        _walls((-half, 0, -BELOW_M), (half, depth, height), Material.FACADE, colour, style),
        _flat_roof((-half, 0, height - 0.1), (half, depth, height)),
        block((-half - 0.25, -0.25, height - 0.5), (half + 0.25, depth + 0.25, height + 0.4), Material.PLAIN,
              tuple(0.8 * np.array(colour))),
        *_roof_boxes(width, depth, height, rng),
    ]  # fmt: skip
    if shop:
        parts += _shop_front(width, rng, style)
    if rng.random() < 0.3 and height < 24:
        parts += _balconies(width, height, 3.2, rng)
    return join_meshes(parts)


def _shop_front(width: float, rng: np.random.Generator, style: int) -> list[Mesh]:
    """Shop windows, the signs above them and awnings."""
    half = width / 2
    front = np.array([[(-half, -0.06, -BELOW_M), (half, -0.06, -BELOW_M), (half, -0.06, SHOP_FLOOR_M),
                       (-half, -0.06, SHOP_FLOOR_M)]])  # fmt: skip
    texture = front[..., [0, 2]] + [style * FACADE_PERIOD_M + half + 2.0, 0.0]
    parts = [quads(front, texture, Material.SHOP, (0.30, 0.28, 0.26))]
    x = -half
    while x < half - 2.5:
        wide = min(rng.uniform(4.0, 8.0), half - x)
        colour = SHOP_COLOURS[rng.integers(len(SHOP_COLOURS))]
        parts.append(block((x + 0.1, -0.28, 3.05), (x + wide - 0.1, -0.06, 3.7), Material.PAINT, colour))
        if rng.random() < 0.4:
            parts.append(_awning(x + 0.2, x + wide - 0.2, colour))
        x += wide
    return parts


def _awning(x0: float, x1: float, colour: tuple) -> Mesh:
    bottom = [(x0, -1.2, 2.45), (x1, -1.2, 2.45), (x1, -0.06, 2.45), (x0, -0.06, 2.45)]
    top = [(x0, -1.2, 2.6), (x1, -1.2, 2.6), (x1, -0.06, 3.1), (x0, -0.06, 3.1)]
    return hexahedron(np.array(bottom + top), Material.STRIPED, colour)


def build_house(rng: np.random.Generator, width: float, depth: float, *, style: int) -> Mesh:
    """Family house with a pitched roof."""
    colour = tuple(WALL_COLOURS[rng.integers(len(WALL_COLOURS))] * rng.uniform(0.9, 1.3))
    eaves = rng.uniform(3.0, 6.2)
    ridge = eaves + rng.uniform(1.8, 3.2)
    half, over = width / 2, 0.45
    bottom = [(-half - over, -over, eaves), (half + over, -over, eaves), (half + over, depth + over, eaves),
              (-half - over, depth + over, eaves)]  # fmt: skip
    top = [(-half + 0.3, depth / 2 - 0.1, ridge), (half - 0.3, depth / 2 - 0.1, ridge),
           (half - 0.3, depth / 2 + 0.1, ridge), (-half + 0.3, depth / 2 + 0.1, ridge)]  # fmt: skip
    x = rng.uniform(-0.3, 0.3) * width
    return join_meshes([
        _walls((-half, 0, -BELOW_M), (half, depth, eaves), Material.FACADE, colour, style),
        hexahedron(np.array(bottom + top), Material.ROOF, ROOF_COLOURS[rng.integers(len(ROOF_COLOURS))]),
        block((x, depth * 0.55, eaves), (x + 0.7, depth * 0.55 + 0.7, ridge + 0.8), Material.BRICK, (0.32, 0.14, 0.09)),
        block((-1.0, -0.9, -0.5), (1.0, 0, 0.25), Material.PLAIN, (0.4, 0.39, 0.37)),
        block((-0.5, -0.05, 0.25), (0.5, 0, 2.35), Material.WOOD, (0.22, 0.10, 0.05)),
    ])  # fmt: skip


def build_hall(rng: np.random.Generator, width: float, depth: float, *, style: int) -> Mesh:
    """Warehouse: ribbed sheet metal, a gate and a band of windows."""
    height = rng.uniform(6, 10)
    colour = tuple(np.array([(0.40, 0.42, 0.44), (0.20, 0.28, 0.38), (0.45, 0.40, 0.30)][rng.integers(3)]))
    half = width / 2
    return join_meshes([
        block((-half, 0, -BELOW_M), (half, depth, height), Material.METAL, colour, faces=(*WALLS, TOP)),
        _walls((-half + 0.5, -0.04, height - 2.4), (half - 0.5, 0.0, height - 0.6), Material.SHOP, colour, style),
        block((-2.4, -0.08, -BELOW_M), (2.4, 0.0, 4.2), Material.PAINT, (0.45, 0.45, 0.43)),
        block((-half - 0.15, -0.15, height - 0.3), (half + 0.15, depth + 0.15, height), Material.PLAIN,
              tuple(0.5 * np.array(colour))),
    ])  # fmt: skip
