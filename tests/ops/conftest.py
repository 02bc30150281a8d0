"""Upstream detectors shrunk to seconds, and clouds for them; upstream code needs the patches of perceptkd.compat."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hub import get_config

import perceptkd.compat  # noqa: F401

CLOUD_POINTS = 3000


def make_scene(low: list[float], high: list[float], columns: int, box_columns: int, classes: int) -> dict:
    """A batch of two clouds, each with three boxes full of points."""
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
    from mmengine.structures import InstanceData

    rng = np.random.default_rng(0)
    points, samples = [], []
    for _ in range(2):
        centres = rng.uniform(low, high, (3, 3)) * 0.6 + np.mean([low, high], axis=0) * 0.4
        sizes = np.tile([3.9, 1.6, 1.6], (3, 1))
        inside = centres[:, None] + rng.uniform(-0.5, 0.5, (3, 200, 3)) * sizes[:, None]
        ground = rng.uniform(low, high, (CLOUD_POINTS, 3))
        cloud = np.zeros((600 + CLOUD_POINTS, columns), np.float32)
        cloud[:, :3] = np.concatenate([inside.reshape(-1, 3), ground])
        boxes = np.zeros((3, box_columns), np.float32)
        boxes[:, :6] = np.concatenate([centres - [0, 0, 0.8], sizes], axis=1)
        boxes[:, 6] = rng.uniform(-3, 3, 3)
        sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
        sample.gt_instances_3d = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(torch.from_numpy(boxes), box_dim=box_columns),
            labels_3d=torch.from_numpy(rng.integers(0, classes, 3)),
        )
        points.append(torch.from_numpy(cloud))
        samples.append(sample)
    return {"inputs": {"points": points}, "data_samples": samples}


def shrink_centerpoint(name: str, low: list[float], high: list[float], grid: list[int]) -> dict:
    """The model of an upstream CenterPoint config with a smaller range, no downloaded weights, thresholds of 0."""
    model = get_config(name).model.to_dict()
    model["data_preprocessor"]["voxel_layer"]["point_cloud_range"] = low + high
    if "point_cloud_range" in model["pts_voxel_encoder"] or "Pillar" in model["pts_voxel_encoder"]["type"]:
        model["pts_voxel_encoder"]["point_cloud_range"] = low + high
    model["pts_bbox_head"]["bbox_coder"].update(pc_range=low[:2], score_threshold=0.0, max_num=100)
    model["train_cfg"]["pts"].update(grid_size=grid, point_cloud_range=low + high)
    model["test_cfg"]["pts"].update(pc_range=low[:2], score_threshold=0.0)
    return model


@pytest.fixture
def scene() -> Callable[..., dict[str, Any]]:
    """scene(low, high, columns, box_columns, classes) -> a raw batch of two clouds, each with three boxes."""
    return make_scene


@pytest.fixture
def centerpoint_config() -> Callable[..., dict[str, Any]]:
    """centerpoint_config(name, low, high, grid) -> the model dict of an upstream config, on a smaller range."""
    return shrink_centerpoint
