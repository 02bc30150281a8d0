"""The sensor rig of a KITTI car: a LiDAR on the roof and the left colour camera, number 2.

Places as in KITTI's description of its car: the LiDAR 1.73 m and the cameras 1.65 m above the ground. The LiDAR is
level; the cameras look a little up and aside, and are not exactly rectified, as real ones: what leaves out R0_rect or
an offset of the calibration file misses by pixels.
"""

from types import MappingProxyType

import numpy as np
from pyquaternion import Quaternion

from perceptkd.datasets.kitti_files import Calibration, to_square

from .calibration import LIDAR, Sensor
from .lidar_model import HDL_64E

CAMERA = "image_2"
NATIVE_SIZE = (1242, 375)
FOCAL, CENTRE = 721.0, (610.0, 173.5)
#: Where the four cameras stand, in the frame of the first (metres).
CAMERA_OFFSETS = ((0.0, 0.0, 0.0), (0.537, 0.0, 0.0), (-0.06, 0.0, -0.003), (0.475, -0.003, -0.003))
#: From the corner of the first pixel, where the rasteriser counts from, to its centre, where KITTI does.
PIXEL_CENTRE = 0.5
EGO_FROM_VELO = to_square(np.column_stack([np.eye(3), (0.76, 0.0, 1.73)]))
IMU_TO_VELO = np.column_stack([np.eye(3), (-0.81, 0.32, -0.80)])


def _turn(*, pitch: float, yaw: float, roll: float) -> np.ndarray:
    """Rotation [3, 3] about the camera's x, y and z axes, degrees."""
    about_x = Quaternion(axis=(1, 0, 0), degrees=pitch)
    about_y = Quaternion(axis=(0, 1, 0), degrees=yaw)
    return (about_x * about_y * Quaternion(axis=(0, 0, 1), degrees=roll)).rotation_matrix


#: Camera axes of a level camera that looks along the velodyne's x.
LEVEL_CAMERA = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
VELO_TO_CAM = np.column_stack([_turn(pitch=-0.8, yaw=0.4, roll=-0.03) @ LEVEL_CAMERA, (-0.004, -0.076, -0.27)])
RECT = _turn(pitch=0.25, yaw=-0.42, roll=-0.56)


def _camera() -> Sensor:
    """Camera 2: rectified axes, its own place."""
    rect_from_velo = to_square(RECT) @ to_square(VELO_TO_CAM)
    rect_from_camera = to_square(np.column_stack([np.eye(3), CAMERA_OFFSETS[2]]))
    pose = EGO_FROM_VELO @ np.linalg.inv(rect_from_velo) @ rect_from_camera
    intrinsics = np.array([[FOCAL, 0.0, CENTRE[0]], [0.0, FOCAL, CENTRE[1]], [0.0, 0.0, 1.0]])
    return Sensor(CAMERA, pose, intrinsics, native_size=NATIVE_SIZE)


KITTI_RIG = MappingProxyType({LIDAR: Sensor(LIDAR, EGO_FROM_VELO, None, lidar=HDL_64E), CAMERA: _camera()})


def kitti_calibration(image_size: tuple[int, int]) -> Calibration:
    """The calibration file of pictures of (width, height) pixels; the four cameras differ in their places only."""
    intrinsics = KITTI_RIG[CAMERA].intrinsics_at(image_size)
    intrinsics[:2, 2] -= PIXEL_CENTRE
    offsets = np.array(CAMERA_OFFSETS)
    projections = [intrinsics @ np.column_stack([np.eye(3), -offset]) for offset in offsets]
    return Calibration(np.stack(projections), RECT, VELO_TO_CAM, IMU_TO_VELO)
