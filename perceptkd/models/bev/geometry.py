"""Geometry shared by every BEV model: the metric grid, the calibration of a batch, the camera frustum.

Shapes: B batch, V views, D depth bins, H W feature rows and columns, Y X cells of the BEV grid.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from perceptkd.core.errors import InputError

CALIBRATION_KEYS = ("cam2img", "lidar2cam", "img_aug_matrix", "lidar_aug_matrix")


@dataclass(frozen=True)
class BEVGrid:
    """The metric grid every BEV map lies on: row index runs along y, column index along x.

    Args:
        point_cloud_range: (x0, y0, z0, x1, y1, z1) in metres.
        cell_size_m: Edge of a square cell in metres.
    """

    point_cloud_range: tuple[float, ...]
    cell_size_m: float

    def __post_init__(self) -> None:
        x0, y0, _, x1, y1, _ = self.point_cloud_range
        for low, high in ((x0, x1), (y0, y1)):
            cells = (high - low) / self.cell_size_m
            if not math.isclose(cells, round(cells), abs_tol=1e-3):
                raise InputError(
                    f"[{low}, {high}] m is {cells:.3f} cells of {self.cell_size_m} m: choose a whole number of cells"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X): rounded, since truncation loses a cell to floating point."""
        x0, y0, _, x1, y1, _ = self.point_cloud_range
        return round((y1 - y0) / self.cell_size_m), round((x1 - x0) / self.cell_size_m)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) in metres."""
        x0, y0, _, x1, y1, _ = self.point_cloud_range
        return x0, y0, x1, y1

    def cell_index(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Row-major cell of each point, by floor: truncation would fold the cell below the low edge into cell 0.

        Args:
            points: [..., 3] metres in the frame of the grid.

        Returns:
            The index [...] (int64, meaningless where a point is outside) and the mask [...] of points inside.
        """
        x0, y0, z0, _, _, z1 = self.point_cloud_range
        rows, columns = self.shape
        column = torch.floor((points[..., 0] - x0) / self.cell_size_m).long()
        row = torch.floor((points[..., 1] - y0) / self.cell_size_m).long()
        height = points[..., 2]
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows) & (height >= z0) & (height < z1)
        return row * columns + column, inside


class Calibration(NamedTuple):
    """Camera geometry of a batch, float32: matrices act on column vectors from the left."""

    cam2img: Tensor  # [B, V, 4, 4]
    lidar2cam: Tensor  # [B, V, 4, 4]
    img_aug_matrix: Tensor  # [B, V, 4, 4], on (u, v, depth, 1)
    lidar_aug_matrix: Tensor  # [B, 4, 4], on (x, y, z, 1)


def stack_calibration(data_samples: Sequence[Det3DDataSample], device: torch.device | str) -> Calibration:
    """Calibration of a batch from the meta information of its samples.

    Raises:
        InputError: A sample lacks one of the four matrices.
    """
    stacked = []
    for key in CALIBRATION_KEYS:
        missing = [i for i, sample in enumerate(data_samples) if key not in sample.metainfo]
        if missing:
            raise InputError(
                f"sample {missing[0]} of the batch has no {key!r}: a camera model needs {CALIBRATION_KEYS} in the "
                "meta information (load the images and end the pipeline with perceptkd.PackBEVInputs)"
            )
        matrices = np.stack([np.asarray(sample.metainfo[key], dtype=np.float64) for sample in data_samples])
        stacked.append(torch.as_tensor(matrices, dtype=torch.float32, device=device))
    return Calibration(*stacked)


