"""Passenger cars: sedan, hatchback, SUV and van from one set of lofted sections."""

from typing import NamedTuple

import numpy as np

from ..materials import Material
from ..mesh import BACK, FRONT, LEFT, RIGHT, Mesh, hexahedron, join_meshes
from .parts import DARK, GLASS, axle, draw_colour, fit_to_box, lamps, loft, panel, plate


class CarStyle(NamedTuple):
    """Proportions: x as share of the length from the middle, z as share of the height."""

    hood: float  # height of the bonnet
    belt: float  # height of the lower edge of the windows
    cabin: tuple[float, float]  # rear and front foot of the glass house
    roof: tuple[float, float]  # rear and front end of the roof
    boot: float  # height of the tail


STYLES = {
    "sedan": CarStyle(hood=0.53, belt=0.62, cabin=(-0.36, 0.24), roof=(-0.21, 0.06), boot=0.64),
    "hatch": CarStyle(hood=0.54, belt=0.61, cabin=(-0.485, 0.24), roof=(-0.38, 0.06), boot=0.61),
    "suv": CarStyle(hood=0.56, belt=0.61, cabin=(-0.49, 0.23), roof=(-0.42, 0.08), boot=0.60),
    "van": CarStyle(hood=0.50, belt=0.56, cabin=(-0.495, 0.38), roof=(-0.47, 0.20), boot=0.56),
}


def build_car(rng: np.random.Generator, size_wlh: tuple[float, float, float]) -> Mesh:
    """A car of one of the four styles."""
    width, length, height = size_wlh
    names = list(STYLES) if height > 1.62 else ["sedan", "hatch"]
    style = STYLES[names[rng.integers(len(names))]]
    paint = draw_colour(rng)
    half = width / 2 - 0.02
    parts = [
        _body(style, length, height, half, paint),
        _glass_house(style, length, height, half, paint),
        *(axle(x * length, width / 2, 0.205 * height + 0.01, 0.22) for x in (-0.29, 0.31)),
        *_trim(style, length, height, half),
    ]
    return fit_to_box(join_meshes(parts), size_wlh)


def _body(style: CarStyle, length: float, height: float, half: float, paint: tuple) -> Mesh:
    boot, belt, hood = style.boot, style.belt, style.hood
    stations = [
        (-0.500, 0.28, boot - 0.10, 0.88, 0.84),
        (-0.480, 0.17, boot - 0.02, 0.96, 0.90),
        (-0.36, 0.14, boot, 1.0, 0.95),
        (0.02, 0.13, belt, 1.0, 0.96),
        (style.cabin[1] + 0.01, 0.14, min(belt, hood + 0.05), 1.0, 0.94),
        (0.43, 0.16, hood - 0.03, 0.97, 0.88),
        (0.485, 0.18, hood - 0.10, 0.90, 0.80),
        (0.500, 0.24, hood - 0.20, 0.82, 0.74),
    ]
    metres = [(x * length, lo * height, hi * height, yl * half, yh * half) for x, lo, hi, yl, yh in stations]
    return loft(metres, Material.PAINT, paint)


def _glass_house(style: CarStyle, length: float, height: float, half: float, paint: tuple) -> Mesh:
    """Windows all round between the belt line and a painted roof, with painted pillars."""
    (foot_back, foot_front), (roof_back, roof_front) = style.cabin, style.roof
    low, high = (style.belt - 0.03) * height, 0.955 * height
    wide, narrow = 0.93 * half, 0.76 * half

    def ring(back: float, front: float, y: float, z: float) -> list[tuple[float, float, float]]:
        return [(back * length, -y, z), (front * length, -y, z), (front * length, y, z), (back * length, y, z)]

    house = np.array(ring(foot_back, foot_front, wide, low) + ring(roof_back, roof_front, narrow, high))
    glass = hexahedron(house, Material.GLASS, GLASS, faces=(FRONT, BACK, LEFT, RIGHT))
    roof = loft([
        ((roof_back - 0.01) * length, high - 0.01, 0.985 * height, narrow + 0.02, narrow - 0.08),
        ((roof_back + roof_front) / 2 * length, high - 0.01, height, narrow + 0.02, narrow - 0.06),
        ((roof_front + 0.01) * length, high - 0.01, 0.975 * height, narrow + 0.02, narrow - 0.08),
    ], Material.PAINT, paint)  # fmt: skip
    pillars = [_pillar(house, share, paint) for share in (0.02, 0.40, 0.70, 0.97)]
    return join_meshes([glass, roof, *pillars])


def _pillar(house: np.ndarray, share: float, paint: tuple) -> Mesh:
    """Painted strip from belt to roof on both flanks at a share of the window's length."""
    strips = []
    for back, front in ((0, 1), (3, 2)):
        bottom, top = house[[back, front]], house[[back + 4, front + 4]]
        thick = 0.05 / np.linalg.norm(bottom[1] - bottom[0])
        low = [bottom[0] + (share + k * thick) * (bottom[1] - bottom[0]) for k in (-0.5, 0.5)]
        high = [top[0] + (share + k * thick) * (top[1] - top[0]) for k in (-0.5, 0.5)]
        outwards = np.array([0.0, 0.012 if back == 3 else -0.012, 0.0])
        corners = np.array([*low, *high]) + outwards
        inner = corners - 2 * outwards
        order = [0, 1, 3, 2]
        ends = [_wide(inner, corners, order[:2]), _wide(inner, corners, order[:1:-1])]
        strips.append(hexahedron(np.concatenate(ends), Material.PAINT, paint))
    return join_meshes(strips)


def _wide(inner: np.ndarray, outer: np.ndarray, pair: list[int]) -> np.ndarray:
    """Four corners (back right, front right, front left, back left) of a strip's end."""
    a, b = pair
    right, left = (inner, outer) if outer[a, 1] > inner[a, 1] else (outer, inner)
    return np.array([right[a], right[b], left[b], left[a]])


def _trim(style: CarStyle, length: float, height: float, half: float) -> list[Mesh]:
    """Lamps, plates, grille and bumper."""
    front, back = 0.5 * length + 0.004, -0.5 * length - 0.004
    nose = style.hood - 0.20
    return [
        lamps(0.489 * length + 0.01, (0.50 * half, 0.80 * half), (0.38 * height, 0.43 * height), Material.LAMP,
              facing=1),
        lamps(back + 0.004, (0.55 * half, 0.83 * half), (0.42 * height, (style.boot - 0.11) * height), Material.TAIL,
              facing=-1),
        panel(front, (-0.5 * half, 0.5 * half), (0.24 * height, nose * height), Material.PLAIN, DARK, facing=1),
        panel(back, (-0.7 * half, 0.7 * half), (0.28 * height, 0.34 * height), Material.PLAIN, DARK, facing=-1),
        plate(back - 0.004, 0.41 * height, facing=-1),
        plate(front + 0.004, 0.27 * height, facing=1),
    ]  # fmt: skip
