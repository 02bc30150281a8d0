"""One BEV detector for LiDAR, cameras, or both: the config decides which encoders it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmdet3d.models.detectors import Base3DDetector
from mmdet3d.structures import Det3DDataSample
from torch import Tensor, nn

from perceptkd.core.errors import InputError
from perceptkd.models.bev.geometry import BEVGrid, stack_calibration
from perceptkd.registry import MODELS


@MODELS.register_module()
class BEVDetector(Base3DDetector):
    """Sensor encoders -> fuser -> BEV backbone -> BEV neck -> centre head.

    All maps are [B, C, Y, X]. Where to tap, whatever the sensors: ``fuser`` (low level), ``neck[0]`` (high level) and
    ``bbox_head`` (tuple per task of [dict of maps]). ``bev_geometry`` states their layout and metric extent.

    Args:
        point_cloud_range: (x0, y0, z0, x1, y1, z1) of the grid in metres.
        cell_size_m: Edge of a cell of the sensors' maps in metres.
        backbone: Config of the BEV backbone.
        neck: Config of the BEV neck, which returns a list of one map.
        bbox_head: Config of the head.
        lidar_encoder: Config of the LiDAR encoder, or None.
        camera_encoder: Config of the camera encoder, or None.
        fuser: Config of the module from the list of maps (LiDAR first) to one map; PassThrough for one sensor.
        train_cfg: Handed to the head.
        test_cfg: Handed to the head.
        channels_last: Keep convolution weights in channels-last memory (two to three times faster in bf16 on CPU).
        data_preprocessor: Config of the data preprocessor.
        init_cfg: Initialisation, as in MMEngine.
    """

    def __init__(
        self,
        *,
        point_cloud_range: Sequence[float],
        cell_size_m: float,
        backbone: Mapping,
        neck: Mapping,
        bbox_head: Mapping,
        lidar_encoder: Mapping | None = None,
        camera_encoder: Mapping | None = None,
        fuser: Mapping | None = None,
        train_cfg: Mapping | None = None,
        test_cfg: Mapping | None = None,
        channels_last: bool = False,
        data_preprocessor: Mapping | None = None,
        init_cfg: Mapping | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if lidar_encoder is None and camera_encoder is None:
            raise InputError("a BEVDetector needs a lidar_encoder, a camera_encoder or both")
        self.grid = BEVGrid(tuple(point_cloud_range), cell_size_m)
        self.bev_geometry = {"layout": "yx", "extent": self.grid.extent}
        self.lidar_encoder = MODELS.build(lidar_encoder) if lidar_encoder else None
        self.camera_encoder = MODELS.build(camera_encoder) if camera_encoder else None
        self.fuser = MODELS.build(fuser or {"type": "perceptkd.PassThrough"})
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)
        self.bbox_head = MODELS.build({**bbox_head, "train_cfg": train_cfg, "test_cfg": test_cfg})
        self.channels_last = channels_last
        if channels_last:
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)

    def extract_feat(self, inputs: Mapping, data_samples: Sequence[Det3DDataSample]) -> list[Tensor]:
        """Map of the BEV neck.

        Args:
            inputs: What :class:`BEVDataPreprocessor` made: ``voxels`` (LiDAR) and ``imgs`` [B, V, 3, H, W] (cameras).
            data_samples: Samples whose meta information holds the calibration (cameras only).

        Returns:
            A list of one map [B, C, Y, X].
        """
        return self._encode(inputs, data_samples)[0]

    def _encode(
        self, inputs: Mapping, data_samples: Sequence[Det3DDataSample]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Map of the BEV neck, and the depth loss where this is training and the camera encoder has one."""
        maps, losses = {}, {}
        if self.lidar_encoder is not None:
            maps["lidar_encoder"] = self.lidar_encoder(self._input(inputs, "voxels"), len(data_samples))
        if self.camera_encoder is not None:
            images = self._input(inputs, "imgs")
            calibration = stack_calibration(data_samples, images.device)
            maps["camera_encoder"], depth_logits = self.camera_encoder(images, calibration)
            if self.training and self.camera_encoder.depth_loss is not None:
                frustum = self.camera_encoder.view_transform.frustum
                points = self._input(inputs, "points")
                losses["loss_depth"] = self.camera_encoder.depth_loss(depth_logits, points, calibration, frustum)
        for name, value in maps.items():
            if value.shape[-2:] != self.grid.shape:
                raise InputError(
                    f"{name} made a map of {tuple(value.shape[-2:])} cells (Y, X), the grid of the detector is "
                    f"{self.grid.shape}: voxel size, stride and point_cloud_range of the config disagree"
                )
        return self.neck(self.backbone(self.fuser(list(maps.values())))), losses

    def _input(self, inputs: Mapping, key: str) -> Tensor | Mapping:
        if key not in inputs:
            raise InputError(
                f"the batch has no {key!r} (it has {sorted(inputs)}): set the matching part of "
                "perceptkd.BEVDataPreprocessor and load that sensor in the pipeline"
            )
        return inputs[key]

    def loss(self, inputs: Mapping, data_samples: Sequence[Det3DDataSample], **_: object) -> dict[str, Tensor]:
        """Detection losses of a batch, and ``loss_depth`` where the camera encoder has a depth loss."""
        features, losses = self._encode(inputs, data_samples)
        return {**self.bbox_head.loss(features, data_samples), **losses}

    def predict(
        self, inputs: Mapping, data_samples: Sequence[Det3DDataSample], **_: object
    ) -> Sequence[Det3DDataSample]:
        """Detections of a batch, added to its samples as ``pred_instances_3d``."""
        results = self.bbox_head.predict(self.extract_feat(inputs, data_samples), data_samples)
        return self.add_pred_to_datasample(data_samples, results)

    def _forward(
        self, inputs: Mapping, data_samples: Sequence[Det3DDataSample], **_: object
    ) -> tuple[list[dict[str, Tensor]], ...]:
        """Raw head outputs of every task."""
        return self.bbox_head(self.extract_feat(inputs, data_samples))
