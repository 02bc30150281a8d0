"""Boxes in the global frame as the nuScenes evaluation takes them: many as columns, or as records of a submission."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from pyquaternion import Quaternion

from perceptkd.core.errors import InputError

#: Speed above which an object counts as moving [m/s], as in the published detectors.
MOVING_MPS = 0.2
INFO_ROTATION_TOLERANCE = 1e-5
#: The evaluator decides at the limit itself; this only spares it the boxes far beyond.
RANGE_MARGIN_M = 0.1

_VEHICLE, _CYCLE = ("vehicle.parked", "vehicle.moving"), ("cycle.without_rider", "cycle.with_rider")
#: The attributes of what stands and of what moves, by class; the others have none.
_STANDING_AND_MOVING = {
    **dict.fromkeys(("car", "truck", "trailer", "construction_vehicle"), _VEHICLE),
    **dict.fromkeys(("bicycle", "motorcycle"), _CYCLE),
    "bus": ("vehicle.stopped", "vehicle.moving"),
    "pedestrian": ("pedestrian.standing", "pedestrian.moving"),
}
_ATTRIBUTE_OF = np.array(
    [[ATTRIBUTE_NAMES.index(a) for a in _STANDING_AND_MOVING.get(name, ())] or [-1, -1] for name in DETECTION_NAMES]
)


@dataclass(frozen=True)
class BoxTable:
    """N boxes of any number of frames, as columns.

    Attributes:
        frame: Which frame a box is of, an index into the tokens of the evaluation, int64 [N].
        label: Index into the devkit's ``DETECTION_NAMES``, int64 [N].
        translation: Centre of gravity in the global frame [m], [N, 3].
        size: Width, length, height [m], [N, 3].
        rotation: Quaternion (w, x, y, z) in the global frame, [N, 4].
        velocity: In the global frame [m/s], NaN where unknown, [N, 2].
        attribute: Index into the devkit's ``ATTRIBUTE_NAMES``, -1 for none, int64 [N].
        score: Confidence, [N].
    """

    frame: np.ndarray
    label: np.ndarray
    translation: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    velocity: np.ndarray
    attribute: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows: Any) -> "BoxTable":
        """The boxes of a mask, a slice or an array of indices."""
        return BoxTable(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})

    @classmethod
    def join(cls, frames: Sequence[tuple[int, "BoxTable"]]) -> "BoxTable":
        """The boxes of at least one frame, each given with its index, which their ``frame`` becomes."""
        tables = [replace(table, frame=np.full(len(table), frame)) for frame, table in frames]
        return cls(**{c.name: np.concatenate([getattr(table, c.name) for table in tables]) for c in fields(cls)})


def guess_attributes(labels: np.ndarray, speeds: np.ndarray) -> np.ndarray:
    """Attributes by class and speed [m/s] (the usual heuristic: nuScenes boxes must name one).

    Args:
        labels: Indices into ``DETECTION_NAMES``, [N].
        speeds: [N].

    Returns:
        Indices into ``ATTRIBUTE_NAMES``, -1 for none, [N].
    """
    return _ATTRIBUTE_OF[labels, (speeds > MOVING_MPS).astype(np.int64)]


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


def boxes_to_global(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    info: Mapping[str, Any],
    classes: Sequence[str],
    max_range_m: Mapping[str, float],
    max_boxes: int,
) -> BoxTable:
    """One frame's boxes in the global frame, best first, less those that the evaluator would drop for their range.

    Args:
        boxes: [N, 9] of gravity centre xyz [m], length, width, height, yaw, velocity xy [m/s], LiDAR frame.
        scores: [N].
        labels: [N], indices into ``classes``.
        info: The frame's info record.
        classes: Class names.
        max_range_m: Distance from the car up to which a class is evaluated.
        max_boxes: How many the evaluator takes per frame; the lowest scores are left out.

    Raises:
        InputError: A box or a score is NaN or infinite, a class is none of nuScenes' ten, or a label none of theirs.
    """
    _check_labels(labels, classes, token=info["token"])
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise InputError(f"sample {info['token']}: a predicted box or score is NaN or infinite; the model has diverged")
    transform = lidar_to_global(info)
    centers = boxes[:, :3].astype(np.float64) @ transform[:3, :3].T + transform[:3, 3]
    distance = np.linalg.norm(centers[:, :2] - np.asarray(info["ego2global"])[:2, 3], axis=1)
    reach = np.array([max_range_m[name] for name in classes])[labels] + RANGE_MARGIN_M
    order = np.argsort(-scores, kind="stable")
    kept = order[distance[order] < reach[order]][:max_boxes]
    boxes, centers, scores = boxes[kept].astype(np.float64), centers[kept], scores[kept].astype(np.float64)
    velocity = boxes[:, 7:9] @ transform[:2, :2].T
    label = np.array([DETECTION_NAMES.index(name) for name in classes], np.int64)[labels[kept]]
    return BoxTable(
        frame=np.zeros(len(kept), np.int64),
        label=label,
        translation=centers,
        size=boxes[:, [4, 3, 5]],
        rotation=yaw_to_global(boxes[:, 6], transform[:3, :3]),
        velocity=velocity,
        attribute=guess_attributes(label, np.linalg.norm(velocity, axis=1)),
        score=scores,
    )


def _check_labels(labels: np.ndarray, classes: Sequence[str], *, token: str) -> None:
    names = ", ".join(DETECTION_NAMES)
    unknown = [name for name in classes if name not in DETECTION_NAMES]
    if unknown:
        raise InputError(
            f"dataset_meta['classes'] has {', '.join(unknown)}, which nuScenes does not evaluate: set the metainfo of "
            f"the data set to names of {names}"
        )
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if len(wrong):
        raise InputError(
            f"sample {token}: a predicted label is {wrong[0]}, and dataset_meta['classes'] has {len(classes)} names "
            f"({', '.join(classes)}): give the model and the data set the same ones, of {names}"
        )


def to_records(boxes: BoxTable, token: str) -> list[dict[str, Any]]:
    """The boxes of one frame as records of a submission, in order."""
    attribute_names = [*ATTRIBUTE_NAMES, ""]  # index -1 is the last
    columns = (boxes.translation, boxes.size, boxes.rotation, boxes.velocity, boxes.label, boxes.score, boxes.attribute)
    return [
        {
            "sample_token": token,
            "translation": translation,
            "size": size,
            "rotation": rotation,
            "velocity": velocity,
            "detection_name": DETECTION_NAMES[label],
            "detection_score": score,
            "attribute_name": attribute_names[attribute],
        }
        for translation, size, rotation, velocity, label, score, attribute in zip(*(c.tolist() for c in columns))
    ]
