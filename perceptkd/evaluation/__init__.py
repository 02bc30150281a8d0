"""Metrics by the official evaluators, and how many boxes of a frame are found."""

from perceptkd.evaluation import (  # noqa: F401  (registers the metrics)
    box_recall_metric,
    center_distance_metric,
    kitti_metric,
    nuscenes_metric,
    point_iou_metric,
)