def build_frustum(
    image_size: tuple[int, int], feature_size: tuple[int, int], *, depth_bins_m: Tensor, align_corners: bool = False
) -> Tensor:
    """Pixel and depth of every frustum point.

    Args:
        image_size: (height, width) of the augmented image in pixels.
        feature_size: (H, W) of the feature map.
        depth_bins_m: [D] metres along the optical axis.
        align_corners: Spread the columns from pixel 0 to pixel width - 1, as LSS does, instead of taking the centre
            of the pixels a feature stands for.

    Returns:
        [D, H, W, 3] of (u, v, depth).
    """
    axes = []
    for pixels, count in zip(image_size, feature_size, strict=True):
        if align_corners:
            axes.append(torch.linspace(0, pixels - 1, count))
        else:
            axes.append((torch.arange(count) + 0.5) * (pixels / count))
    depth, rows, columns = torch.meshgrid(depth_bins_m.float(), axes[0], axes[1], indexing="ij")
    return torch.stack([columns, rows, depth], dim=-1)


def without_autocast(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute in the precision of the arguments: bf16, which autocast would take, knows a pixel to one part in 256."""

    @functools.wraps(function)
    def exact(first: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return exact


@without_autocast
def lift_frustum(frustum: Tensor, calibration: Calibration) -> Tensor:
    """Points of the frustum in the augmented LiDAR frame, in which points and boxes of the sample are given.

    Undoes the image augmentation of each camera, unprojects, moves to the LiDAR and applies the BEV augmentation.

    Args:
        frustum: [D, H, W, 3] of (u, v, depth) in the augmented image.
        calibration: Matrices of the batch.

    Returns:
        [B, V, D, H, W, 3] metres.
    """
    batch_size, views = calibration.cam2img.shape[:2]
    pixels = frustum.reshape(1, 1, -1, 3)
    undo = torch.linalg.inv(calibration.img_aug_matrix)
    pixels = pixels @ undo[..., :3, :3].transpose(-1, -2) + undo[..., None, :3, 3]
    camera = torch.cat([pixels[..., :2] * pixels[..., 2:], pixels[..., 2:]], dim=-1)
    image_to_lidar = (
        calibration.lidar_aug_matrix[:, None]
        @ torch.linalg.inv(calibration.lidar2cam)
        @ torch.linalg.inv(calibration.cam2img)
    )
    points = camera @ image_to_lidar[..., :3, :3].transpose(-1, -2) + image_to_lidar[..., None, :3, 3]
    return points.reshape(batch_size, views, *frustum.shape)


@without_autocast
def ray_directions(frustum: Tensor, calibration: Calibration) -> Tensor:
    """Direction of each feature's ray in the LiDAR frame before BEV augmentation, per metre of depth.

    Args:
        frustum: [D, H, W, 3] of (u, v, depth) in the augmented image.
        calibration: Matrices of the batch.

    Returns:
        [B, V, H, W, 3], where the component along the optical axis is 1 m.
    """
    near, far = (frustum[:1].clone() for _ in range(2))
    near[..., 2], far[..., 2] = 1.0, 2.0
    still = torch.eye(4, device=frustum.device).expand_as(calibration.lidar_aug_matrix)
    unmoved = calibration._replace(lidar_aug_matrix=still)
    return (lift_frustum(far, unmoved) - lift_frustum(near, unmoved))[:, :, 0]


@without_autocast
def project_points(points: Tensor, calibration: Calibration, sample: int) -> Tensor:
    """Points in the augmented LiDAR frame as pixels of the augmented images: undoes what ``lift_frustum`` does.

    Args:
        points: [N, 3] metres.
        calibration: Matrices of the batch.
        sample: Which sample of the batch the points belong to.

    Returns:
        [V, N, 3] of (u, v, depth); u and v mean nothing where the depth is not positive.
    """
    cam2img, lidar2cam, img_aug, lidar_aug = (matrices[sample] for matrices in calibration)
    matrix = cam2img @ lidar2cam @ torch.linalg.inv(lidar_aug)  # [V, 4, 4]
    camera = points @ matrix[:, :3, :3].transpose(-1, -2) + matrix[:, None, :3, 3]
    depth = camera[..., 2:]
    pixels = torch.cat([camera[..., :2] / depth.clamp(min=1e-3), depth], dim=-1)
    return pixels @ img_aug[:, :3, :3].transpose(-1, -2) + img_aug[:, None, :3, 3]
