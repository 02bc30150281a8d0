"""What a rotating LiDAR is: its beams, its reach and how it reports intensity.

Legend: B beams, A azimuths.
"""

from typing import NamedTuple

import numpy as np


class LidarModel(NamedTuple):
    """One type of LiDAR; the kernels take it as it is.

    Args:
        elevations_deg: [B] of the beams, ascending; a beam's index is its ring.
        directions: [B, A, 3] unit directions in the sensor frame, azimuth 0 along +x, turning clockwise.
        range_m: Longest distance that is measured.
        half_strength_m: Distance at which a return has half of its strength.
        intensity_gain: Intensity of a return that sends everything back.
        intensity_step: Resolution of the intensity.
        intensity_max: Its largest value.
    """

    elevations_deg: np.ndarray
    directions: np.ndarray
    range_m: float
    half_strength_m: float
    intensity_gain: float
    intensity_step: float
    intensity_max: float

    @property
    def sight_m(self) -> float:
        """Geometry placed within this distance along the road can reach into the range."""
        return self.range_m + 20.0


def ray_directions(elevations_deg: np.ndarray, azimuths: int) -> np.ndarray:
    """Unit directions [B, A, 3] in the sensor frame: azimuth 0 looks along +x and turns clockwise."""
    elevation = np.radians(elevations_deg)[:, None]
    angle = -2.0 * np.pi * np.arange(azimuths) / azimuths
    level = np.cos(elevation)
    return np.stack([level * np.cos(angle), level * np.sin(angle), np.sin(elevation) + 0.0 * angle], -1)


def build_hdl_32e() -> LidarModel:
    """Velodyne HDL-32E as nuScenes turns it: 32 beams over 41.3 degrees, 20 Hz; intensity 0-255, whole numbers."""
    elevations = -30.67 + 4.0 / 3.0 * np.arange(32)
    return LidarModel(elevations, ray_directions(elevations, 1084), 70.0, 45.0, 140.0, 1.0, 255.0)


def build_hdl_64e() -> LidarModel:
    """Velodyne HDL-64E as KITTI turns it: 10 Hz, 26.9 degrees; intensity 0-0.99 in steps of 0.01.

    The upper 32 beams are a third of a degree apart, the lower 32 about half a degree.
    """
    upper = 2.0 - np.arange(31, -1, -1) / 3.0
    lower = np.linspace(-24.9, upper[0], 33)[:-1]
    elevations = np.concatenate([lower, upper])
    return LidarModel(elevations, ray_directions(elevations, 2083), 80.0, 55.0, 2.0, 0.01, 0.99)


HDL_32E = build_hdl_32e()
HDL_64E = build_hdl_64e()
