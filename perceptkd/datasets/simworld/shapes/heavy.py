"""Trucks, trailers and buses."""

import numpy as np

from ..materials import Material
from ..mesh import Mesh, block, join_meshes, tube
from .parts import DARK, GLASS, STEEL, axle, draw_colour, fit_to_box, lamps, loft, panel, plate, side_panel

CARGO_COLOURS = ((0.72, 0.72, 0.70), (0.60, 0.61, 0.62), (0.10, 0.20, 0.42), (0.55, 0.10, 0.08), (0.12, 0.30, 0.18),
                 (0.70, 0.55, 0.12), (0.35, 0.36, 0.38))  # fmt: skip
BUS_COLOURS = ((0.60, 0.08, 0.08), (0.10, 0.35, 0.20), (0.75, 0.73, 0.68), (0.10, 0.22, 0.48), (0.72, 0.50, 0.08))


def _draw(rng: np.random.Generator, colours: tuple) -> tuple[float, ...]:
    return tuple(np.clip(np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.85, 1.1), 0.02, 0.85))


def _cab(back: float, front: float, half: float, height: float, paint: tuple) -> list[Mesh]:
    """Driver's cab with windscreen, side windows, grille and lamps."""
    belt = 0.56 * height
    return [
        loft([(back, 0.16 * height, height, half, 0.94 * half),
              (front - 0.35, 0.16 * height, height, half, 0.94 * half),
              (front - 0.22, 0.16 * height, 0.93 * height, half, 0.92 * half),
              (front - 0.02, 0.16 * height, belt, half, 0.97 * half),
              (front, 0.18 * height, 0.52 * height, 0.98 * half, 0.95 * half)], Material.PAINT, paint),
        loft([(front - 0.24, belt + 0.05, 0.91 * height, 0.88 * half, 0.83 * half),
              (front - 0.01, belt + 0.02, belt + 0.03, 0.88 * half, 0.88 * half)], Material.GLASS, GLASS),
        *(side_panel(side * (half + 0.004), (back + 0.35, front - 0.45), (belt, 0.86 * height), Material.GLASS, GLASS)
          for side in (1, -1)),
        panel(front + 0.01, (-0.6 * half, 0.6 * half), (0.28 * height, 0.48 * height), Material.PLAIN, DARK, facing=1),
        lamps(front + 0.015, (0.66 * half, 0.92 * half), (0.24 * height, 0.30 * height), Material.LAMP, facing=1),
        plate(front + 0.02, 0.21 * height, facing=1),
    ]  # fmt: skip


def _rear(x: float, half: float, z: float) -> list[Mesh]:
    pair = lamps(x, (0.62 * half, 0.92 * half), (z, z + 0.16), Material.TAIL, facing=-1)
    return [pair, plate(x, z + 0.05, facing=-1)]


def _cargo(kind: int, back: float, front: float, floor: float, half: float, height: float, paint: tuple) -> list[Mesh]:
    """Box with ribs and doors, tank, or open bed with a load."""
    if kind == 1:
        radius = min(half, (height - floor) / 2)
        middle = floor + radius
        return [tube((back, 0, middle), (front, 0, middle), radius, Material.METAL, (0.62, 0.63, 0.65), sides=14,
                     capped=True)]  # fmt: skip
    if kind == 2:
        side = floor + 0.6
        bed = [block((back, s * half - (0.08 if s > 0 else 0), floor), (front, s * half + (0.08 if s < 0 else 0), side),
                     Material.PAINT, paint) for s in (1, -1)]  # fmt: skip
        load = block((back + 0.3, -0.8 * half, floor), (front - 0.2, 0.8 * half, height), Material.WOOD,
                     (0.25, 0.18, 0.11), inset_x=(0.5, 0.5), inset_y=0.35)  # fmt: skip
        return [*bed, block((back, -half, floor - 0.1), (front, half, floor), Material.PLAIN, DARK), load,
                block((front - 0.08, -half, floor), (front, half, side + 0.5), Material.PAINT, paint)]  # fmt: skip
    body = block((back, -half, floor), (front, half, height), Material.PAINT, paint)
    ribs = [block((x, s * half - 0.01, floor), (x + 0.05, s * half + 0.01, height), Material.METAL, STEEL)
            for x in np.arange(back + 0.02, front, 1.2) for s in (1, -1)]  # fmt: skip
    doors = [panel(back - 0.012, (y, y + 0.04), (floor + 0.05, height - 0.1), Material.PLAIN, STEEL, facing=-1)
             for y in (-0.55 * half, -0.02, 0.5 * half)]  # fmt: skip
    stripe = [side_panel(s * (half + 0.006), (back + 0.4, front - 0.4), (floor + 0.5, floor + 0.9), Material.PAINT,
                         tuple(0.3 * c for c in paint)) for s in (1, -1)]  # fmt: skip
    return [body, *ribs, *doors, *stripe]


