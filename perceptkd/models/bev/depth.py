"""Depth of image features: what the camera geometry says of it beforehand, and LiDAR points as its training target.

Shapes: B batch, V views, D depth bins, H W feature rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from torch import Tensor, nn

from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.models.bev.geometry import Calibration, project_points, ray_directions
from perceptkd.registry import MODELS

LIDAR_HEIGHT_M = 1.8
STEEPEST_PER_M = 0.6  # a ray that meets the ground 1.7 m ahead: steeper ones see the ego vehicle
FREQUENCIES = (1, 2, 4, 8, 16, 32, 64)
RAY_CHANNELS = 2 + 2 * len(FREQUENCIES)


def ray_embedding(frustum: Tensor, calibration: Calibration) -> Tensor:
    """Where the ray of each feature would meet a flat road, and how far apart neighbouring rays are.

    The road is ``LIDAR_HEIGHT_M`` below the LiDAR. The inverse of the distance is linear in the image row, whatever the
    mounting, resize, crop or rotation was; it is given as such and as sines and cosines. Above the horizon it is
    negative. A convolution alone cannot know it.

    Args:
        frustum: [D, H, W, 3] of (u, v, depth) in the augmented image.
        calibration: Matrices of the batch.

    Returns:
        [B V, RAY_CHANNELS, H, W].
    """
    directions = ray_directions(frustum, calibration)  # [B, V, H, W, 3], per metre of depth
    height = LIDAR_HEIGHT_M + torch.linalg.inv(calibration.lidar2cam)[..., 2, 3]  # of each camera above the road
    inverse = (-directions[..., 2] / height[..., None, None]).clamp(-STEEPEST_PER_M / 3, STEEPEST_PER_M)
    zoom = torch.linalg.vector_norm(calibration.img_aug_matrix[..., :2, 0], dim=-1)
    spacing = 100 / (calibration.cam2img[..., 0, 0] * zoom)
    waves = [wave(math.pi * frequency * inverse) for frequency in FREQUENCIES for wave in (torch.sin, torch.cos)]
    return torch.stack([5 * inverse, spacing[..., None, None].expand_as(inverse), *waves], dim=2).flatten(0, 1)


class CameraAwareDepthNet(nn.Module):
    """Depth logits and context from image features and their rays.

    In the spirit of BEVDepth (Li et al., AAAI 2023, Sec. 3.2), which hands the camera's matrices to its depth net.

    Args:
        in_channels: C of the image features.
        out_channels: Depth bins and context channels together.
        num_groups: Groups of the group norm.
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_groups: int = 8) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Conv2d(in_channels + RAY_CHANNELS, in_channels, 3, padding=1, bias=False),
            nn.GroupNorm(num_groups, in_channels),
            nn.ReLU(inplace=True),
        )
        self.out = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: Tensor, rays: Tensor) -> Tensor:
        """[N, C, H, W] and [N, RAY_CHANNELS, H, W] to [N, out_channels, H, W]."""
        return self.out(self.hidden(torch.cat([features, rays.to(features.dtype)], dim=1)))


@MODELS.register_module()
class LidarDepthLoss(nn.Module):
    """Cross-entropy of the predicted depth distribution where LiDAR points tell the depth.

    BEVDepth (Sec. 3.1): the nearest point in the pixels of a feature is its target. Points are read in training only.

    Args:
        weight: Factor of the loss.
    """

    def __init__(self, *, weight: float = 3.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, depth_logits: Tensor, points: Sequence[Tensor], calibration: Calibration, frustum: Tensor
    ) -> Tensor:
        """The loss, averaged over the features with a target of all ranks.

        Args:
            depth_logits: [B V, D, H, W].
            points: Per sample [N, 5] of x, y, z, intensity and age in the augmented LiDAR frame; only those of age 0,
                the key frame's own, are targets.
            calibration: Matrices of the batch.
            frustum: [D, H, W, 3], whose depths are the bins.
        """
        target = depth_targets(points, calibration, frustum)
        known = target >= 0
        count = all_reduce_mean(known.sum().float())
        with torch.autocast(depth_logits.device.type, enabled=False):
            logits = depth_logits.float().permute(0, 2, 3, 1)
            total = F.cross_entropy(logits[known], target[known], reduction="sum")
        return self.weight * total / count.clamp(min=1 / get_world_size())


@torch.no_grad()
def depth_targets(points: Sequence[Tensor], calibration: Calibration, frustum: Tensor) -> Tensor:
    """Depth bin of the nearest LiDAR point in each feature; arguments as in :class:`LidarDepthLoss`.

    Returns:
        [B V, H, W] int64, -1 where no point falls.
    """
    bins, height, width = frustum.shape[:3]
    first, step = frustum[0, 0, 0, 2], frustum[1, 0, 0, 2] - frustum[0, 0, 0, 2]
    left, top = frustum[0, 0, 0, 0], frustum[0, 0, 0, 1]
    across, down = frustum[0, 0, 1, 0] - left, frustum[0, 1, 0, 1] - top
    views = calibration.cam2img.shape[1]
    target = torch.full((len(points), views * height * width), bins, device=frustum.device)
    for sample, cloud in enumerate(points):
        if cloud.shape[1] < 5:
            raise InputError(
                f"depth targets need points of x, y, z, intensity and age, got {cloud.shape[1]} values per point: load "
                "them with perceptkd.LoadPoints"
            )
        pixels = project_points(cloud[cloud[:, 4] == 0, :3], calibration, sample)  # [V, N, 3]
        column = ((pixels[..., 0] - left) / across).round().long()
        row = ((pixels[..., 1] - top) / down).round().long()
        depth_bin = ((pixels[..., 2] - first) / step).round().long()
        seen = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth_bin >= 0) & (depth_bin < bins)
        view = torch.arange(views, device=cloud.device)[:, None].expand_as(column)
        cell = (view * height + row) * width + column
        target[sample].scatter_reduce_(0, cell[seen], depth_bin[seen], "amin")
    return target.masked_fill(target == bins, -1).view(-1, height, width)
