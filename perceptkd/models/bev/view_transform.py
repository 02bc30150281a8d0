"""Lift, splat, shoot (LSS): image features to BEV through a predicted depth distribution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perceptkd.core.errors import InputError
from perceptkd.models.bev.depth import CameraAwareDepthNet, ray_embedding
from perceptkd.models.bev.geometry import BEVGrid, Calibration, build_frustum, lift_frustum
from perceptkd.ops.bev_pool import bev_pool
from perceptkd.registry import MODELS


class LiftedMap(NamedTuple):
    """What a view transform makes."""

    bev: Tensor  # [B, C, Y, X] in the augmented LiDAR frame, fp32 (sums of hundreds of terms)
    depth_logits: Tensor  # [B V, D, H, W]


@MODELS.register_module()
class LSSViewTransform(nn.Module):
    """Predict depth and context at every image feature, and sum depth x context over the frustum points of each cell.

    The lifted tensor [B, V, D, C, H, W] is never made: pooling reads context rows weighted by depth (``ops.bev_pool``).

    Args:
        in_channels: Channels of the image features.
        out_channels: Channels of the context, and of the map.
        image_size: (height, width) of the augmented image in pixels.
        feature_stride: Pixels per image feature.
        depth_bins_m: (start, stop, step) of the depth bins in metres, stop excluded.
        point_cloud_range: (x0, y0, z0, x1, y1, z1) in metres; points outside are not pooled.
        cell_size_m: Edge of a BEV cell in metres.
        camera_aware: Read the rays of the features too, through a hidden layer; else depth and context are one 1 x 1
            convolution, as in UniDistill.
        align_corners: See :func:`build_frustum`.
        channels_last: Hand the map on in channels-last memory.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        image_size: tuple[int, int],
        feature_stride: int,
        depth_bins_m: tuple[float, float, float],
        point_cloud_range: tuple[float, ...],
        cell_size_m: float,
        camera_aware: bool = False,
        align_corners: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if any(pixels % feature_stride for pixels in image_size):
            raise InputError(f"image size {tuple(image_size)} is not a multiple of feature_stride={feature_stride}")
        self.grid = BEVGrid(tuple(point_cloud_range), cell_size_m)
        depths = torch.arange(*depth_bins_m)
        feature_size = (image_size[0] // feature_stride, image_size[1] // feature_stride)
        frustum = build_frustum(image_size, feature_size, depth_bins_m=depths, align_corners=align_corners)
        self.register_buffer("frustum", frustum, persistent=False)
        self.out_channels = out_channels
        self.camera_aware = camera_aware
        if camera_aware:
            self.depth_net = CameraAwareDepthNet(in_channels, len(depths) + out_channels)
        else:
            self.depth_net = nn.Conv2d(in_channels, len(depths) + out_channels, 1)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, features: Tensor, calibration: Calibration) -> LiftedMap:
        """Pool image features into BEV.

        Args:
            features: [B * V, C, H, W], views of a sample side by side.
            calibration: Matrices of the batch.
        """
        depth_bins = len(self.frustum)
        if features.shape[-2:] != self.frustum.shape[1:3]:
            raise InputError(
                f"image features are {tuple(features.shape[-2:])}, the frustum is {tuple(self.frustum.shape[1:3])}: "
                "image_size or feature_stride of the view transform does not match the pipeline or the neck"
            )
        rays = [ray_embedding(self.frustum, calibration)] if self.camera_aware else []
        depth, context = self.depth_net(features, *rays).split([depth_bins, self.out_channels], dim=1)
        with torch.autocast(features.device.type, enabled=False):
            weights = depth.float().softmax(dim=1)  # [B V, D, H, W]
            rows = context.float().permute(0, 2, 3, 1).reshape(-1, self.out_channels)
            return LiftedMap(self._pool(weights, rows, calibration), depth)

    def _pool(self, weights: Tensor, rows: Tensor, calibration: Calibration) -> Tensor:
        """Sum context rows [B V H W, C] into the cells of their frustum points, weighted by depth [B V, D, H, W]."""
        batch_size = len(calibration.cam2img)
        cells_y, cells_x = self.grid.shape
        num_cells = batch_size * cells_y * cells_x
        with torch.no_grad():
            cell, inside = self.grid.cell_index(lift_frustum(self.frustum, calibration))  # [B, V, D, H, W]
            first = torch.arange(0, num_cells, cells_y * cells_x, device=cell.device).view(-1, 1, 1, 1, 1)
            cell = torch.where(inside, cell + first, -1).flatten()
            views, bins, height, width = weights.shape
            row = torch.arange(len(rows), device=cell.device).view(views, 1, height, width)
            row = row.expand(-1, bins, -1, -1).flatten()
        pooled = bev_pool(weights.flatten(), rows, row, cell, num_cells)
        pooled = pooled.view(batch_size, cells_y, cells_x, -1).permute(0, 3, 1, 2)
        return pooled.contiguous(memory_format=self.memory_format)
