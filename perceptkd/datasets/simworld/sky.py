"""The sky: gradient, clouds, sun, a hazy skyline, and what mirrors see of the surroundings."""

from typing import NamedTuple

import numpy as np

from .kernel import kernel
from .textures import cell_hash, noise_at

Vector = tuple[float, float, float]


class Light(NamedTuple):
    """Light and air of one picture; positions are relative to the camera, directions global.

    Numbers only: an array in here would be reference-counted at every pixel.

    Args:
        sun_direction: Towards the sun.
        sun: Direct light.
        ambient: Light of the sky.
        zenith: Sky overhead.
        horizon: Sky at the horizon and fog.
        fog: Extinction per metre.
        cloud: Cloud cover 0..1.
        wetness: 0..1.
        sun_size: Brightness of the sun's disc; 0 when it is hidden.
        night: Whether lamps are lit.
        head: Place of the ego car's headlights.
        head_direction: Where they shine.
    """

    sun_direction: Vector
    sun: Vector
    ambient: Vector
    zenith: Vector
    horizon: Vector
    fog: float
    cloud: float
    wetness: float
    sun_size: float
    night: bool
    head: Vector
    head_direction: Vector


@kernel
def sky_colour(x: float, y: float, z: float, light: Light, noise: np.ndarray) -> tuple[float, float, float]:
    """Radiance from direction (x, y, z), skyline included."""
    up = max(z, 0.0)
    share = 1.0 - np.exp(-4.5 * up)
    r = light.horizon[0] + share * (light.zenith[0] - light.horizon[0])
    g = light.horizon[1] + share * (light.zenith[1] - light.horizon[1])
    b = light.horizon[2] + share * (light.zenith[2] - light.horizon[2])
    if light.cloud > 0.0 and up > 0.01:
        cx, cy = 34.0 * x / (up + 0.12), 34.0 * y / (up + 0.12)
        body = 0.65 * noise_at(noise, cx, cy) + 0.35 * noise_at(noise, 3.1 * cx + 17, 3.1 * cy)
        thick = min(1.0, max(0.0, 3.2 * (body - 0.82 + 0.62 * light.cloud))) * min(1.0, up * 8.0)
        shade = 0.90 - 0.30 * (body - 0.5)
        white = 0.85 * light.ambient[1] + 0.25 * light.sun[1]
        r += thick * 0.8 * (shade * white - r)
        g += thick * 0.8 * (shade * white - g)
        b += thick * 0.8 * (shade * white * 1.02 - b)
    toward = x * light.sun_direction[0] + y * light.sun_direction[1] + z * light.sun_direction[2]
    if light.sun_size > 0.0 and toward > 0.0:
        glow = light.sun_size * (0.25 * toward**8 + 0.6 * toward**64 + 14.0 * (toward > 0.9993))
        r, g, b = r + glow * light.sun[0], g + glow * light.sun[1], b + glow * light.sun[2]
    return _skyline(x, y, z, r, g, b, light)


@kernel
def _skyline(x: float, y: float, z: float, r: float, g: float, b: float, light: Light) -> tuple[float, float, float]:
    """Distant houses and trees in the haze near the horizon."""
    if z > 0.16:
        return r, g, b
    azimuth = np.arctan2(y, x)
    cell = int(np.floor(azimuth * 26.0))
    tall = 0.020 + 0.085 * cell_hash(cell, 77) ** 2
    hills = 0.022 + 0.012 * np.sin(5 * azimuth) + 0.008 * np.sin(13 * azimuth + 1)
    if z > max(tall, hills):
        return r, g, b
    haze = min(0.92, 0.35 + 12.0 * light.fog)
    tone = (0.20 + 0.10 * cell_hash(cell, 3)) * light.ambient[1] + 0.06 * light.sun[1]
    if z < 0.012:
        tone *= 0.8
    red, green = tone, tone * (1.12 if z < hills else 1.0)
    if light.night and cell_hash(int(np.floor(azimuth * 420)), int(np.floor(z * 420))) < 0.05:
        red, green, tone = 0.30, 0.24, 0.13
    return red + haze * (r - red), green + haze * (g - green), tone + haze * (b - tone)


@kernel
def mirrored(x: float, y: float, z: float, light: Light) -> tuple[float, float, float]:
    """What a shiny surface sees in direction (x, y, z): sky above, houses at eye level, dark street below."""
    up = max(z, 0.0)
    share = min(1.0, up * 1.4)
    high = min(1.0, max(0.0, (z - 0.12) * 5.0))
    low = 0.16 if z < 0.0 else 0.30
    r = low * light.ambient[0] + high * (light.horizon[0] + share * (light.zenith[0] - light.horizon[0]))
    g = low * light.ambient[1] + high * (light.horizon[1] + share * (light.zenith[1] - light.horizon[1]))
    b = low * light.ambient[2] + high * (light.horizon[2] + share * (light.zenith[2] - light.horizon[2]))
    toward = x * light.sun_direction[0] + y * light.sun_direction[1] + z * light.sun_direction[2]
    if light.sun_size > 0.0 and toward > 0.9:
        spark = 9.0 * light.sun_size * toward**220
        r, g, b = r + spark * light.sun[0], g + spark * light.sun[1], b + spark * light.sun[2]
    return r, g, b
