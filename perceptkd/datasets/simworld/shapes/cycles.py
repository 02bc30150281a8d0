"""Bicycles and motorcycles, with or without a rider."""

import numpy as np

from ..materials import Material
from ..mesh import Mesh, blob, block, join_meshes, quads, tube
from .parts import DARK, RED_LAMP, STEEL, WHITE_LAMP, draw_colour, fit_to_box, panel
from .people import build_rider

HELMETS = ((0.75, 0.75, 0.73), (0.03, 0.03, 0.03), (0.55, 0.06, 0.05), (0.06, 0.12, 0.40))


def _hoop(x: float, radius: float, tyre: float, width: float) -> list[Mesh]:
    """Wheel one can see through: a rim of a rectangular section and six spokes."""
    angle = 2 * np.pi * np.arange(15) / 14
    ring = np.stack([np.cos(angle), np.zeros(15), np.sin(angle)], -1)
    centre = np.array([x, 0.0, radius])
    outer, inner, y = centre + radius * ring, centre + (radius - tyre) * ring, np.array([0.0, width / 2, 0.0])
    faces = [
        np.stack([a[:-1], a[1:], b[1:], b[:-1]], 1)
        for a, b in ((outer - y, inner - y), (inner + y, outer + y), (outer + y, outer - y), (inner - y, inner + y))
    ]
    corners = np.concatenate(faces)
    spokes = [tube(tuple(centre), tuple(centre + (radius - tyre) * ring[k]), 0.006, Material.METAL, STEEL, sides=3)
              for k in range(0, 14, 2)]  # fmt: skip
    return [quads(corners, corners[..., [0, 2]], Material.RUBBER, DARK), *spokes]


def build_bicycle(rng: np.random.Generator, size_wlh: tuple[float, float, float], *, rider: bool = False) -> Mesh:
    """A bicycle with thin frame; with a rider the box is as high as the rider."""
    _, length, height = size_wlh
    radius = 0.335
    back, front = -length / 2 + radius, length / 2 - radius
    paint = draw_colour(rng)
    seat, bar = (back + 0.22, 0.95), (front - 0.16, 1.04)
    crank, head = ((back + front) / 2 - 0.06, 0.28), (front - 0.12, 0.82)

    def bar_of(a: tuple, b: tuple, thick: float, colour: tuple = paint) -> Mesh:
        return tube((a[0], 0, a[1]), (b[0], 0, b[1]), thick, Material.PAINT, colour, sides=5)

    under_seat = (seat[0] + 0.03, 0.80)
    parts = [
        *_hoop(back, radius, 0.045, 0.04), *_hoop(front, radius, 0.045, 0.04),
        bar_of(crank, seat, 0.02), bar_of(crank, head, 0.024), bar_of(under_seat, head, 0.02),
        bar_of(crank, (back, radius), 0.014), bar_of(under_seat, (back, radius), 0.014),
        bar_of((front, radius), bar, 0.02),
        block((seat[0] - 0.13, -0.07, 0.94), (seat[0] + 0.13, 0.07, 1.0), Material.PLAIN, DARK, inset_x=(0, 0.05)),
        tube((bar[0], -0.29, bar[1]), (bar[0], 0.29, bar[1]), 0.016, Material.METAL, STEEL, sides=5),
        tube((crank[0], -0.09, crank[1]), (crank[0], 0.09, crank[1]), 0.07, Material.METAL, STEEL, sides=8,
             capped=True),
        block((back + 0.05, -0.06, 0.70), (back + 0.35, 0.06, 0.72), Material.METAL, STEEL),
        panel(back - 0.02, (-0.03, 0.03), (0.62, 0.70), Material.TAIL, RED_LAMP, facing=-1),
    ]  # fmt: skip
    if rider:
        helmet = HELMETS[rng.integers(len(HELMETS))] if rng.random() < 0.6 else None
        parts.append(build_rider(rng, (seat[0], 0.98), bar, (crank[0], 0.16), height, helmet=helmet))
    return fit_to_box(join_meshes(parts), size_wlh)


def build_motorcycle(rng: np.random.Generator, size_wlh: tuple[float, float, float], *, rider: bool = False) -> Mesh:
    """A motorcycle or scooter."""
    _, length, height = size_wlh
    radius = 0.31
    back, front = -length / 2 + radius, length / 2 - radius
    paint = draw_colour(rng)
    scooter = rng.random() < 0.4
    bar = (front - 0.32, 1.06)
    wheels = [tube((x, -0.07, radius), (x, 0.07, radius), radius, Material.RUBBER, DARK, sides=14, capped=True)
              for x in (back, front)]  # fmt: skip
    parts = [
        *wheels,
        block((back + 0.10, -0.16, 0.30), (front - 0.42, 0.16, 0.62), Material.METAL, (0.12, 0.12, 0.13),
              inset_x=(0.1, 0.1)),
        block((back - 0.15, -0.14, 0.62), (bar[0] - 0.45, 0.14, 0.80), Material.PLAIN, DARK, inset_x=(0.0, 0.1),
              inset_y=0.03),
        tube((front, 0, radius), (bar[0], 0, 1.02), 0.05, Material.METAL, STEEL, sides=6),
        tube((bar[0], -0.38, bar[1]), (bar[0], 0.38, bar[1]), 0.02, Material.METAL, DARK, sides=5),
        block((front - 0.25, -0.09, 0.80), (front - 0.08, 0.09, 0.98), Material.PAINT, paint, inset_x=(0.02, 0.05)),
        panel(front - 0.075, (-0.07, 0.07), (0.82, 0.95), Material.LAMP, WHITE_LAMP, facing=1),
        panel(back - 0.16, (-0.09, 0.09), (0.66, 0.74), Material.TAIL, RED_LAMP, facing=-1),
        tube((bar[0], -0.33, bar[1]), (bar[0] - 0.03, -0.36, 1.30), 0.012, Material.METAL, DARK, sides=4),
        blob((bar[0] - 0.03, 0.36, 1.30), (0.02, 0.07, 0.05), Material.METAL, STEEL),
        tube((back + 0.35, -0.19, 0.34), (back - 0.20, -0.19, 0.42), 0.06, Material.METAL, STEEL, sides=6, capped=True),
    ]  # fmt: skip
    if scooter:
        parts += [block((front - 0.42, -0.22, 0.32), (front - 0.30, 0.22, 0.98), Material.PAINT, paint, inset_y=0.06),
                  block((back - 0.20, -0.18, 0.35), (back + 0.55, 0.18, 0.70), Material.PAINT, paint,
                        inset_y=0.04)]  # fmt: skip
    else:
        parts.append(blob((bar[0] - 0.32, 0, 0.82), (0.30, 0.17, 0.17), Material.PAINT, paint))
    if rider:
        helmet = HELMETS[rng.integers(len(HELMETS))]
        parts.append(build_rider(rng, (back + 0.38, 0.84), bar, (back + 0.65, 0.34), height, helmet=helmet))
    return fit_to_box(join_meshes(parts), size_wlh)
