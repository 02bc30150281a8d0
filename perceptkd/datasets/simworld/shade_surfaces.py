"""Looks of everything but the ground: facades, shop fronts, foliage, signs, wheels, bricks.

Every function returns (r, g, b, mirror, glow): linear albedo, mirror share at normal incidence, and light given off as
a multiple of the albedo.
"""

import numpy as np

from .kernel import kernel
from .materials import FACADE_PERIOD_M, Material
from .textures import cell_hash, cover, noise_at, stripes, visible

_PAINT, _GLASS, _RUBBER, _FACADE, _FOLIAGE = (
    int(m) for m in (Material.PAINT, Material.GLASS, Material.RUBBER, Material.FACADE, Material.FOLIAGE)
)
_WOOD, _METAL, _SIGN, _BRICK, _LAMP = (
    int(m) for m in (Material.WOOD, Material.METAL, Material.SIGN, Material.BRICK, Material.LAMP)
)
_TAIL, _STRIPED, _BANDED, _ROOF, _SHOP = (
    int(m) for m in (Material.TAIL, Material.STRIPED, Material.BANDED, Material.ROOF, Material.SHOP)
)
_PLATE, _WHEEL = int(Material.PLATE), int(Material.WHEEL)
PAINT_MIRROR, GLASS_MIRROR = 0.05, 0.10


@kernel
def shade_surface(
    material: int, u: float, v: float, fu: float, fv: float, r: float, g: float, b: float, night: bool,
    noise: np.ndarray,
) -> tuple[float, float, float, float, float]:  # fmt: skip
    """Look of a surface point of a material with base colour (r, g, b)."""
    if material == _FACADE:
        return _facade(u, v, fu, fv, r, g, b, night, noise)
    if material == _SHOP:
        return _shop(u, v, fu, fv, r, g, b, night, noise)
    if material == _FOLIAGE:
        return _foliage(u, v, fu, r, g, b, noise)
    if material == _PAINT:
        return r, g, b, PAINT_MIRROR, 0.0
    if material == _GLASS:
        return r, g, b, GLASS_MIRROR, 0.0
    if material == _LAMP:
        return r, g, b, 0.04, 14.0 if night else 0.9
    if material == _TAIL:
        return r, g, b, 0.04, 7.0 if night else 0.15
    if material in (_SIGN, _WHEEL, _STRIPED, _BANDED):
        return _marked(material, u, v, fu, fv, r, g, b)
    if material == _PLATE:
        return r, g, b, 0.0, 0.25 if night else 0.0
    if material == _METAL:
        rib = 1.0 - 0.18 * stripes(u, 0.35, 0.12, fu)
        return r * rib, g * rib, b * rib, 0.02, 0.0
    if material == _BRICK:
        tone = _bricks(u, v, fu, fv, noise)
        return r * tone, g * tone, b * tone, 0.0, 0.0
    if material == _ROOF:
        tone = (0.85 + 0.3 * noise_at(noise, u * 3, v * 3)) * (1.0 - 0.25 * stripes(v, 0.34, 0.07, fv))
        return r * tone, g * tone, b * tone, 0.0, 0.0
    if material == _WOOD:
        tone = 0.7 + 0.6 * noise_at(noise, u * 23, v * 2.5)
        return r * tone, g * tone, b * tone, 0.0, 0.0
    tone = 0.93 + 0.14 * noise_at(noise, u * 11, v * 11)
    return r * tone, g * tone, b * tone, 0.0, 0.0


@kernel
def _bricks(u: float, v: float, fu: float, fv: float, noise: np.ndarray) -> float:
    """Brightness of a brick bond."""
    row = int(np.floor(v / 0.085))
    shifted = u + 0.13 * (row & 1)
    joint = max(stripes(v, 0.085, 0.012, fv), stripes(shifted, 0.26, 0.012, fu))
    brick = (cell_hash(int(np.floor(shifted / 0.26)), row) - 0.5) * visible(0.09, max(fu, fv))
    return (1.0 + 0.35 * brick) * (1.0 + 0.35 * joint) * (0.85 + 0.3 * noise_at(noise, u * 1.5, v * 1.5))


