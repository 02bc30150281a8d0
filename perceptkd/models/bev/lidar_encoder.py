"""LiDAR to BEV: voxels (sparse convolution) or pillars, by config."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.model import BaseModule
from torch import Tensor

from perceptkd.core.errors import InputError
from perceptkd.registry import MODELS


@MODELS.register_module()
class LidarEncoder(BaseModule):
    """A voxel encoder and a middle encoder of mmdet3d, from voxels to a dense map [B, C, Y, X].

    ``HardSimpleVFE`` and ``SparseEncoder`` make the voxel model (C is channels times the height cells that are left),
    ``PillarFeatureNet`` and ``PointPillarsScatter`` the pillar model.

    Args:
        voxel_encoder: Config of the encoder of one voxel's points.
        middle_encoder: Config of the module from voxel features to the map.
        channels_last: Hand the map on in channels-last memory, which the dense encoder prefers on CPU.
    """

    def __init__(self, voxel_encoder: Mapping, middle_encoder: Mapping, *, channels_last: bool = False) -> None:
        super().__init__()
        if voxel_encoder["type"].endswith("PillarFeatureNet") and voxel_encoder.get("legacy", True):
            raise InputError("PillarFeatureNet(legacy=True) writes into its input: set legacy=False")
        self.voxel_encoder = MODELS.build(voxel_encoder)
        self.middle_encoder = MODELS.build(middle_encoder)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, voxels: Mapping[str, Tensor], batch_size: int) -> Tensor:
        """Encode a batch.

        Args:
            voxels: ``voxels`` [N, M, F], ``num_points`` [N] and ``coors`` [N, 4] (b, z, y, x).
            batch_size: Number of samples; ``coors`` cannot tell, since the last cloud may be empty.

        Returns:
            Map [B, C, Y, X].
        """
        coordinates = voxels["coors"]
        if len(coordinates) == 0:
            raise InputError(
                f"none of the {batch_size} clouds of the batch has a point inside point_cloud_range: check the files, "
                "the unit (metres) and the range of the config"
            )
        features = self.voxel_encoder(voxels["voxels"], voxels["num_points"], coordinates)
        return self.middle_encoder(features, coordinates, batch_size).contiguous(memory_format=self.memory_format)
