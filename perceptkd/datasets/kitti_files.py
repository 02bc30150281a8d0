"""KITTI's calibration, label and road plane files, read and written.

Frames, as KITTI has them: velodyne x forward, y left, z up; camera x right, y down, z forward, where "camera" is the
rectified left grey one (number 0), also for the labels of camera 2, whose offset is in its P2. A box is given by the
centre of its bottom in the camera frame; rotation_y turns about the camera's y axis from x towards -z, and alpha is
the same angle as seen from the LiDAR, along the ray to the object. Pixel (0, 0) is the centre of the first one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perceptkd.core.errors import InputError

#: KITTI's eight classes in mmdet3d's order; a label is an index into this tuple.
CLASSES = ("Pedestrian", "Cyclist", "Car", "Van", "Truck", "Person_sitting", "Tram", "Misc")
DONT_CARE = "DontCare"
#: Label of DontCare, and what its counts and levels are.
IGNORED = -1
CAMERAS = ("CAM0", "CAM1", "CAM2", "CAM3")
COLOUR_CAMERA = 2
_ROWS = {"P0": (3, 4), "P1": (3, 4), "P2": (3, 4), "P3": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4),
         "Tr_imu_to_velo": (3, 4)}  # fmt: skip
_ROTATION_TOLERANCE = 0.01
_PLANE_HEADER = "# Plane\nWidth 4\nHeight 1\n"


@dataclass(frozen=True)
class Calibration:
    """What one file of the ``calib`` folder says.

    Args:
        projections: [4, 3, 4] of the cameras, P0 to P3: rectified camera frame to homogeneous pixels.
        rect: R0_rect [3, 3], camera 0 to rectified camera.
        velo_to_cam: Tr_velo_to_cam [3, 4], velodyne to camera 0.
        imu_to_velo: Tr_imu_to_velo [3, 4].
    """

    projections: np.ndarray
    rect: np.ndarray
    velo_to_cam: np.ndarray
    imu_to_velo: np.ndarray

    @property
    def lidar2cam(self) -> np.ndarray:
        """Velodyne to the rectified camera frame [4, 4]."""
        return to_square(self.rect) @ to_square(self.velo_to_cam)

    @property
    def lidar2img(self) -> np.ndarray:
        """Velodyne to homogeneous pixels of camera 2 [4, 4]."""
        return to_square(self.projections[COLOUR_CAMERA]) @ self.lidar2cam

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [N, 2] of camera 2 and depths [N] of velodyne points [N, 3+]; pixels mean nothing at depth <= 0."""
        homogeneous = points[:, :3].astype(np.float64) @ self.lidar2img[:3, :3].T + self.lidar2img[:3, 3]
        depth = homogeneous[:, 2]
        return homogeneous[:, :2] / np.where(depth == 0.0, np.inf, depth)[:, None], depth


class ObjectLabel(NamedTuple):
    """One line of a label file.

    Args:
        type: One of ``CLASSES`` or ``DONT_CARE``.
        truncated: Share of the object beyond the image's border, 0-1; -1 for DontCare.
        occluded: 0 fully visible, 1 partly occluded, 2 largely occluded, 3 unknown; -1 for DontCare.
        alpha: Observation angle in radians, -pi to pi; -10 for DontCare.
        bbox: (left, top, right, bottom) in pixels.
        size_hwl: Height, width, length in metres; -1 for DontCare.
        location: (x, y, z) of the bottom's centre in the camera frame, metres; -1000 for DontCare.
        rotation_y: Radians, -pi to pi; -10 for DontCare.
    """

    type: str
    truncated: float
    occluded: int
    alpha: float
    bbox: tuple[float, float, float, float]
    size_hwl: tuple[float, float, float]
    location: tuple[float, float, float]
    rotation_y: float


