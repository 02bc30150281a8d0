"""BoxRecallMetric counts each annotated box once, by class, distance, range and number of points."""

import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes

from perceptkd.evaluation.box_recall_metric import BoxRecallMetric, count_found

RANGE = [-50.0, -50.0, -5.0, 50.0, 50.0, 3.0]


def boxes(*centres: tuple[float, float]) -> LiDARInstance3DBoxes:
    values = [[x, y, 0.0, 4.0, 2.0, 1.5, 0.3, 0.0, 0.0] for x, y in centres]
    return LiDARInstance3DBoxes(torch.tensor(values).reshape(-1, 9), box_dim=9)


def sample(truth, labels, points, predicted, predicted_labels, scores):
    return {
        "eval_ann_info": {
            "gt_bboxes_3d": boxes(*truth),
            "gt_labels_3d": np.array(labels),
            "num_lidar_pts": np.array(points),
        },
        "pred_instances_3d": {
            "bboxes_3d": boxes(*predicted),
            "labels_3d": torch.tensor(predicted_labels),
            "scores_3d": torch.tensor(scores),
        },
    }


def evaluate(*samples, **options):
    metric = BoxRecallMetric(point_cloud_range=RANGE, **options)
    metric.process({}, list(samples))
    return metric.evaluate(len(samples))


def test_counts_boxes_found():
    result = evaluate(
        sample(
            truth=[(0, 0), (10, 0), (20, 0), (60, 0), (30, 0), (-5, 5)],
            labels=[0, 0, 1, 0, 0, -1],
            points=[
                5,
                100,
                9,
                50,
                4,
                50,
            ],  # the fourth is out of range, the fifth has too few points, the sixth no class
            predicted=[(1.9, 0), (12.1, 0), (20, 1)],
            predicted_labels=[0, 0, 1],
            scores=[0.9, 0.9, 0.5],
        )
    )
    assert result == {
        "boxes/recall": pytest.approx(2 / 3),
        "boxes/found": 2,
        "boxes/counted": 3,
        "boxes/predicted": 3,
    }


def test_unsure_predictions_and_wrong_classes_find_nothing():
    weak = sample([(0, 0)], [0], [9], [(0, 0)], [0], [0.05])
    wrong = sample([(0, 0)], [0], [9], [(0, 0)], [1], [0.9])
    assert evaluate(weak, wrong)["boxes/found"] == 0


def test_one_prediction_finds_one_box():
    assert count_found(np.zeros((2, 2)), np.zeros(2), np.zeros((1, 2)), np.zeros(1), distance_m=2.0) == 1


def test_nothing_to_find_is_an_error():
    with pytest.raises(ValueError, match="nothing to recall"):
        evaluate(sample([(0, 0)], [0], [1], [(0, 0)], [0], [0.9]))


def test_the_real_frame_has_26_boxes_to_find(real_data, repository):
    from mmengine.config import Config

    from perceptkd.registry import DATASETS

    folder = real_data / "mmdet3d_demo" / "nuscenes"
    config = Config.fromfile(repository / "configs/_base_/datasets/nuscenes_frame.py")
    dataset = DATASETS.build({**config.val_dataloader.dataset, "data_root": str(folder), "pipeline": []})
    annotations = dataset.get_data_info(0)["eval_ann_info"]
    nothing = {"bboxes_3d": boxes(), "labels_3d": torch.zeros(0, dtype=torch.long), "scores_3d": torch.zeros(0)}
    metric = BoxRecallMetric(point_cloud_range=config.scene_range)
    metric.process({}, [{"eval_ann_info": annotations, "pred_instances_3d": nothing}])
    assert metric.evaluate(1)["boxes/counted"] == 26
