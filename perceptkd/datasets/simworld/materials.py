"""Surface materials: how cameras shade them and how much of a LiDAR pulse they send back."""

from enum import IntEnum

import numpy as np


class Material(IntEnum):
    """What a triangle is made of. Texture coordinates are metres unless stated."""

    GROUND = 0  # texture: (s, d) of the road
    PAINT = 1
    GLASS = 2
    RUBBER = 3
    FACADE = 4  # colour: wall
    FOLIAGE = 5
    WOOD = 6
    METAL = 7
    SIGN = 8  # texture: -1..1 over the plate
    BRICK = 9
    FENCE = 10
    LAMP = 11  # gives light of its own colour at night
    TAIL = 12  # red rear light
    PLAIN = 13  # cloth, skin, plastic
    STRIPED = 14  # barrier boards: white with slanted bands of the colour
    BANDED = 15  # cones: the colour with white bands, texture v in 0..1
    ROOF = 16
    SHOP = 17  # ground floor with shop windows
    PLATE = 18  # licence plate, reflecting
    WHEEL = 19  # texture: -1..1 over the disc


REFLECTANCE = np.zeros(len(Material))
"""Share of a LiDAR pulse sent back at normal incidence, by material."""
for _material, _share in {
    Material.GROUND: 0.16, Material.PAINT: 0.35, Material.GLASS: 0.06, Material.RUBBER: 0.08,
    Material.FACADE: 0.35, Material.FOLIAGE: 0.30, Material.WOOD: 0.25, Material.METAL: 0.45,
    Material.SIGN: 1.00, Material.BRICK: 0.30, Material.FENCE: 0.30, Material.LAMP: 0.60,
    Material.TAIL: 0.70, Material.PLAIN: 0.28, Material.STRIPED: 0.55, Material.BANDED: 0.60,
    Material.ROOF: 0.20, Material.SHOP: 0.20, Material.PLATE: 0.95, Material.WHEEL: 0.20,
}.items():  # fmt: skip
    REFLECTANCE[_material] = _share

LOSS = np.zeros(len(Material))
"""Probability that a return is lost whatever the range, by material: mirrors and glass send pulses elsewhere."""
LOSS[Material.GLASS] = 0.88
LOSS[Material.SHOP] = 0.45
LOSS[Material.FACADE] = 0.15
LOSS[Material.PAINT] = 0.06
LOSS[Material.RUBBER] = 0.25

POROSITY = np.zeros(len(Material))
"""Probability that a ray passes through a surface, by material: foliage, wire fences."""
POROSITY[Material.FOLIAGE] = 0.35
POROSITY[Material.FENCE] = 0.55
FACADE_PERIOD_M = 1000.0
"""Facade and shop textures are u = period * style + metres: the style picks the windows' size, rhythm and colour."""
