"""The nuScenes detection evaluation: every figure of the official devkit, on arrays instead of objects.

The devkit walks all predictions once per class and matching distance in Python. Here one pass finds the annotated boxes
near each prediction, and numba repeats the greedy matching on those pairs; the sums and interpolations are the devkit's
own steps, in its order, on its data classes, so that its plots and summaries take the result.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit
from nuscenes.eval.common.utils import cummean
from nuscenes.eval.detection.algo import calc_ap, calc_tp
from nuscenes.eval.detection.constants import DETECTION_NAMES, TP_METRICS
from nuscenes.eval.detection.data_classes import (
    DetectionConfig,
    DetectionMetricData,
    DetectionMetricDataList,
    DetectionMetrics,
)

from perceptkd.core.errors import InputError
from perceptkd.evaluation.nuscenes_boxes import BoxTable

#: True-positive errors without a meaning: a cone looks the same from all sides, neither moves or has attributes.
UNDEFINED_ERRORS = {"traffic_cone": ("attr_err", "vel_err", "orient_err"), "barrier": ("attr_err", "vel_err")}
#: Added to the largest matching distance when pairs are collected, so that rounding cannot lose one [m].
_SLACK_M = 1e-3


def evaluate(
    predictions: BoxTable, truth: BoxTable, config: DetectionConfig
) -> tuple[DetectionMetrics, DetectionMetricDataList]:
    """Scores predictions, both tables holding the boxes that count and no others.

    Args:
        predictions: In the order of the submission, which decides between equal scores.
        truth: In the order of the tables, which decides between equally near boxes.
        config: The devkit's settings.

    Returns:
        The devkit's metrics, and its curves by (class, matching distance).
    """
    if config.dist_fcn != "center_distance":
        raise InputError(f"matching is by 'center_distance', the only distance of the devkit; not {config.dist_fcn!r}")
    curves = accumulate(predictions, truth, config.dist_ths)
    metrics = DetectionMetrics(config)
    for name in config.class_names:
        for distance in config.dist_ths:
            ap = calc_ap(curves[name, distance], config.min_recall, config.min_precision)
            metrics.add_label_ap(name, distance, ap)
        for error in TP_METRICS:
            is_undefined = error in UNDEFINED_ERRORS.get(name, ())
            value = np.nan if is_undefined else calc_tp(curves[name, config.dist_th_tp], config.min_recall, error)
            metrics.add_label_tp(name, error, value)
    return metrics, curves


def accumulate(predictions: BoxTable, truth: BoxTable, distances_m: Sequence[float]) -> DetectionMetricDataList:
    """Precision, confidence and mean errors over recall, for each class and matching distance."""
    # By class, then by falling score; of equal scores the last of the submission comes first, as in the devkit.
    order = np.lexsort((-np.arange(len(predictions)), -predictions.score, predictions.label))
    predictions = predictions[order]
    num_frames = 1 + max((int(table.frame.max()) for table in (predictions, truth) if len(table)), default=0)
    truth_group = truth.label * num_frames + truth.frame
    in_group_order = np.argsort(truth_group, kind="stable")
    truth = truth[in_group_order]
    group_start = np.searchsorted(
        truth_group[in_group_order], np.arange(len(DETECTION_NAMES) * num_frames + 1), side="left"
    )
    first, candidate = _find_near(
        predictions.translation[:, :2],
        predictions.label * num_frames + predictions.frame,
        truth.translation[:, :2],
        group_start,
        max(distances_m) + _SLACK_M,
    )
    rows = np.repeat(np.arange(len(predictions)), np.diff(first))
    distance = _norm(predictions.translation[rows, :2] - truth.translation[candidate, :2])
    matches = _match(first, candidate, distance, np.array(distances_m, np.float64), len(truth))

    curves = DetectionMetricDataList()
    starts = np.searchsorted(predictions.label, np.arange(len(DETECTION_NAMES) + 1))
    num_truth = np.bincount(truth.label, minlength=len(DETECTION_NAMES))
    for label, name in enumerate(DETECTION_NAMES):
        own = slice(starts[label], starts[label + 1])
        for limit, match in zip(distances_m, matches[:, own]):
            pair = match[match >= 0]
            errors = _errors(predictions[rows[pair]], truth[candidate[pair]], distance[pair], name)
            curve = _curve(predictions.score[own], match >= 0, errors, num_truth=int(num_truth[label]))
            curves.set(name, limit, curve)
    return curves


@njit(cache=True, nogil=True)
def _find_near(
    centers: np.ndarray, group: np.ndarray, truth_centers: np.ndarray, group_start: np.ndarray, reach_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """The annotated boxes of a prediction's group within reach of it, as rows of ``first`` [P + 1] into the second."""
    first = np.zeros(len(centers) + 1, np.int64)
    for is_filling in (False, True):
        if is_filling:
            near = np.empty(first[-1], np.int64)
        count = 0
        for i in range(len(centers)):
            for j in range(group_start[group[i]], group_start[group[i] + 1]):
                dx, dy = centers[i, 0] - truth_centers[j, 0], centers[i, 1] - truth_centers[j, 1]
                if dx * dx + dy * dy < reach_m * reach_m:
                    if is_filling:
                        near[count] = j
                    count += 1
            first[i + 1] = count
    return first, near


