"""The sensor rig: one LiDAR and six cameras mounted as on a nuScenes car."""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from .lidar_model import HDL_32E, LidarModel

NATIVE_SIZE = (1600, 900)
"""(width, height) the intrinsics of nuScenes' cameras are given for."""

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
LIDAR = "LIDAR_TOP"


@dataclass(frozen=True)
class Sensor:
    """One sensor on the car.

    Args:
        name: nuScenes channel name.
        ego_from_sensor: [4, 4] transform. Ego: x forward, y left, z up, origin on the ground below the rear
            axle. Camera: x right, y down, z forward. LiDAR: x right, y forward, z up.
        intrinsics: [3, 3] at ``native_size``, with (0, 0) at the corner of the first pixel; None for the LiDAR.
        delay_s: When the sensor is read, relative to the key frame (the LiDAR sweep's time).
        native_size: (width, height) of the pictures that the intrinsics are for.
        lidar: The type of a LiDAR; None for a camera.
    """

    name: str
    ego_from_sensor: np.ndarray
    intrinsics: np.ndarray | None
    delay_s: float = 0.0
    native_size: tuple[int, int] = NATIVE_SIZE
    lidar: LidarModel | None = None

    def intrinsics_at(self, image_size: tuple[int, int]) -> np.ndarray:
        """Intrinsics [3, 3] for images of (width, height) pixels."""
        if self.intrinsics is None:
            raise ValueError(f"{self.name} is not a camera and has no intrinsics")
        scaled = self.intrinsics.copy()
        scaled[0] *= image_size[0] / self.native_size[0]
        scaled[1] *= image_size[1] / self.native_size[1]
        return scaled


def _camera(
    name: str, *, yaw: float, pitch: float, roll: float, xyz: tuple, focal: float, centre: tuple, delay_s: float
) -> Sensor:
    """A camera that looks along ``yaw`` (left positive) and ``pitch`` (up positive), degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    forward = np.array([np.cos(y) * np.cos(p), np.sin(y) * np.cos(p), np.sin(p)])
    level = np.array([np.sin(y), -np.cos(y), 0.0])
    below = np.cross(forward, level)
    right = np.cos(r) * level + np.sin(r) * below
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = xyz
    intrinsics = np.array([[focal, 0.0, centre[0]], [0.0, focal, centre[1]], [0.0, 0.0, 1.0]])
    return Sensor(name, pose, intrinsics, delay_s)


def _lidar() -> Sensor:
    pose = np.eye(4)
    pitch = np.radians(0.35)
    forward = np.array([np.cos(pitch), 0.0, -np.sin(pitch)])
    up = np.array([np.sin(pitch), 0.0, np.cos(pitch)])
    pose[:3, :3] = np.stack([np.array([0.0, -1.0, 0.0]), forward, up], axis=1)
    pose[:3, 3] = (0.94, 0.0, 1.84)
    return Sensor(LIDAR, pose, None, lidar=HDL_32E)


def build_rig() -> dict[str, Sensor]:
    """The seven sensors by channel name, angles and places as on the nuScenes cars."""
    back = {"focal": 809.2, "centre": (829.2, 481.8)}
    sensors = [
        _lidar(),
        _camera("CAM_FRONT", yaw=0.3, pitch=-0.3, roll=0.1, xyz=(1.70, 0.016, 1.51), focal=1266.4,
                centre=(816.3, 491.5), delay_s=-0.0355),
        _camera("CAM_FRONT_RIGHT", yaw=-56.4, pitch=-0.8, roll=0.5, xyz=(1.55, -0.49, 1.50), focal=1260.8,
                centre=(808.0, 495.3), delay_s=-0.0275),
        _camera("CAM_BACK_RIGHT", yaw=-110.8, pitch=-1.0, roll=0.9, xyz=(1.01, -0.48, 1.56), focal=1259.5,
                centre=(807.3, 501.2), delay_s=-0.0200),
        _camera("CAM_BACK", yaw=179.9, pitch=0.9, roll=-0.2, xyz=(0.03, 0.0, 1.58), delay_s=-0.0105, **back),
        _camera("CAM_BACK_LEFT", yaw=108.6, pitch=-0.9, roll=-0.8, xyz=(1.04, 0.48, 1.59), focal=1256.7,
                centre=(792.1, 492.8), delay_s=-0.0005),
        _camera("CAM_FRONT_LEFT", yaw=55.2, pitch=0.1, roll=0.1, xyz=(1.52, 0.49, 1.51), focal=1272.6,
                centre=(826.6, 479.8), delay_s=-0.0430),
    ]  # fmt: skip
    return {sensor.name: sensor for sensor in sensors}


RIG = MappingProxyType(build_rig())