@kernel
def _facade(
    u: float, v: float, fu: float, fv: float, r: float, g: float, b: float, night: bool, noise: np.ndarray
) -> tuple[float, float, float, float, float]:
    """Wall with rows of windows whose size and rhythm come from the building's style."""
    style = int(np.floor(u / FACADE_PERIOD_M))
    x = u - style * FACADE_PERIOD_M
    kind = cell_hash(style, 1)
    bay = 2.1 + 1.9 * cell_hash(style, 2)
    wide, high = bay * (0.38 + 0.30 * cell_hash(style, 3)), 1.3 + 0.7 * cell_hash(style, 4)
    storey = 3.2
    if kind > 0.78:  # office: bands of glass
        wide, high = bay * 0.94, 2.1
    column, row = int(np.floor(x / bay)), int(np.floor((v - 0.6) / storey))
    dx, dy = x - (column + 0.5) * bay, v - 0.6 - (row + 0.55) * storey
    glass = cover(dx, wide / 2, fu) * cover(dy, high / 2, fv)
    tone = _bricks(x, v, fu, fv, noise) if kind < 0.35 else 0.88 + 0.24 * noise_at(noise, x * 1.7, v * 1.7)
    tone *= 1.0 - 0.25 * cover(dy + high / 2 + 0.09, 0.07, fv) * cover(dx, wide / 2 + 0.1, fu)
    tone *= 1.0 - 0.15 * cover((v - 0.6) / storey - np.floor((v - 0.6) / storey), 0.03, fv / storey)
    tone *= min(1.0, 0.75 + 0.12 * max(v, 0.0))
    if v < 0.6 or glass <= 0.0:
        return r * tone, g * tone, b * tone, 0.0, 0.0
    frame = 1.0 - cover(dx, wide / 2 - 0.07, fu) * cover(dy, high / 2 - 0.07, fv)
    frame = max(frame, cover(dx, 0.03, fu)) * visible(0.1, max(fu, fv))
    draw = cell_hash(column * 7 + style, row * 13 + 5)
    pane, glow = 0.045, 0.0
    if night and draw < 0.34:
        pane, glow = 0.30, 1.1 + 1.6 * cell_hash(column, row + style)
    elif draw > 0.62:  # curtain or blind over the upper part
        pane += 0.20 * cover(dy - high * (draw - 0.62), high * 0.5, fv)
    light = 0.55 if cell_hash(style, 6) > 0.4 else 0.06
    pr, pg, pb = pane * (1.0 + 0.25 * (glow > 0)), pane, pane * (0.62 if glow > 0 else 1.08)
    pr, pg, pb = pr + frame * (light - pr), pg + frame * (light - pg), pb + frame * (light - pb)
    keep = 1.0 - glass
    return (r * tone * keep + pr * glass, g * tone * keep + pg * glass, b * tone * keep + pb * glass,
            GLASS_MIRROR * 0.9 * glass * (1.0 - frame), glow * glass * (1.0 - frame))  # fmt: skip


@kernel
def _shop(
    u: float, v: float, fu: float, fv: float, r: float, g: float, b: float, night: bool, noise: np.ndarray
) -> tuple[float, float, float, float, float]:
    """Ground floor: large panes with goods behind them, posts, a plinth, doors."""
    style = int(np.floor(u / FACADE_PERIOD_M))
    x = u - style * FACADE_PERIOD_M
    bay = 2.3 + 1.4 * cell_hash(style, 12)
    column = int(np.floor(x / bay))
    dx = x - (column + 0.5) * bay
    door = cell_hash(column, style + 40) < 0.25
    sill = 0.05 if door else 0.55
    glass = cover(dx, (0.55 if door else bay / 2 - 0.14), fu) * cover(v - (sill + 2.9) / 2, (2.9 - sill) / 2, fv)
    goods = noise_at(noise, x * 2.6 + 9 * column, v * 3.1)
    hue = cell_hash(column, style + 3)
    lit = night and cell_hash(column // 2, style + 8) < 0.7
    level = (0.04 + 0.16 * max(0.0, goods - 0.45)) * (2.6 if lit else 1.0)
    pr, pg, pb = level * (0.8 + 0.6 * hue), level, level * (1.3 - 0.6 * hue)
    keep = 1.0 - glass
    tone = 0.85 + 0.3 * noise_at(noise, x * 3, v * 3)
    glow = (1.9 if lit else 0.4) * glass
    return (r * tone * keep + pr * glass, g * tone * keep + pg * glass, b * tone * keep + pb * glass,
            GLASS_MIRROR * glass, glow)  # fmt: skip


@kernel
def _foliage(
    u: float, v: float, fu: float, r: float, g: float, b: float, noise: np.ndarray
) -> tuple[float, float, float, float, float]:
    """Leaves: dark gaps and bright tips at two scales."""
    clump, leaf = noise_at(noise, u * 5.1, v * 5.1), noise_at(noise, u * 23.0 + 31, v * 23.0)
    tone = 0.25 + 1.0 * clump + 0.9 * visible(0.09, fu) * (leaf - 0.5)
    tone = max(tone, 0.12)
    return r * tone * (0.9 + 0.3 * clump), g * tone, b * tone, 0.0, 0.0


@kernel
def _marked(
    material: int, u: float, v: float, fu: float, fv: float, r: float, g: float, b: float
) -> tuple[float, float, float, float, float]:
    """Sign plates, wheels, striped boards and banded cones."""
    white = 0.0
    if material == _SIGN:
        radius = np.hypot(u, v)
        rim = cover(radius - 0.93, 0.05, fu)
        if r > 2.5 * g and r > 2.5 * b:
            white = max(rim, cover(radius, 0.58, fu))
        else:
            post, bar = cover(u, 0.10, fu) * cover(v, 0.45, fv), cover(v - 0.3, 0.09, fv) * cover(u, 0.35, fu)
            white = max(rim, post, bar)
    elif material == _WHEEL:
        radius = np.hypot(u, v)
        rim = cover(radius, 0.62, fu)
        spoke = 0.45 + 0.55 * (np.cos(5.0 * np.arctan2(v, u)) > -0.2) if radius > 0.15 else 1.0
        dark = 0.03
        r, g, b = r * spoke - dark, g * spoke - dark, b * spoke - dark
        return dark + rim * r, dark + rim * g, dark + rim * b, 0.02, 0.0
    elif material == _STRIPED:
        white = stripes(u + v, 0.50, 0.25, fu + fv)
    else:
        white = max(cover(v - 0.42, 0.09, fv), cover(v - 0.72, 0.07, fv))
    return r + white * (0.72 - r), g + white * (0.72 - g), b + white * (0.70 - b), 0.02, 0.0
