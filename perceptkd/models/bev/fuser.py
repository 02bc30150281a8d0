"""From the BEV maps of the sensors to the one map that the shared encoder reads (the low-level tap)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perceptkd.core.errors import InputError
from perceptkd.registry import MODELS


@MODELS.register_module()
class PassThrough(nn.Module):
    """The map of the only sensor, so that the tap ``fuser`` exists in every model."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the only map of ``maps`` ([B, C, Y, X])."""
        if len(maps) != 1:
            raise InputError(f"PassThrough takes the map of one sensor, got {len(maps)}: use ChannelAttentionFuser")
        return maps[0]


@MODELS.register_module()
class ChannelAttentionFuser(nn.Module):
    """Concatenate, weigh every channel by its global mean, and mix with a 3x3 convolution (UniDistill's fusion).

    Args:
        in_channels: Channels of each sensor's map, in the order LiDAR, camera.
        out_channels: Channels of the fused map.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        channels = sum(in_channels)
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())
        self.mix = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse maps [B, C_i, Y, X] to [B, out_channels, Y, X]."""
        joined = torch.cat(list(maps), dim=1)
        return self.mix(joined * self.attention(joined))
