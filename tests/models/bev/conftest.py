"""A synthetic batch: boxes with points in them, and six cameras in a ring around the LiDAR."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmdet3d.structures import Box3DMode, Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

CLASSES = (
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
)


def six_cameras(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """cam2img and lidar2cam [6, 4, 4] of cameras that look outwards, 60 degrees apart, z to the front and y down."""
    intrinsics = np.eye(4)
    intrinsics[:2, :3] = [[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2]]
    extrinsics = []
    for yaw in np.arange(6) * np.pi / 3:
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        right, down = np.array([np.sin(yaw), -np.cos(yaw), 0.0]), np.array([0.0, 0.0, -1.0])
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([right, down, forward])
        matrix[:3, 3] = [0.0, -0.3, -0.5]
        extrinsics.append(matrix)
    return np.stack([intrinsics] * 6), np.stack(extrinsics)


def make_sample(boxes: int, size: tuple[int, int], reach_m: float) -> Det3DDataSample:
    """A sample with random boxes within reach_m and the calibration of six cameras."""
    cam2img, lidar2cam = six_cameras(*size)
    sample = Det3DDataSample(
        metainfo={
            "cam2img": cam2img,
            "lidar2cam": lidar2cam,
            "img_aug_matrix": np.stack([np.eye(4)] * 6),
            "lidar_aug_matrix": np.eye(4),
            "box_type_3d": LiDARInstance3DBoxes,
            "box_mode_3d": Box3DMode.LIDAR,
            "token": "synthetic",
        }
    )
    values = torch.rand(boxes, 9) * torch.tensor([2 * reach_m, 2 * reach_m, 1.0, 4.0, 2.0, 1.5, 6.0, 2.0, 2.0])
    values += torch.tensor([-reach_m, -reach_m, -1.5, 1.0, 0.5, 0.5, -3.0, -1.0, -1.0])
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(values, box_dim=9, origin=(0.5, 0.5, 0.5)),
        labels_3d=torch.randint(0, len(CLASSES), (boxes,)),
    )
    return sample


def make_points(sample: Det3DDataSample, reach_m: float, count: int) -> torch.Tensor:
    """Points [N, 5] of x, y, z, intensity, age: half on the ground, half in the boxes."""
    ground = (torch.rand(count // 2, 3) * 2 - 1) * torch.tensor([reach_m, reach_m, 0.1]) - torch.tensor([0, 0, 1.8])
    centres = sample.gt_instances_3d.bboxes_3d.gravity_center
    chosen = centres[torch.randint(0, len(centres), (count // 2,))] if len(centres) else ground
    points = torch.cat([ground, chosen + 0.5 * torch.randn_like(chosen)])
    return torch.cat([points, torch.rand(len(points), 1) * 255, torch.zeros(len(points), 1)], dim=1)


@pytest.fixture
def make_batch() -> Callable[..., dict]:
    """A function to make a raw collated batch: ``make_batch(batch_size=2, size=(64, 128), boxes=6)``."""

    def make(
        batch_size: int = 2,
        *,
        size: tuple[int, int] = (64, 128),
        boxes: int = 6,
        points: int = 2000,
        reach_m: float = 40.0,
    ) -> dict:
        samples = [make_sample(boxes, size, reach_m) for _ in range(batch_size)]
        return {
            "inputs": {
                "points": [make_points(sample, reach_m, points) for sample in samples],
                "img": [torch.randint(0, 256, (6, 3, *size), dtype=torch.uint8) for _ in samples],
            },
            "data_samples": samples,
        }

    return make