@njit(cache=True, nogil=True)
def _match(
    first: np.ndarray, candidate: np.ndarray, distance: np.ndarray, limits: np.ndarray, num_truth: int
) -> np.ndarray:
    """Greedy matching for every limit: the pair [L, P] by which a prediction takes an annotated box, -1 for none.

    Predictions come best first; each takes the nearest box that none took before it, if that is within the limit.
    """
    matches = np.full((len(limits), len(first) - 1), -1, np.int64)
    for k in range(len(limits)):
        is_taken = np.zeros(num_truth, np.bool_)
        for i in range(len(first) - 1):
            best, nearest = -1, np.inf
            for pair in range(first[i], first[i + 1]):
                if distance[pair] < nearest and not is_taken[candidate[pair]]:
                    best, nearest = pair, distance[pair]
            if best >= 0 and nearest < limits[k]:
                matches[k, i] = best
                is_taken[candidate[best]] = True
    return matches


def _norm(vectors: np.ndarray) -> np.ndarray:
    """Lengths [N] of ``vectors`` [N, 2], to the last bit those of ``np.linalg.norm`` on each alone.

    That is the square root of a BLAS dot product, which may fuse multiply and add; matmul calls the same one.
    """
    return np.sqrt(np.matmul(vectors[:, None, :], vectors[:, :, None])[:, 0, 0])


def _errors(predictions: BoxTable, truth: BoxTable, distance: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """The five true-positive errors of matched boxes, each [K]; NaN where the truth does not say."""
    if (predictions.size <= 0).any() or (truth.size <= 0).any():
        raise InputError(f"a {name} has a side of zero or negative length: its size cannot be compared")
    overlap = np.minimum(truth.size, predictions.size).prod(axis=1)
    iou = overlap / (truth.size.prod(axis=1) + predictions.size.prod(axis=1) - overlap)
    period = np.pi if name == "barrier" else 2 * np.pi  # a barrier has no front
    turn = (_yaw(truth.rotation) - _yaw(predictions.rotation) + period / 2) % period - period / 2
    is_same = (predictions.attribute == truth.attribute).astype(np.float64)
    return {
        "trans_err": distance,
        "vel_err": _norm(predictions.velocity - truth.velocity),
        "scale_err": 1 - iou,
        "orient_err": np.abs(np.where(turn > np.pi, turn - 2 * np.pi, turn)),
        "attr_err": 1 - np.where(truth.attribute < 0, np.nan, is_same),
    }


def _yaw(rotation: np.ndarray) -> np.ndarray:
    """Heading of quaternions (w, x, y, z) [N, 4] in the xy plane [rad]."""
    w, x, y, z = rotation.T
    return np.arctan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)


def _curve(
    scores: np.ndarray, is_match: np.ndarray, errors: dict[str, np.ndarray], *, num_truth: int
) -> DetectionMetricData:
    """The devkit's curves over 101 recall steps from predictions of one class, best first."""
    if num_truth == 0 or not is_match.any():
        return DetectionMetricData.no_predictions()
    hits = np.cumsum(is_match).astype(np.float64)
    recall = np.linspace(0, 1, DetectionMetricData.nelem)
    precision = np.interp(recall, hits / num_truth, hits / np.arange(1, len(hits) + 1), right=0)
    confidence = np.interp(recall, hits / num_truth, scores, right=0)
    matched = scores[is_match]
    means = {
        # np.interp needs rising positions, and scores fall
        name: np.interp(confidence[::-1], matched[::-1], cummean(values)[::-1])[::-1]
        for name, values in errors.items()
    }
    return DetectionMetricData(recall=recall, precision=precision, confidence=confidence, **means)
