"""The evaluation against the official devkit, curve by curve."""

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES, TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionMetricData
from nuscenes.eval.detection.evaluate import NuScenesEval

from perceptkd.evaluation.nuscenes import evaluate
from perceptkd.evaluation.nuscenes_boxes import BoxTable, to_records

CONFIG = config_factory("detection_cvpr_2019")
NUM_FRAMES = 12


def random_boxes(rng: np.random.Generator, count: int) -> BoxTable:
    """Boxes of all classes in a small square, so that many are near each other."""
    return BoxTable(
        frame=rng.integers(0, NUM_FRAMES, count),
        label=rng.integers(0, len(DETECTION_NAMES), count),
        translation=rng.uniform(-8, 8, (count, 3)),
        size=rng.uniform(0.3, 6, (count, 3)),
        rotation=rng.normal(size=(count, 4)),
        velocity=rng.normal(size=(count, 2)),
        attribute=rng.integers(-1, len(ATTRIBUTE_NAMES), count),
        score=rng.random(count),
    )


def change(boxes: BoxTable, **columns: np.ndarray) -> BoxTable:
    return BoxTable(**{**vars(boxes), **columns})


def on_a_grid(boxes: BoxTable) -> BoxTable:
    """Centres on whole metres: many are equally near, or exactly at a matching distance."""
    return change(boxes, translation=np.round(boxes.translation))


def devkit_boxes(boxes: BoxTable) -> EvalBoxes:
    """The devkit's objects, every frame present, frames in the order in which they first appear."""
    found = EvalBoxes()
    for frame in dict.fromkeys([*boxes.frame.tolist(), *range(NUM_FRAMES)]):
        records = to_records(boxes[boxes.frame == frame], f"frame {frame}")
        found.add_boxes(f"frame {frame}", [DetectionBox.deserialize(record) for record in records])
    return found


def check_equal(predictions: BoxTable, truth: BoxTable) -> dict:
    """Compares all curves and figures; returns the figures."""
    official = NuScenesEval.__new__(NuScenesEval)
    official.cfg, official.verbose = CONFIG, False
    official.pred_boxes, official.gt_boxes = devkit_boxes(predictions), devkit_boxes(truth)
    expected, expected_curves = official.evaluate()
    found, curves = evaluate(predictions, truth, CONFIG)
    for name in DETECTION_NAMES:
        for distance in CONFIG.dist_ths:
            for field in ("precision", "confidence", *TP_METRICS):
                ours, theirs = (getattr(c[name, distance], field) for c in (curves, expected_curves))
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12, err_msg=f"{name} {distance} {field}")
    figures, expected_figures = flatten(found.serialize()), flatten(expected.serialize())
    assert figures.keys() == expected_figures.keys()
    np.testing.assert_allclose([*figures.values()], [*expected_figures.values()], rtol=0, atol=1e-12)
    assert len(figures) == 40 + 10 + 1 + 50 + 5 + 5 + 1
    return found.serialize()


def flatten(figures: dict) -> dict[tuple, float]:
    """Every figure of the devkit's summary by its keys."""
    flat: dict[tuple, float] = {}
    for key, value in figures.items():
        if isinstance(value, dict) and key != "cfg":
            flat |= {(key, *inner): number for inner, number in flatten(value).items()}
        elif key not in ("cfg", "eval_time"):
            flat[(key,)] = value
    return flat


def by_frame(boxes: BoxTable) -> BoxTable:
    """The order of a submission: frame by frame."""
    return boxes[np.argsort(boxes.frame, kind="stable")]


@pytest.mark.parametrize("seed", range(4))
def test_random_boxes(seed):
    rng = np.random.default_rng(seed)
    figures = check_equal(by_frame(random_boxes(rng, 3000)), by_frame(random_boxes(rng, 500)))
    assert 0.05 < figures["mean_ap"] < 0.9


