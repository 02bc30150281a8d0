"""Predicted boxes in the LiDAR frame to the records of a nuScenes detection submission."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pyquaternion import Quaternion

#: Speed above which an object counts as moving [m/s], as in the published detectors.
MOVING_MPS = 0.2
VEHICLES = ("car", "truck", "trailer", "bus", "construction_vehicle")
CYCLES = ("bicycle", "motorcycle")
INFO_ROTATION_TOLERANCE = 1e-5
#: The evaluator decides at the limit itself; this only spares it the boxes far beyond.
RANGE_MARGIN_M = 0.1


def guess_attribute(name: str, speed: float) -> str:
    """The attribute of a box by class and speed [m/s] (the usual heuristic: nuScenes boxes must name one).

    >>> guess_attribute("car", 3.0), guess_attribute("bus", 0.0), guess_attribute("barrier", 0.0)
    ('vehicle.moving', 'vehicle.stopped', '')
    """
    moving = speed > MOVING_MPS
    if name in VEHICLES:
        standing = "vehicle.stopped" if name == "bus" else "vehicle.parked"
        return "vehicle.moving" if moving else standing
    if name in CYCLES:
        return "cycle.with_rider" if moving else "cycle.without_rider"
    if name == "pedestrian":
        return "pedestrian.moving" if moving else "pedestrian.standing"
    return ""


def lidar_to_global(info: Mapping[str, Any]) -> np.ndarray:
    """global_from_lidar [4, 4] of an info record."""
    return np.asarray(info["ego2global"]) @ np.asarray(info["lidar_points"]["lidar2ego"])


def yaw_to_global(yaw: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Quaternions (w, x, y, z) [N, 4] of boxes with ``yaw`` [N] about the z axis of a frame turned by ``rotation``.

    >>> yaw_to_global(np.array([0.0]), np.eye(3)).tolist()
    [[1.0, 0.0, 0.0, 0.0]]
    """
    w, x, y, z = Quaternion(matrix=rotation, rtol=INFO_ROTATION_TOLERANCE, atol=INFO_ROTATION_TOLERANCE).elements
    cos, sin = np.cos(yaw / 2), np.sin(yaw / 2)
    return np.stack([w * cos - z * sin, x * cos + y * sin, y * cos - x * sin, w * sin + z * cos], axis=1)


def boxes_to_records(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    info: Mapping[str, Any],
    classes: Sequence[str],
    max_range_m: Mapping[str, float],
    max_boxes: int,
) -> list[dict[str, Any]]:
    """Submission records of one frame's boxes, best first, less those that the evaluator would drop for their range.

    Args:
        boxes: [N, 9] of gravity centre xyz [m], length, width, height, yaw, velocity xy [m/s], LiDAR frame.
        scores: [N].
        labels: [N], indices into ``classes``.
        info: The frame's info record.
        classes: Class names.
        max_range_m: Distance from the car up to which a class is evaluated.
        max_boxes: How many the evaluator takes per frame; the lowest scores are left out.
    """
    transform = lidar_to_global(info)
    centers = boxes[:, :3].astype(np.float64) @ transform[:3, :3].T + transform[:3, 3]
    distance = np.linalg.norm(centers[:, :2] - np.asarray(info["ego2global"])[:2, 3], axis=1)
    reach = np.array([max_range_m[name] for name in classes])[labels] + RANGE_MARGIN_M
    order = np.argsort(-scores, kind="stable")
    kept = order[distance[order] < reach[order]][:max_boxes]
    boxes, centers, scores, labels = boxes[kept].astype(np.float64), centers[kept], scores[kept], labels[kept]
    rotations = yaw_to_global(boxes[:, 6], transform[:3, :3])
    velocities = (np.pad(boxes[:, 7:9], ((0, 0), (0, 1))) @ transform[:3, :3].T)[:, :2]
    speeds = np.linalg.norm(velocities, axis=1)
    names = [classes[label] for label in labels]
    return [
        {
            "sample_token": info["token"],
            "translation": centers[i].tolist(),
            "size": boxes[i, [4, 3, 5]].tolist(),
            "rotation": rotations[i].tolist(),
            "velocity": velocities[i].tolist(),
            "detection_name": name,
            "detection_score": float(scores[i]),
            "attribute_name": guess_attribute(name, speeds[i]),
        }
        for i, name in enumerate(names)
    ]
