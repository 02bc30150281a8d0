"""Average precision by the distance of centres: worked cases, and the definition written out for any data."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.structures import LiDARInstance3DBoxes

from perceptkd.core.errors import InputError
from perceptkd.evaluation.center_distance_metric import CenterDistanceMetric, Frame, average_precision
from perceptkd.registry import METRICS


def boxes_at(centres: Any) -> LiDARInstance3DBoxes:
    boxes = torch.ones(len(centres), 7)
    boxes[:, :2] = torch.as_tensor(np.asarray(centres, dtype=np.float32).reshape(-1, 2))
    return LiDARInstance3DBoxes(boxes)


def sample(truth: Any, labels: Any, predicted: Any, predicted_labels: Any, scores: Any, points: Any = None) -> dict:
    """What a detector hands to a metric."""
    points = np.full(len(truth), 9) if points is None else np.asarray(points)
    return {
        "eval_ann_info": {"gt_bboxes_3d": boxes_at(truth), "gt_labels_3d": np.asarray(labels), "num_lidar_pts": points},
        "pred_instances_3d": {
            "bboxes_3d": boxes_at(predicted),
            "labels_3d": torch.tensor(predicted_labels),
            "scores_3d": torch.tensor(scores),
        },
    }


def evaluate(samples: list[dict], **options: Any) -> dict[str, float]:
    metric = METRICS.build({"type": "perceptkd.CenterDistanceMetric", **options})
    metric.dataset_meta = {"classes": ("car", "person", "tram")}
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def test_a_perfect_detector_has_one_and_an_empty_one_zero() -> None:
    places, labels = [[0, 0], [5, 5], [-3, 4]], [0, 0, 1]
    found = evaluate([sample(places, labels, places, labels, [0.9, 0.8, 0.7])])
    assert found["distance/mAP"] == found["distance/mAP_0.5m"] == found["distance/AP_person"] == 1.0
    assert "distance/AP_tram" not in found
    nothing = evaluate([sample(places, labels, np.zeros((0, 2)), [], [])])
    assert nothing["distance/mAP"] == 0.0


def test_a_prediction_counts_at_the_distances_it_is_within() -> None:
    found = evaluate([sample([[0, 0]], [0], [[1.5, 0]], [0], [0.9])])
    assert [found[f"distance/mAP_{limit}m"] for limit in ("0.5", "1", "2", "4")] == [0.0, 0.0, 1.0, 1.0]
    assert found["distance/mAP"] == 0.5


def test_a_second_prediction_of_a_box_is_false() -> None:
    """Precision 1 up to recall 1/2 (51 of 101 steps), 2/3 behind it."""
    found = evaluate([sample([[0, 0], [9, 9]], [0, 0], [[0, 0], [0.1, 0], [9, 9]], [0, 0, 0], [0.9, 0.8, 0.7])])
    assert found["distance/mAP_0.5m"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_better_prediction_takes_the_box_in_every_order_of_the_list() -> None:
    near_first = evaluate([sample([[0, 0]], [0], [[0, 0], [1.9, 0]], [0, 0], [0.2, 0.9])])
    far_first = evaluate([sample([[0, 0]], [0], [[1.9, 0], [0, 0]], [0, 0], [0.9, 0.2])])
    assert near_first == far_first
    assert near_first["distance/mAP_0.5m"] == 0.5  # a false one before the true one
    assert near_first["distance/mAP_2m"] == 1.0


def test_another_class_or_frame_is_no_match() -> None:
    assert evaluate([sample([[0, 0]], [0], [[0, 0]], [1], [0.9])])["distance/mAP"] == 0.0
    frames = [sample([[0, 0]], [0], [[7, 7]], [0], [0.9]), sample([[7, 7]], [0], [[0, 0]], [0], [0.9])]
    assert evaluate(frames)["distance/mAP"] == 0.0


def test_boxes_without_points_or_out_of_range_do_not_count() -> None:
    truth, options = [[0, 0], [1, 9], [40, 0]], {"point_cloud_range": (-20, -20, -5, 20, 20, 3)}
    frame = sample(truth, [0, 0, 0], [[0, 0], [40, 0]], [0, 0], [0.5, 0.9], points=[1, 0, 5])
    assert evaluate([frame], **options)["distance/mAP"] == 1.0


def test_nothing_to_find_is_an_error() -> None:
    with pytest.raises(InputError, match="no box of the data counts"):
        evaluate([sample(np.zeros((0, 2)), np.zeros(0, dtype=int), [[0, 0]], [0], [0.9])])
    with pytest.raises(InputError, match=r"distances_m are positive, not \[0\]"):
        CenterDistanceMetric(distances_m=[0])


def literal_average_precision(frames: list[Frame], limit: float) -> float:
    """The definition, one prediction and one recall at a time."""
    ranked = sorted(((-s, f, i) for f, frame in enumerate(frames) for i, s in enumerate(frame.scores)))
    free = [list(range(len(frame.truth))) for frame in frames]
    curve, hits = [], 0
    for count, (_, f, i) in enumerate(ranked, 1):
        gaps = {t: float(np.linalg.norm(frames[f].truth[t] - frames[f].predicted[i])) for t in free[f]}
        nearest = min(gaps, key=lambda t: (gaps[t], t), default=None)
        if nearest is not None and gaps[nearest] < limit:
            free[f].remove(nearest)
            hits += 1
        curve.append((hits / sum(len(frame.truth) for frame in frames), hits / count))
    best = [max([p for r, p in curve if r >= step], default=0.0) for step in np.linspace(0, 1, 101)]
    return float(np.mean(best))


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.5, 1.0, 4.0]))
def test_equals_the_definition(seed: int, frames: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    made = []
    for index in range(frames):
        truth = rng.uniform(-4, 4, (rng.integers(1 if index == 0 else 0, 5), 2))
        predicted = rng.uniform(-4, 4, (rng.integers(0, 8), 2))
        zeros = [np.zeros(len(each), dtype=int) for each in (truth, predicted)]
        made.append(Frame(truth, zeros[0], predicted, zeros[1], rng.random(len(predicted))))
    assert average_precision(made, 0, limit) == pytest.approx(literal_average_precision(made, limit), abs=1e-12)