def to_square(matrix: np.ndarray) -> np.ndarray:
    """A transform [3, 3] or [3, 4] as [4, 4].

    >>> to_square(np.ones((3, 4)))[3].tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    square = np.eye(4)
    square[:3, : matrix.shape[1]] = matrix
    return square


def dont_care(bbox: tuple[float, float, float, float]) -> ObjectLabel:
    """The label of a region in which detections count neither way."""
    return ObjectLabel(DONT_CARE, -1.0, -1, -10.0, bbox, (-1.0,) * 3, (-1000.0,) * 3, -10.0)


def observation_angle(place: np.ndarray, rotation_y: float) -> float:
    """alpha of an object at ``place`` [2+] in the velodyne frame: rotation_y less the angle of its ray to the right.

    KITTI's own labels are seen from the LiDAR: from the camera, alpha would differ by 0.03 rad 4 m away.

    >>> round(observation_angle(np.array([10.0, -10.0]), np.pi / 2), 4) == round(np.pi / 4, 4)
    True
    """
    return float(wrap_angle(rotation_y - np.arctan2(-place[1], place[0])))


def wrap_angle(angle: Any) -> Any:
    """The same direction in [-pi, pi), of a number or an array.

    >>> round(wrap_angle(3 * np.pi / 2), 4) == round(-np.pi / 2, 4)
    True
    """
    return (angle + np.pi) % (2 * np.pi) - np.pi


def camera_boxes_to_lidar(boxes: np.ndarray, lidar2cam: np.ndarray) -> np.ndarray:
    """Boxes of the camera frame in the LiDAR frame, upright there as well, as mmdet3d converts them.

    Args:
        boxes: [N, 7] (x, y, z of the bottom's centre, length, height, width, rotation_y).
        lidar2cam: [4, 4].

    Returns:
        [N, 7] (x, y, z of the bottom's centre, length, width, height, yaw from x towards y).
    """
    location = (boxes[:, :3] - lidar2cam[:3, 3]) @ np.linalg.inv(lidar2cam[:3, :3]).T
    yaw = (-boxes[:, 6] - np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
    return np.concatenate([location, boxes[:, [3, 5, 4]], yaw[:, None]], axis=1)


def read_calibration(path: str | Path) -> Calibration:
    """Reads a calibration file.

    Raises:
        InputError: A row is missing or has other than its numbers, or a matrix is singular or no rotation.
    """
    path = Path(path)
    rows = {}
    for line in path.read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name in _ROWS:
            rows[name] = _parse_matrix(path, name, numbers)
    missing = [name for name in _ROWS if name not in rows]
    if missing:
        raise InputError(f"{path} has no row {', '.join(missing)}: unpack KITTI's data_object_calib.zip again")
    for name in ("R0_rect", "Tr_velo_to_cam"):
        rotation = rows[name][:, :3]
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > _ROTATION_TOLERANCE:
            raise InputError(f"{name} of {path} is no rotation, so that points cannot be brought to the camera")
    if abs(np.linalg.det(rows["P2"][:, :3])) < np.finfo(np.float32).eps:
        raise InputError(f"P2 of {path} is singular, so that points cannot be projected")
    projections = np.stack([rows[f"P{camera}"] for camera in range(4)])
    return Calibration(projections, rows["R0_rect"], rows["Tr_velo_to_cam"], rows["Tr_imu_to_velo"])


def _parse_matrix(path: Path, name: str, numbers: str) -> np.ndarray:
    try:
        matrix = np.array([float(number) for number in numbers.split()])
    except ValueError as error:
        raise InputError(f"row {name} of {path} is not all numbers ({error})") from error
    if matrix.size != np.prod(_ROWS[name]) or not np.isfinite(matrix).all():
        raise InputError(f"row {name} of {path} must have {np.prod(_ROWS[name])} finite numbers, got {numbers.strip()}")
    return matrix.reshape(_ROWS[name])


def format_calibration(calibration: Calibration) -> str:
    """The content of a calibration file: seven rows and an empty one, as KITTI's."""
    matrices = dict(zip(_ROWS, (*calibration.projections, calibration.rect, calibration.velo_to_cam,
                                calibration.imu_to_velo)))  # fmt: skip
    rows = [f"{name}: " + " ".join(f"{number:.12e}" for number in matrix.ravel()) for name, matrix in matrices.items()]
    return "\n".join([*rows, "", ""])


def read_labels(path: str | Path) -> list[ObjectLabel]:
    """Reads a label file of 15 columns; an empty file is a frame without objects.

    Raises:
        InputError: A line has other columns, or a class that KITTI does not have.
    """
    path = Path(path)
    lines = enumerate(path.read_text().splitlines(), 1)
    return [_parse_label(path, number, line.split()) for number, line in lines if line.strip()]


def _parse_label(path: Path, number: int, columns: list[str]) -> ObjectLabel:
    if len(columns) != 15:
        raise InputError(f"line {number} of {path} has {len(columns)} columns, where KITTI's labels have 15")
    if columns[0] not in (*CLASSES, DONT_CARE):
        raise InputError(
            f"line {number} of {path} has class {columns[0]!r}: KITTI's are {', '.join(CLASSES)} and {DONT_CARE}"
        )
    try:
        truncated, occluded, alpha, *values = (float(column) for column in columns[1:])
    except ValueError as error:
        raise InputError(f"line {number} of {path}: {error}") from error
    bbox, size, location = tuple(values[:4]), tuple(values[4:7]), tuple(values[7:10])
    return ObjectLabel(columns[0], truncated, int(occluded), alpha, bbox, size, location, values[10])


def format_label(label: ObjectLabel) -> str:
    """A line of a label file, without its end.

    >>> format_label(dont_care((1.0, 2.0, 3.5, 4.0)))
    'DontCare -1 -1 -10 1.00 2.00 3.50 4.00 -1 -1 -1 -1000 -1000 -1000 -10'
    """
    bbox = " ".join(f"{number:.2f}" for number in label.bbox)
    if label.type == DONT_CARE:
        return f"{DONT_CARE} -1 -1 -10 {bbox} -1 -1 -1 -1000 -1000 -1000 -10"
    box = " ".join(f"{number:.2f}" for number in (*label.size_hwl, *label.location, label.rotation_y))
    return f"{label.type} {label.truncated:.2f} {label.occluded} {label.alpha:.2f} {bbox} {box}"


def read_plane(path: str | Path) -> list[float]:
    """Reads a file of the ``planes`` folder: a, b, c, d of the ground ax + by + cz + d = 0 in the camera frame.

    KITTI comes without; those that are in use were estimated by others for its training frames.

    Raises:
        InputError: The fourth line is not four numbers, or the normal is not of length 1 or does not point up.
    """
    path = Path(path)
    try:
        plane = [float(number) for number in path.read_text().splitlines()[3].split()]
    except (IndexError, ValueError) as error:
        raise InputError(f"{path} has no plane in its fourth line ({error})") from error
    if len(plane) != 4 or plane[1] >= 0 or abs(np.linalg.norm(plane[:3]) - 1.0) > _ROTATION_TOLERANCE:
        raise InputError(f"{path} must have the four numbers of a plane, its normal of length 1 and up, got {plane}")
    return plane


def format_plane(plane: np.ndarray) -> str:
    """The content of a file of the ``planes`` folder."""
    return _PLANE_HEADER + " ".join(f"{number:.6e}" for number in plane) + "\n"
