"""Boxes with a velocity, for heads that cannot do without."""

from typing import Any

import torch
from mmcv.transforms import BaseTransform

from perceptkd.core.errors import InputError
from perceptkd.registry import TRANSFORMS


@TRANSFORMS.register_module()
class AddZeroVelocity(BaseTransform):
    """Boxes [N, 7] become [N, 9] with a velocity of 0 m/s.

    For data without velocities, such as KITTI: mmdet3d's ``CenterHead`` ends in ``not enough values to unpack`` there.
    Comes after everything that makes boxes.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Extend ``gt_bboxes_3d``."""
        boxes = results["gt_bboxes_3d"]
        if boxes.tensor.shape[1] != 7:
            raise InputError(
                f"boxes have {boxes.tensor.shape[1]} values and a velocity already: leave AddZeroVelocity out"
            )
        still = torch.nn.functional.pad(boxes.tensor, (0, 2))
        results["gt_bboxes_3d"] = type(boxes)(still, box_dim=9, with_yaw=boxes.with_yaw)
        return results
