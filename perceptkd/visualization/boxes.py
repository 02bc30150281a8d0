"""3D boxes as the pictures need them, whatever sample or prediction they come from."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

#: Corners of an mmdet3d box that make its bottom: rear right, rear left, front left, front right.
BOTTOM = (0, 3, 7, 4)
TOP = (1, 2, 6, 5)
TRUTH = "truth"


@dataclass(frozen=True)
class DrawnBoxes:
    """N boxes in the LiDAR frame.

    Attributes:
        corners: [N, 8, 3] in metres, in mmdet3d's order.
        labels: Class indices [N]; -1 where there is none.
        scores: [N]; None for ground truth.
    """

    corners: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.corners)

    @property
    def centres(self) -> np.ndarray:
        """Centres [N, 3]."""
        return self.corners.mean(axis=1)

    @property
    def footprints(self) -> np.ndarray:
        """Outlines seen from above [N, 4, 2]: rear right, rear left, front left, front right."""
        return self.corners[:, BOTTOM, :2]

    def select(self, kept: np.ndarray) -> "DrawnBoxes":
        """The boxes that ``kept`` (mask or indices) names."""
        scores = None if self.scores is None else self.scores[kept]
        return replace(self, corners=self.corners[kept], labels=self.labels[kept], scores=scores)


def as_drawn(boxes: Any, *, score_threshold: float = 0.0) -> DrawnBoxes:
    """Reads boxes from ``gt_instances_3d`` / ``pred_instances_3d``, from mmdet3d boxes, or from :class:`DrawnBoxes`.

    Args:
        boxes: The boxes, with ``labels_3d`` and ``scores_3d`` where they have them.
        score_threshold: Drop boxes with a lower score.
    """
    if not isinstance(boxes, DrawnBoxes):
        box_structure = getattr(boxes, "bboxes_3d", boxes)
        if not hasattr(box_structure, "corners"):
            raise TypeError(
                f"cannot draw {type(boxes).__name__}: give an InstanceData with bboxes_3d, or LiDARInstance3DBoxes"
            )
        corners = np.asarray(box_structure.corners.detach().cpu(), dtype=np.float64).reshape(-1, 8, 3)
        labels, scores = getattr(boxes, "labels_3d", None), getattr(boxes, "scores_3d", None)
        boxes = DrawnBoxes(
            corners,
            np.full(len(corners), -1) if labels is None else np.asarray(labels.detach().cpu()),
            None if scores is None else np.asarray(scores.detach().cpu(), dtype=np.float64),
        )
    return boxes if boxes.scores is None else boxes.select(boxes.scores >= score_threshold)


def match_boxes(predicted: DrawnBoxes, truth: DrawnBoxes, *, distance_m: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs predictions with true boxes as the nuScenes evaluation does: best score first, nearest centre of the class.

    Args:
        predicted: Predictions.
        truth: True boxes.
        distance_m: Largest distance of centres on the ground.

    Returns:
        Which predictions are right [P] and which true boxes were found [T].
    """
    right, found = np.zeros(len(predicted), dtype=bool), np.zeros(len(truth), dtype=bool)
    scores = np.zeros(len(predicted)) if predicted.scores is None else predicted.scores
    for index in np.argsort(-scores, kind="stable"):
        distance = np.linalg.norm(truth.centres[:, :2] - predicted.centres[index, :2], axis=1)
        distance[found | (truth.labels != predicted.labels[index])] = np.inf
        if len(truth) and distance.min() < distance_m:
            right[index] = found[distance.argmin()] = True
    return right, found