def build_truck(rng: np.random.Generator, size_wlh: tuple[float, float, float]) -> Mesh:
    """A lorry: cab and box, tank or bed."""
    width, length, height = size_wlh
    half, back, front = width / 2 - 0.03, -length / 2, length / 2
    cab = min(2.2, 0.32 * length)
    cab_height = min(height, rng.uniform(2.3, 2.7))
    kind = int(rng.choice(3, p=[0.62, 0.14, 0.24]))
    radius = 0.48
    parts = [
        block((back, -0.55 * half, 0.55), (front - cab, 0.55 * half, 0.95), Material.PLAIN, DARK),
        *_cab(front - cab, front, half * 0.97, cab_height, draw_colour(rng)),
        *_cargo(kind, back, front - cab - 0.1, 1.0, half, height, _draw(rng, CARGO_COLOURS)),
        *(axle(x, width / 2, radius, 0.32) for x in (front - 0.6 * cab, back + 0.22 * length)),
        *_rear(back - 0.02, half, 0.72),
        block((back - 0.01, -half, 0.45), (back + 0.06, half, 0.6), Material.METAL, STEEL),
    ]
    return fit_to_box(join_meshes(parts), size_wlh)


def build_trailer(rng: np.random.Generator, size_wlh: tuple[float, float, float]) -> Mesh:
    """A semi-trailer: long box or tank over three rear axles."""
    width, length, height = size_wlh
    half, back, front = width / 2 - 0.03, -length / 2, length / 2
    kind = int(rng.choice(3, p=[0.75, 0.15, 0.10]))
    parts = [
        block((back, -0.5 * half, 0.8), (front - 0.3, 0.5 * half, 1.15), Material.PLAIN, DARK),
        *_cargo(kind, back, front, 1.2, half, height, _draw(rng, CARGO_COLOURS)),
        *(axle(back + x, width / 2, 0.5, 0.5) for x in (1.3, 2.5, 3.7)),
        *(block((front - 2.6, y - 0.08, 0), (front - 2.4, y + 0.08, 1.2), Material.METAL, STEEL) for y in (-0.7, 0.7)),
        *_rear(back - 0.02, half, 0.85),
    ]
    return fit_to_box(join_meshes(parts), size_wlh)


def build_bus(rng: np.random.Generator, size_wlh: tuple[float, float, float]) -> Mesh:
    """A city bus."""
    width, length, height = size_wlh
    half, back, front = width / 2 - 0.03, -length / 2, length / 2
    paint, base = _draw(rng, BUS_COLOURS), 0.30
    top = height - 0.25
    low, high = 0.42 * height, 0.80 * height
    windows = []
    for side in (1, -1):
        edges = np.arange(back + 0.6, front - 1.3, 1.45)
        windows += [side_panel(side * (half + 0.006), (x, x + 1.33), (low, high), Material.GLASS, GLASS) for x in edges]
        windows.append(side_panel(side * (half + 0.006), (back + 0.1, front - 0.2), (base + 0.35, base + 0.5),
                                  Material.PAINT, (0.75, 0.75, 0.73)))  # fmt: skip
    doors = [side_panel(-half - 0.012, (x, x + 1.15), (base + 0.08, high), Material.GLASS, (0.07, 0.08, 0.09))
             for x in (front - 1.6, 0.0)]  # fmt: skip
    parts = [
        loft([(back, base, top, half, 0.95 * half), (front - 0.25, base, top, half, 0.95 * half),
              (front, base, top - 0.15, 0.97 * half, 0.92 * half)], Material.PAINT, paint),
        loft([(x, top, height, 0.8 * half, 0.7 * half) for x in (back + 0.8, back + 0.5 * length)], Material.ROOF,
             (0.6, 0.6, 0.6)),
        *windows, *doors,
        panel(front + 0.012, (-0.90 * half, 0.90 * half), (0.34 * height, 0.76 * height), Material.GLASS, GLASS,
              facing=1),
        panel(front + 0.014, (-0.6 * half, 0.6 * half), (0.80 * height, 0.87 * height), Material.PLATE,
              (0.6, 0.35, 0.05), facing=1),
        panel(back - 0.012, (-0.75 * half, 0.75 * half), (0.50 * height, 0.76 * height), Material.GLASS, GLASS,
              facing=-1),
        *(axle(x, width / 2, 0.48, 0.3) for x in (front - 2.6, back + 2.9)),
        lamps(front + 0.015, (0.66 * half, 0.92 * half), (0.19 * height, 0.25 * height), Material.LAMP, facing=1),
        *_rear(back - 0.02, half, 0.26 * height),
    ]  # fmt: skip
    return fit_to_box(join_meshes(parts), size_wlh)