@pytest.mark.parametrize("seed", range(4))
def test_equal_scores_distances_and_limits(seed):
    """What comes first among equals, and that a distance equal to the limit is no match."""
    rng = np.random.default_rng(seed)
    predictions, truth = by_frame(random_boxes(rng, 2000)), by_frame(random_boxes(rng, 500))
    tied = change(on_a_grid(predictions), score=np.round(predictions.score, 1))
    figures = check_equal(tied, on_a_grid(truth))
    last_first = check_equal(by_frame(tied[::-1]), on_a_grid(truth))
    assert figures["mean_ap"] != last_first["mean_ap"]  # the order among equals does decide


def test_a_distance_at_the_limit_is_no_match():
    truth = random_boxes(np.random.default_rng(0), 1)
    shifted = change(truth, translation=truth.translation.round() + np.array([2.0, 0.0, 0.0]))
    metrics, _ = evaluate(shifted, on_a_grid(truth), CONFIG)
    aps = metrics.serialize()["label_aps"][DETECTION_NAMES[truth.label[0]]]
    assert aps[2.0] == 0.0
    assert aps[4.0] == pytest.approx(1.0)


def test_frames_out_of_order():
    """Official splits are walked in the order of the submission, which need not be that of the tables."""
    rng = np.random.default_rng(0)
    predictions, truth = random_boxes(rng, 1000), by_frame(random_boxes(rng, 300))
    backwards = predictions[np.argsort(-predictions.frame, kind="stable")]
    check_equal(change(backwards, score=np.round(backwards.score, 1)), truth)


def test_one_class_and_absent_classes():
    rng = np.random.default_rng(0)
    predictions, truth = by_frame(random_boxes(rng, 600)), by_frame(random_boxes(rng, 200))
    check_equal(predictions[predictions.label == 0], truth)
    figures = check_equal(predictions, truth[truth.label == 9])
    assert figures["mean_dist_aps"]["barrier"] > 0
    assert figures["mean_dist_aps"]["car"] == 0


@pytest.mark.parametrize(("num_predictions", "num_truth"), [(0, 50), (50, 0), (0, 0), (1, 1)])
def test_nearly_nothing(num_predictions, num_truth):
    rng = np.random.default_rng(0)
    check_equal(by_frame(random_boxes(rng, num_predictions)), by_frame(random_boxes(rng, num_truth)))


def test_unknown_velocities_and_attributes():
    """The devkit leaves undefined errors out of its means; a class with none defined counts as 1."""
    rng = np.random.default_rng(0)
    predictions, truth = by_frame(random_boxes(rng, 1000)), by_frame(random_boxes(rng, 300))
    is_unknown = (truth.label == 0) | (rng.random(len(truth)) < 0.3)
    velocity, attribute = truth.velocity.copy(), truth.attribute.copy()
    velocity[is_unknown], attribute[is_unknown] = np.nan, -1
    figures = check_equal(predictions, change(truth, velocity=velocity, attribute=attribute))
    assert figures["label_tp_errors"]["car"]["vel_err"] == 1.0


def test_perfect_predictions():
    truth = by_frame(random_boxes(np.random.default_rng(0), 300))
    figures = check_equal(truth, truth)
    assert figures["mean_ap"] == pytest.approx(1.0)
    assert figures["tp_errors"]["trans_err"] == 0.0


def test_shapes_without_volume():
    truth = random_boxes(np.random.default_rng(0), 20)
    with pytest.raises(ValueError, match="a side of zero or negative length"):
        evaluate(change(truth, size=truth.size * [1, 0, 1]), truth, CONFIG)


def test_curves_of_the_devkit_s_type():
    truth = by_frame(random_boxes(np.random.default_rng(0), 100))
    _, curves = evaluate(truth, truth, CONFIG)
    assert isinstance(curves["car", 2.0], DetectionMetricData)


def test_other_distances_are_refused():
    config = config_factory("detection_cvpr_2019")
    config.dist_fcn = "iou"
    truth = random_boxes(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match="matching is by 'center_distance'"):
        evaluate(truth, truth, config)
