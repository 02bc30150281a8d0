"""Light and weather of a scene, drawn from its seed."""

from dataclasses import dataclass

import numpy as np

from .spec import WEATHERS, WorldSpec

_SHARE = {"clear": 0.36, "overcast": 0.16, "rain": 0.15, "night": 0.14, "glare": 0.10, "fog": 0.09}
_TEXT = {
    "clear": "Day, clear",
    "overcast": "Day, overcast",
    "rain": "Rain",
    "night": "Night",
    "glare": "Day, low sun glare",
    "fog": "Day, fog",
}


@dataclass(frozen=True)
class Weather:
    """Everything the sensors need to know about the air and the light.

    Args:
        name: One of ``WEATHERS``.
        text: Words for the scene description.
        sun_direction: [3] unit vector towards the sun (or the moon), global.
        sun: [3] linear radiance of direct light.
        ambient: [3] linear radiance of the sky's light.
        zenith: [3] colour of the sky overhead.
        horizon: [3] colour of the sky at the horizon, and of fog.
        fog_density: Extinction of light per metre.
        shadow_softness_m: Blur of shadows; large under a cloudy sky.
        cloud: Cloud cover, 0 to 1.
        exposure: Camera gain before the tone curve.
        noise: Standard deviation of sensor noise at mid grey, in 8-bit steps.
        wetness: 0 dry to 1 wet ground.
        rain: Rain in the air, 0 to 1: streaks, drops on the lens, lost and false LiDAR returns.
        lights_on: Whether street and vehicle lamps are lit.
        lidar_loss: Extra probability of losing a return per 10 m.
    """

    name: str
    text: str
    sun_direction: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    fog_density: float
    shadow_softness_m: float
    cloud: float
    exposure: float
    noise: float
    wetness: float = 0.0
    rain: float = 0.0
    lights_on: bool = False
    lidar_loss: float = 0.0


def draw_weather(spec: WorldSpec) -> Weather:
    """Weather of a scene: seeded, or the one its specification names."""
    rng = spec.stream("weather")
    names = list(WEATHERS)
    drawn = names[rng.choice(len(names), p=[_SHARE[name] for name in names])]
    name = spec.weather or drawn
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = np.radians(rng.uniform(6, 12) if name == "glare" else rng.uniform(28, 62))
    if name not in ("clear", "glare"):
        elevation = np.radians(82.0)
    direction = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    return Weather(name=name, text=_TEXT[name], sun_direction=direction, **_look(name, rng))


def _look(name: str, rng: np.random.Generator) -> dict:
    """Light, air and camera settings of a kind of weather."""
    gain = rng.uniform(0.88, 1.12)
    if name == "clear":
        return _light((1.55, 1.45, 1.28), (0.52, 0.60, 0.74), (0.22, 0.42, 0.82), (0.70, 0.80, 0.92),
                      fog_density=0.0008, shadow_softness_m=0.10, cloud=rng.uniform(0.0, 0.6),
                      exposure=0.78 * gain, noise=2.0)  # fmt: skip
    if name == "overcast":
        return _light((0.42, 0.42, 0.43), (0.78, 0.80, 0.84), (0.62, 0.66, 0.72), (0.80, 0.82, 0.85),
                      fog_density=0.0015, shadow_softness_m=0.7, cloud=0.9,
                      exposure=0.80 * gain, noise=2.5)  # fmt: skip
    if name == "rain":
        return _light((0.20, 0.20, 0.21), (0.50, 0.53, 0.58), (0.40, 0.44, 0.50), (0.56, 0.60, 0.65),
                      fog_density=0.0045, shadow_softness_m=0.8, cloud=1.0, exposure=0.66 * gain, noise=4.0,
                      wetness=1.0, rain=rng.uniform(0.6, 1.0), lidar_loss=0.07)  # fmt: skip
    if name == "night":
        return _light((0.010, 0.011, 0.015), (0.016, 0.018, 0.026), (0.006, 0.008, 0.018), (0.030, 0.028, 0.034),
                      fog_density=0.0012, shadow_softness_m=0.5, cloud=0.3, exposure=1.7 * gain, noise=7.0,
                      wetness=float(rng.random() < 0.25) * 0.6, lights_on=True)  # fmt: skip
    if name == "glare":
        return _light((1.9, 1.35, 0.80), (0.42, 0.45, 0.55), (0.30, 0.44, 0.70), (1.00, 0.82, 0.58),
                      fog_density=0.0022, shadow_softness_m=0.12, cloud=rng.uniform(0.0, 0.3),
                      exposure=0.80 * gain, noise=2.5)  # fmt: skip
    return _light((0.25, 0.25, 0.26), (0.72, 0.74, 0.77), (0.66, 0.69, 0.73), (0.74, 0.76, 0.79),
                  fog_density=rng.uniform(0.018, 0.030), shadow_softness_m=0.8, cloud=1.0, exposure=0.80 * gain,
                  noise=3.0, wetness=0.2, lidar_loss=0.05)  # fmt: skip


def _light(sun: tuple, ambient: tuple, zenith: tuple, horizon: tuple, **settings: float) -> dict:
    colours = {"sun": sun, "ambient": ambient, "zenith": zenith, "horizon": horizon}
    return {**{name: np.array(colour) for name, colour in colours.items()}, **settings}
