"""Which boxes count, against the devkit's own filter."""

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.nuscenes import NuScenes

from perceptkd.datasets.nuscenes_infos import load_tables
from perceptkd.evaluation.nuscenes_boxes import BoxTable, to_records
from perceptkd.evaluation.nuscenes_truth import GroundTruth, load_ground_truth

CONFIG = config_factory("detection_cvpr_2019")


@pytest.fixture
def tables(tiny_world) -> NuScenes:
    """The tables, with one car of the first evaluated frame turned into a bicycle rack of 30 m."""
    tables = load_tables(tiny_world, "v1.0-mini")
    token = load_ground_truth(tables, "mini_val").tokens[0]
    cars = [tables.get("sample_annotation", a) for a in tables.get("sample", token)["anns"]]
    rack = next(car for car in cars if car["category_name"] == "vehicle.car")
    rack |= {"category_name": "static_object.bicycle_rack", "size": [30.0, 30.0, 5.0]}
    return tables


def predictions_about(truth: GroundTruth, count: int = 2000) -> BoxTable:
    """Boxes of all classes over all frames, out to 60 m from the car."""
    rng = np.random.default_rng(0)
    frame = np.sort(rng.integers(0, len(truth.tokens), count))
    center = truth.ego[frame] + rng.uniform(-60, 60, (count, 2))
    return BoxTable(
        frame=frame,
        label=rng.integers(0, 10, count),
        translation=np.concatenate([center, rng.uniform(-1, 2, (count, 1))], axis=1),
        size=np.ones((count, 3)),
        rotation=np.tile([1.0, 0, 0, 0], (count, 1)),
        velocity=np.zeros((count, 2)),
        attribute=np.full(count, -1),
        score=rng.random(count),
    )


def kept_by_devkit(tables: NuScenes, truth: GroundTruth, boxes: BoxTable) -> list[float]:
    """Scores of the boxes that the devkit keeps, in its order."""
    found = EvalBoxes()
    for frame, token in enumerate(truth.tokens):
        records = to_records(boxes[boxes.frame == frame], token)
        found.add_boxes(token, [DetectionBox.deserialize(record) for record in records])
    kept = filter_eval_boxes(tables, add_center_dist(tables, found), CONFIG.class_range)
    return [box.detection_score for box in kept.all]


def test_range_and_racks_as_in_the_devkit(tables):
    truth = load_ground_truth(tables, "mini_val")
    boxes = predictions_about(truth)
    kept = truth.counted(boxes, CONFIG.class_range)
    assert kept.score.tolist() == kept_by_devkit(tables, truth, boxes)
    without_rack = GroundTruth(truth.tokens, truth.is_predefined, truth.boxes, truth.ego, racks={})
    assert 0 < len(kept) < len(without_rack.counted(boxes, CONFIG.class_range)) < len(boxes)


def test_boxes_without_points_do_not_count(tables):
    truth = load_ground_truth(tables, "mini_val")
    annotations = [tables.get("sample_annotation", a) for t in truth.tokens for a in tables.get("sample", t)["anns"]]
    seen = [a for a in annotations if a["num_lidar_pts"] + a["num_radar_pts"] > 0]
    assert len(truth.boxes) == len([a for a in seen if a["category_name"] != "static_object.bicycle_rack"])
    assert len(seen) < len(annotations)


def test_order_of_predictions(tables):
    """The devkit walks official splits in the order of the file, others in that of the tables; it decides ties."""
    truth = load_ground_truth(tables, "mini_val")
    boxes = predictions_about(truth, 100)
    frames = {truth.tokens[i]: boxes[boxes.frame == i] for i in reversed(range(len(truth.tokens)))}
    assert (np.diff(truth.in_submission_order(frames).frame) <= 0).all()
    custom = GroundTruth(truth.tokens, False, truth.boxes, truth.ego, truth.racks)
    assert custom.in_submission_order(frames).score.tolist() == boxes.score.tolist()
