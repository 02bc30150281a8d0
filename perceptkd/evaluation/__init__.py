"""Metrics by the official evaluators, and how many boxes of a frame are found."""

from perceptkd.evaluation import box_recall_metric, nuscenes_metric, point_iou_metric  # noqa: F401  (registers)
