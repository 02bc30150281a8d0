"""Average precision of 3D boxes of any classes, matched by the distance of their centres."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.evaluator import BaseMetric

from perceptkd.core.errors import InputError
from perceptkd.registry import METRICS

RECALL_STEPS = 101


class Frame(NamedTuple):
    """What counts in a frame: centres seen from above [N, 2], labels [N] and, of predictions, scores [N]."""

    truth: np.ndarray
    truth_labels: np.ndarray
    predicted: np.ndarray
    predicted_labels: np.ndarray
    scores: np.ndarray


@METRICS.register_module()
class CenterDistanceMetric(BaseMetric):
    """Mean average precision over classes and matching distances, for data sets without a metric of their own.

    As in nuScenes a prediction, best score first, takes the nearest box of its class that none took before it, if that
    is within the distance; the average precision of one distance is the mean over 101 recalls of the best precision at
    that recall or above. A class without a box in the data has none, and does not count in the means.

    Args:
        distances_m: Matching distances; those of nuScenes by default.
        min_points: Fewest LiDAR points in a box that counts.
        point_cloud_range: ``(x0, y0, z0, x1, y1, z1)`` in metres; boxes and predictions whose centre lies outside in x
            or y are left out. None counts all.
    """

    default_prefix = "distance"

    def __init__(
        self,
        *,
        distances_m: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
        min_points: int = 1,
        point_cloud_range: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not distances_m or min(distances_m) <= 0:
            raise InputError(f"CenterDistanceMetric: distances_m are positive, not {list(distances_m)}")
        self.distances_m = tuple(distances_m)
        self.min_points = min_points
        self.point_cloud_range = None if point_cloud_range is None else np.asarray(point_cloud_range, dtype=np.float64)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps what counts in every frame."""
        for sample in data_samples:
            truth, predicted = sample["eval_ann_info"], sample["pred_instances_3d"]
            centres = truth["gt_bboxes_3d"].gravity_center.numpy()[:, :2]
            labels = np.asarray(truth["gt_labels_3d"])
            kept = self._inside(centres) & (labels >= 0)
            if "num_lidar_pts" in truth:
                kept &= np.asarray(truth["num_lidar_pts"]) >= self.min_points
            found = predicted["bboxes_3d"].gravity_center.cpu().numpy()[:, :2]
            rest = [predicted[key].cpu().numpy() for key in ("labels_3d", "scores_3d")]
            near = self._inside(found)
            self.results.append(Frame(centres[kept], labels[kept], found[near], *(each[near] for each in rest)))

    def _inside(self, centres: np.ndarray) -> np.ndarray:
        if self.point_cloud_range is None:
            return np.ones(len(centres), dtype=bool)
        low, high = self.point_cloud_range[:2], self.point_cloud_range[3:5]
        return ((centres >= low) & (centres < high)).all(axis=1)

    def compute_metrics(self, results: list[tuple[np.ndarray, ...]]) -> dict[str, float]:
        """Returns ``mAP``, ``mAP_<distance>m``, and ``AP_<class>``, which are means over the distances."""
        frames = [Frame(*result) for result in results]  # MMEngine makes plain tuples of them
        precision = {}
        for label, name in enumerate(self.dataset_meta["classes"]):
            if any((frame.truth_labels == label).any() for frame in frames):
                precision[name] = [average_precision(frames, label, limit) for limit in self.distances_m]
        if not precision:
            raise InputError("no box of the data counts: none lies in the range with enough LiDAR points")
        table = np.array(list(precision.values()))
        means = {f"mAP_{limit:g}m": float(value) for limit, value in zip(self.distances_m, table.mean(axis=0))}
        classes = {f"AP_{name}": float(np.mean(values)) for name, values in precision.items()}
        return {"mAP": float(table.mean()), **means, **classes}


def average_precision(frames: Sequence[Frame], label: int, limit_m: float) -> float:
    """Average precision of one class at one matching distance; the class has a box.

    >>> one = np.zeros(1, dtype=int)
    >>> frame = Frame(np.zeros((1, 2)), one, np.array([[9.0, 9], [0, 1]]), np.zeros(2, dtype=int), np.array([0.9, 0.8]))
    >>> average_precision([frame], 0, 2.0)
    0.5
    """
    scores, hits, total = [], [], 0
    for frame in frames:
        truth = frame.truth[frame.truth_labels == label]
        total += len(truth)
        own = np.flatnonzero(frame.predicted_labels == label)
        own = own[np.argsort(-frame.scores[own], kind="stable")]
        scores.append(frame.scores[own])
        hits.append(_match(frame.predicted[own], truth, limit_m))
    score, hit = np.concatenate(scores), np.concatenate(hits)
    hit = hit[np.argsort(-score, kind="stable")]
    found = np.cumsum(hit)
    precision = found / np.arange(1, len(hit) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or above
    place = np.searchsorted(found / total, np.linspace(0, 1, RECALL_STEPS), side="left")
    return float(np.append(best, 0.0)[place].mean())


def _match(predicted: np.ndarray, truth: np.ndarray, limit_m: float) -> np.ndarray:
    """Which predictions [P], best first, find a box of the truth [T, 2] that none found before."""
    distance = np.linalg.norm(predicted[:, None] - truth[None], axis=-1)
    hit = np.zeros(len(predicted), dtype=bool)
    for row in range(len(predicted) if len(truth) else 0):
        nearest = distance[row].argmin()
        if distance[row, nearest] < limit_m:
            hit[row] = True
            distance[:, nearest] = np.inf
    return hit
