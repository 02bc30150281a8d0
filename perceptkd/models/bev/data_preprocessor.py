"""From the raw batch, which several models share, to what one BEV model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from perceptkd.core.errors import InputError
from perceptkd.ops.voxelize import hard_voxelize
from perceptkd.registry import MODELS


@MODELS.register_module()
class BEVDataPreprocessor(BaseDataPreprocessor):
    """Voxelize points, normalise and stack images. Nothing of the raw batch is written to.

    Only what the model needs is moved and made: no ``voxelize``, no voxels; neither ``image_mean`` nor ``per_image``,
    no images.

    Args:
        voxelize: ``voxel_size``, ``point_cloud_range``, ``max_points`` and ``max_voxels`` (training, test) or None.
        with_points: Whether training reads the points themselves, as the depth loss of a camera model does.
        image_mean: Mean per RGB channel, 0-255, or None for a model without cameras.
        image_std: Standard deviation per RGB channel.
        per_image: Normalise each image by its own mean and deviation instead, all channels together. The six images of
            a sample share light and weather; batch norm on small batches would lean on that, and fail in test.
        bgr_to_rgb: Whether the raw images are BGR, as cv2 reads them.
        channels_last: Hand images on in channels-last memory.
        non_blocking: Copy to the device asynchronously.
    """

    def __init__(
        self,
        *,
        voxelize: Mapping | None = None,
        with_points: bool = False,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        per_image: bool = False,
        bgr_to_rgb: bool = True,
        channels_last: bool = False,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        self.voxelize = dict(voxelize) if voxelize else None
        self.with_points = with_points
        self.per_image = per_image
        self.with_images = per_image or image_mean is not None
        if per_image and image_mean is not None:
            raise InputError("give image_mean and image_std, or per_image=True, not both")
        if image_mean is not None:
            if image_std is None or len(image_mean) != 3 or len(image_std) != 3:
                raise InputError("image_mean and image_std must both hold three numbers")
            self.register_buffer("image_mean", torch.tensor(image_mean).view(3, 1, 1), persistent=False)
            self.register_buffer("image_std", torch.tensor(image_std).view(3, 1, 1), persistent=False)
        self.bgr_to_rgb = bgr_to_rgb
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, data: Mapping, training: bool = False) -> dict:
        """Prepare a collated batch.

        Args:
            data: ``inputs`` (``points``: list of [N, F]; ``img``: list of uint8 [V, 3, H, W]) and ``data_samples``.
            training: Which voxel limit holds.

        Returns:
            ``inputs`` (``points``, ``voxels``, ``imgs`` [B, V, 3, H, W], as asked for) and ``data_samples``.
        """
        raw, inputs = data["inputs"], {}
        if self.voxelize is not None or (self.with_points and training):
            inputs["points"] = self.cast_data(list(self._raw(raw, "points")))
        if self.voxelize is not None:
            inputs["voxels"] = self._voxelize(inputs["points"], training)
        if self.with_images:
            inputs["imgs"] = self._normalize(self.cast_data(list(self._raw(raw, "img"))))
        return {"inputs": inputs, "data_samples": self.cast_data(data.get("data_samples"))}

    @staticmethod
    def _raw(raw: Mapping, key: str) -> Sequence[Tensor]:
        if key not in raw:
            raise InputError(f"the batch has no {key!r} (it has {sorted(raw)}): load that sensor in the pipeline")
        return raw[key]

    @torch.no_grad()
    def _voxelize(self, points: Sequence[Tensor], training: bool) -> dict[str, Tensor]:
        """Voxels of all clouds, with the sample as first coordinate (b, z, y, x)."""
        config = self.voxelize
        parts = [
            hard_voxelize(
                cloud,
                config["voxel_size"],
                config["point_cloud_range"],
                config["max_points"],
                config["max_voxels"][0 if training else 1],
            )
            for cloud in points
        ]
        coordinates = [
            torch.nn.functional.pad(coors, (1, 0), value=sample) for sample, (_, coors, _) in enumerate(parts)
        ]
        return {
            "voxels": torch.cat([voxels for voxels, _, _ in parts]),
            "coors": torch.cat(coordinates),
            "num_points": torch.cat([counts for _, _, counts in parts]),
        }

    def _normalize(self, images: Sequence[Tensor]) -> Tensor:
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) != 1:
            raise InputError(f"the samples of the batch have images of shapes {sorted(shapes)}: augment to one size")
        stacked = torch.stack(list(images))
        if self.bgr_to_rgb:
            stacked = stacked.flip(-3)
        flat = stacked.flatten(0, 1).float()
        if self.per_image:
            deviation, mean = torch.std_mean(flat, dim=(1, 2, 3), keepdim=True)
            flat = (flat - mean) / deviation.clamp(min=1.0)  # a covered lens has none
        else:
            flat = (flat - self.image_mean) / self.image_std
        return flat.contiguous(memory_format=self.memory_format).view(stacked.shape)
