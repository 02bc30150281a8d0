"""Cameras to BEV: any mmdet backbone and neck, then a view transform."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.model import BaseModule
from torch import Tensor

from perceptkd.models.bev.geometry import Calibration
from perceptkd.models.bev.view_transform import LiftedMap
from perceptkd.registry import MODELS


@MODELS.register_module()
class CameraEncoder(BaseModule):
    """Image features of all views, lifted and pooled into one map.

    Args:
        backbone: Config of a backbone of mmdet (type with its scope, for example ``mmdet.ResNet``).
        neck: Config of a neck over its levels; the first map it returns is lifted.
        view_transform: Config of the module from image features to BEV.
        depth_loss: Config of the loss that LiDAR points put on the predicted depth in training, or None.
    """

    def __init__(
        self, backbone: Mapping, neck: Mapping, view_transform: Mapping, *, depth_loss: Mapping | None = None
    ) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)
        self.view_transform = MODELS.build(view_transform)
        self.depth_loss = MODELS.build(depth_loss) if depth_loss else None

    def forward(self, images: Tensor, calibration: Calibration) -> LiftedMap:
        """Encode normalised images [B, V, 3, H, W] to a map [B, C, Y, X] and depth logits [B V, D, H', W']."""
        features = self.neck(self.backbone(images.flatten(0, 1)))[0]
        return self.view_transform(features, calibration)
