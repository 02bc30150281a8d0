"""Pedestrians and riders from a few tapered limbs."""

import numpy as np

from ..materials import Material
from ..mesh import Mesh, blob, block, join_meshes, tube
from .parts import fit_to_box

SKINS = ((0.55, 0.38, 0.28), (0.42, 0.27, 0.18), (0.22, 0.13, 0.08), (0.62, 0.45, 0.35))
HAIRS = ((0.02, 0.015, 0.01), (0.10, 0.06, 0.03), (0.30, 0.20, 0.08), (0.25, 0.24, 0.23))
SHIRTS = ((0.60, 0.08, 0.07), (0.07, 0.15, 0.40), (0.70, 0.70, 0.68), (0.05, 0.05, 0.06), (0.12, 0.32, 0.16),
          (0.65, 0.45, 0.10), (0.30, 0.30, 0.32), (0.35, 0.12, 0.30), (0.15, 0.40, 0.45))  # fmt: skip
TROUSERS = ((0.04, 0.06, 0.14), (0.03, 0.03, 0.035), (0.20, 0.17, 0.12), (0.25, 0.25, 0.27), (0.12, 0.10, 0.08))
HI_VIS = (0.80, 0.30, 0.02)
HELMET = (0.80, 0.60, 0.05)
SHOE = (0.03, 0.025, 0.02)


def _pick(rng: np.random.Generator, colours: tuple) -> tuple[float, ...]:
    return tuple(np.clip(np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.7, 1.2), 0.01, 0.85))


def _head(x: float, z: float, rng: np.random.Generator, *, hat: tuple | None = None) -> list[Mesh]:
    """Head of 24 cm with hair or a helmet whose top is at ``z``."""
    face = blob((x + 0.01, 0, z - 0.13), (0.095, 0.08, 0.125), Material.PLAIN, _pick(rng, SKINS))
    hair = _pick(rng, HAIRS) if hat is None else hat
    back = 0.105 if hat is None else 0.125
    return [face, blob((x - 0.02, 0, z - 0.085), (back, back - 0.01, 0.085), Material.PLAIN, hair)]


def _limb(points: list[tuple], radii: list[float], colour: tuple) -> list[Mesh]:
    return [tube(a, b, ra, Material.PLAIN, colour, end_radius=rb, sides=6)
            for a, b, ra, rb in zip(points, points[1:], radii, radii[1:])]  # fmt: skip


def build_pedestrian(
    rng: np.random.Generator, size_wlh: tuple[float, float, float], *, worker: bool = False, walking: bool = True
) -> Mesh:
    """A person of about natural proportions in mid stride or standing."""
    height = size_wlh[2]
    k = height / 1.76
    stride = 0.30 * k if walking else 0.05
    swing = 0.20 * k if walking else 0.02
    shirt = HI_VIS if worker else _pick(rng, SHIRTS)
    trousers, skin = _pick(rng, TROUSERS), _pick(rng, SKINS)
    hip, shoulder, neck = 0.90 * k, 1.44 * k, 1.52 * k
    parts: list[Mesh] = []
    for side in (1, -1):
        foot, knee = side * stride, side * stride * 0.6 + 0.06
        y = side * 0.10 * k
        parts += _limb([(0, y, hip), (knee, y, 0.48 * k), (foot, y, 0.08)], [0.095, 0.07, 0.05], trousers)
        parts.append(block((foot - 0.08, y - 0.045, 0), (foot + 0.17, y + 0.045, 0.09), Material.PLAIN, SHOE,
                           inset_x=(0.02, 0.10)))  # fmt: skip
        hand = -side * swing
        arm = side * 0.25 * k
        parts += _limb([(0, side * 0.20 * k, shoulder - 0.02), (hand * 0.4 - 0.03, arm, 1.13 * k),
                        (hand + 0.05, arm, 0.88 * k)], [0.06, 0.05, 0.04], shirt)  # fmt: skip
        parts.append(blob((hand + 0.06, arm, 0.84 * k), (0.045, 0.035, 0.06), Material.PLAIN, skin))
    parts += _limb([(0, 0, hip - 0.08), (0, 0, hip + 0.14)], [0.17, 0.15], trousers)
    parts.append(block((-0.11 * k, -0.17 * k, hip + 0.02), (0.11 * k, 0.17 * k, 1.30 * k), Material.PLAIN, shirt,
                       inset_x=(-0.015, -0.015), inset_y=-0.04))  # fmt: skip
    parts.append(block((-0.125 * k, -0.21 * k, 1.30 * k), (0.125 * k, 0.21 * k, neck), Material.PLAIN, shirt,
                       inset_x=(0.06, 0.06), inset_y=0.12))  # fmt: skip
    parts += _limb([(0, 0, neck - 0.03), (0.01, 0, neck + 0.06)], [0.055, 0.05], skin)
    parts += _head(0.02, height, rng, hat=HELMET if worker else None)
    if worker:
        parts += [block((-0.135 * k, -0.205 * k, z * k), (0.135 * k, 0.205 * k, (z + 0.05) * k), Material.PLATE,
                        (0.75, 0.78, 0.60)) for z in (1.02, 1.18)]  # fmt: skip
    elif rng.random() < 0.3:
        parts.append(block((-0.28 * k, -0.14 * k, 1.02 * k), (-0.12 * k, 0.14 * k, 1.45 * k), Material.PLAIN,
                           _pick(rng, SHIRTS), inset_x=(0.04, 0.0), inset_y=0.02))  # fmt: skip
    return fit_to_box(join_meshes(parts), size_wlh)


def build_rider(
    rng: np.random.Generator, seat: tuple[float, float], bar: tuple[float, float], pedal: tuple[float, float],
    top: float, *, helmet: tuple | None = None,
) -> Mesh:  # fmt: skip
    """Somebody who sits at ``seat`` (x, z), holds the ``bar`` and pedals at ``pedal``; ``top`` is the height."""
    shirt, trousers = _pick(rng, SHIRTS), _pick(rng, TROUSERS)
    neck = (seat[0] + 0.55 * (bar[0] - seat[0]), top - 0.24)
    parts: list[Mesh] = []
    for side in (1, -1):
        knee = ((seat[0] + pedal[0]) / 2 + 0.26, (seat[1] + pedal[1]) / 2 + 0.10 - 0.12 * side)
        y = side * 0.10
        foot = (pedal[0], y, pedal[1] + 0.10 * (1 - side))
        parts += _limb([(seat[0], y, seat[1] + 0.03), (knee[0], y, knee[1]), foot], [0.09, 0.065, 0.045], trousers)
        parts += _limb([(neck[0], side * 0.18, neck[1] - 0.05), (neck[0] + 0.12, side * 0.26, neck[1] - 0.28),
                        (bar[0], side * 0.24, bar[1])], [0.055, 0.045, 0.04], shirt)  # fmt: skip
    spine = np.array([neck[0] - seat[0], 0.0, neck[1] - seat[1]])
    middle = np.array([seat[0], 0.0, seat[1]]) + 0.5 * spine - [0.03, 0.0, 0.0]
    waist = (seat[0], 0, seat[1] - 0.03)
    parts.append(tube(waist, tuple(middle), 0.15, Material.PLAIN, shirt, end_radius=0.18, sides=8))
    parts.append(tube(tuple(middle), (neck[0], 0, neck[1]), 0.18, Material.PLAIN, shirt, end_radius=0.10, sides=8))
    parts += _head(neck[0] + 0.06, top, rng, hat=helmet)
    return join_meshes(parts)
