"""Which annotated boxes a detector finds: a metric for single frames, where an average precision says little."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from perceptkd.core.errors import InputError
from perceptkd.registry import METRICS


@METRICS.register_module()
class BoxRecallMetric(BaseMetric):
    """Share of the annotated boxes that have a prediction of their class near their centre.

    Every box and every prediction is used once, nearest pairs first. Boxes outside of the range or with fewer LiDAR
    points than asked are left out.

    Args:
        point_cloud_range: Metres ``(x0, y0, z0, x1, y1, z1)``; a box counts when its centre lies inside in x and y.
        distance_m: Largest distance of the centres, seen from above.
        min_points: Fewest LiDAR points in a box.
        score_threshold: Predictions with a lower score are left out.
    """

    default_prefix = "boxes"

    def __init__(
        self,
        *,
        point_cloud_range: Sequence[float],
        distance_m: float = 2.0,
        min_points: int = 5,
        score_threshold: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.point_cloud_range = np.asarray(point_cloud_range, dtype=np.float64)
        self.distance_m = distance_m
        self.min_points = min_points
        self.score_threshold = score_threshold

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps ``(found, counted, predicted)`` of every frame."""
        for sample in data_samples:
            truth, predicted = sample["eval_ann_info"], sample["pred_instances_3d"]
            centres = truth["gt_bboxes_3d"].gravity_center.numpy()[:, :2]
            low, high = self.point_cloud_range[:2], self.point_cloud_range[3:5]
            counted = ((centres >= low) & (centres < high)).all(axis=1)
            counted &= np.asarray(truth["num_lidar_pts"]) >= self.min_points
            labels = np.asarray(truth["gt_labels_3d"])
            counted &= labels >= 0
            kept = predicted["scores_3d"].cpu().numpy() >= self.score_threshold
            found = count_found(
                centres[counted],
                labels[counted],
                predicted["bboxes_3d"].gravity_center.cpu().numpy()[kept, :2],
                predicted["labels_3d"].cpu().numpy()[kept],
                distance_m=self.distance_m,
            )
            self.results.append((found, int(counted.sum()), int(kept.sum())))

    def compute_metrics(self, results: list[tuple[int, int, int]]) -> dict[str, float]:
        """Returns ``recall`` (0 to 1), ``found``, ``counted`` and ``predicted``."""
        found, counted, predicted = (sum(column) for column in zip(*results))
        if counted == 0:
            raise InputError("no annotated box lies in the range with enough LiDAR points: there is nothing to recall")
        return {"recall": found / counted, "found": found, "counted": counted, "predicted": predicted}


def count_found(
    truth: np.ndarray,
    truth_labels: np.ndarray,
    predicted: np.ndarray,
    predicted_labels: np.ndarray,
    *,
    distance_m: float,
) -> int:
    """Pairs boxes and predictions of one class, nearest first, and counts the pairs within ``distance_m``.

    Args:
        truth: Centres [N, 2].
        truth_labels: [N].
        predicted: Centres [M, 2].
        predicted_labels: [M].

    >>> count_found(np.zeros((1, 2)), np.array([3]), np.ones((2, 2)), np.array([3, 4]), distance_m=2.0)
    1
    """
    distance = np.linalg.norm(truth[:, None] - predicted[None], axis=-1)
    distance[truth_labels[:, None] != predicted_labels[None]] = np.inf
    found = 0
    while distance.size and distance.min() <= distance_m:
        row, column = np.unravel_index(distance.argmin(), distance.shape)
        distance[row], distance[:, column] = np.inf, np.inf
        found += 1
    return found
