"""One rotation, scale, translation and flip of the scene for points, boxes and cameras alike."""
# ruff: noqa: NPY002  (SeededDataset seeds numpy's global state, a Generator of our own it could not)

from __future__ import annotations

import math

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.structures import LiDARInstance3DBoxes
from torch import Tensor

from perceptkd.registry import TRANSFORMS


def bev_augmentation_matrix(
    rotate_rad: float, scale: float, *, translate_m: np.ndarray, flip_x: bool, flip_y: bool
) -> np.ndarray:
    """Flip @ translate @ scale @ rotate.

    Args:
        rotate_rad: Angle about +z, counter-clockwise.
        scale: Factor of all three axes.
        translate_m: [3] metres.
        flip_x: Whether x becomes -x.
        flip_y: Whether y becomes -y.

    Returns:
        [4, 4] on (x, y, z, 1).
    """
    cosine, sine = math.cos(rotate_rad), math.sin(rotate_rad)
    matrix = np.eye(4)
    matrix[:3, :3] = scale * np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    matrix[:3, 3] = translate_m
    return np.diag([-1.0 if flip_x else 1.0, -1.0 if flip_y else 1.0, 1.0, 1.0]) @ matrix


def transform_boxes(boxes: LiDARInstance3DBoxes, matrix: np.ndarray) -> LiDARInstance3DBoxes:
    """Boxes moved by a similarity of the ground plane: centres, dims, yaw (in (-pi, pi]) and velocity.

    Args:
        boxes: N boxes of 7 numbers, or of 9 with the velocity.
        matrix: [4, 4] from :func:`bev_augmentation_matrix`.

    Returns:
        New boxes; the given ones stay as they are.
    """
    linear, offset = torch.from_numpy(matrix[:3, :3]), torch.from_numpy(matrix[:3, 3])
    values = boxes.tensor.double().clone()
    scale = float(torch.linalg.det(linear[:2, :2]).abs().sqrt())
    values[:, :3] = values[:, :3] @ linear.T + offset
    values[:, 3:6] *= scale
    heading = torch.stack([values[:, 6].cos(), values[:, 6].sin()], dim=1) @ linear[:2, :2].T
    values[:, 6] = torch.atan2(heading[:, 1], heading[:, 0])
    if values.shape[1] == 9:
        values[:, 7:9] = values[:, 7:9] @ linear[:2, :2].T
    return LiDARInstance3DBoxes(values.float(), box_dim=values.shape[1])


def transform_points(points: Tensor, matrix: np.ndarray) -> Tensor:
    """Points [N, F] with x, y, z moved by a [4, 4] matrix and the other features kept."""
    moved = points.clone()
    moved[:, :3] = points[:, :3] @ points.new_tensor(matrix[:3, :3]).T + points.new_tensor(matrix[:3, 3])
    return moved


@TRANSFORMS.register_module()
class AugmentBEV(BaseTransform):
    """Draw one augmentation per sample, apply it to points and boxes, and record it for the cameras.

    Reads ``points`` and ``gt_bboxes_3d`` where present. Writes ``lidar_aug_matrix`` ([4, 4]), so that LiDAR BEV, camera
    BEV and ground truth share one augmented frame.

    Args:
        rotate_range_deg: Angles about the up axis.
        scale_range: Factors.
        translate_std_m: Standard deviation of the shift along x, y and z.
        flip_probability: Of mirroring x, and independently of mirroring y.
    """

    def __init__(
        self,
        *,
        rotate_range_deg: tuple[float, float] = (0.0, 0.0),
        scale_range: tuple[float, float] = (1.0, 1.0),
        translate_std_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
        flip_probability: float = 0.0,
    ) -> None:
        self.rotate_range_deg = rotate_range_deg
        self.scale_range = scale_range
        self.translate_std_m = translate_std_m
        self.flip_probability = flip_probability

    def transform(self, results: dict) -> dict:
        """Augment one sample."""
        flip_x, flip_y = np.random.rand(2) < self.flip_probability
        matrix = bev_augmentation_matrix(
            math.radians(np.random.uniform(*self.rotate_range_deg)),
            np.random.uniform(*self.scale_range),
            translate_m=np.random.normal(scale=self.translate_std_m, size=3),
            flip_x=bool(flip_x),
            flip_y=bool(flip_y),
        )
        if "points" in results:
            points = results["points"]
            results["points"] = points.new_point(transform_points(points.tensor, matrix))
        if "gt_bboxes_3d" in results:
            results["gt_bboxes_3d"] = transform_boxes(results["gt_bboxes_3d"], matrix)
        results["lidar_aug_matrix"] = matrix @ results.get("lidar_aug_matrix", np.eye(4))
        return results
