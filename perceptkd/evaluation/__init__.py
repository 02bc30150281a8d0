"""Metrics by the official evaluators."""

from perceptkd.evaluation import nuscenes_metric  # noqa: F401  (registers NuScenesMetric)
