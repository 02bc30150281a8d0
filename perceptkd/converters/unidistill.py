"""UniDistill's release (megvii-research/CVPR2023-UniDistill) to the detectors of ``configs/bev/*_released.py``.

Checkpoints of its trainer hold ``model_state``, those of Lightning ``state_dict`` with the prefix ``model.``; both may
hold a teacher beside the student, which is left out. The encoder is OpenPCDet's, with the same differences
(:mod:`perceptkd.converters.openpcdet`). Biases before a norm go into it, and 1 x 1 transposed convolutions become
convolutions.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from perceptkd.converters.conversion import (
    Conversion,
    Rename,
    by_patterns,
    check_norms,
    match_biases,
    rename_keys,
    turn_pointwise_deconvolutions,
    turn_sparse_weights,
)
from perceptkd.converters.openpcdet import residual_stages, sparse_stage
from perceptkd.core.errors import InputError

SPARSE = "lidar_encoder.backbone_3d."
HEAD = r"det_head\.dense_head\."
LOSS_SCALES = "bbox_head.loss_scales"
#: Of its 12 learned weights of losses the release reads three.
USED_LOSS_SCALES = 3
IGNORED = (
    r"teacher_model\..+",
    r"camera_encoder\.backbone\.(voxel_size|voxel_coord|voxel_num|frustum)",  # follow from the config
)
#: Layers of a branch of the head: convolution, norm, ReLU, convolution.
BRANCH = {"0": "0.conv", "1": "0.bn", "3": "1"}


def convert(state: Mapping[str, Any], model: nn.Module) -> Conversion:
    """The weights as those of ``model``, a ``perceptkd.BEVDetector`` with an ``IoUCenterHead``."""
    if not hasattr(getattr(model, "bbox_head", None), "loss_scales"):
        raise InputError("UniDistill's checkpoints are for configs/bev/*_released.py, whose head is an IoUCenterHead")
    conversion = rename_keys(state, names(state), ignored=IGNORED)
    if LOSS_SCALES in conversion.state:
        conversion.state[LOSS_SCALES] = conversion.state[LOSS_SCALES][:USED_LOSS_SCALES].clone()
    match_biases(conversion, model)
    turn_sparse_weights(conversion, model)
    turn_pointwise_deconvolutions(conversion, model, prefix="neck.deblocks.")
    check_norms(
        model,
        {
            r"(lidar_encoder|backbone|neck|camera_encoder\.neck)\..+": 1e-3,
            r"(camera_encoder\.backbone|fuser|bbox_head)\..+": 1e-5,
        },
    )
    return conversion


def names(state: Mapping[str, Any]) -> Rename:
    """Names of the release, without a wrapper's prefix."""
    rules = by_patterns(
        [
            (rf"{re.escape(SPARSE)}(conv_input|conv_out)\.(.+)", r"lidar_encoder.middle_encoder.\1.\2"),
            (r"camera_encoder\.backbone\.img_backbone\.(.+)", r"camera_encoder.backbone.\1"),
            (r"camera_encoder\.backbone\.img_neck\.(.+)", r"camera_encoder.neck.\1"),
            (r"camera_encoder\.backbone\.depth_net\.0\.(.+)", r"camera_encoder.view_transform.depth_net.\1"),
            (r"fusion_encoder\.att\.1\.(.+)", r"fuser.attention.1.\1"),
            (r"fusion_encoder\.reduce_conv\.(.+)", r"fuser.mix.\1"),
            (r"bev_encoder\.backbone_2d\.deblocks\.(.+)", r"neck.deblocks.\1"),
            (rf"{HEAD}shared_conv\.0\.(.+)", r"bbox_head.shared_conv.conv.\1"),
            (rf"{HEAD}shared_conv\.1\.(.+)", r"bbox_head.shared_conv.bn.\1"),
            (rf"{HEAD}auto_loss\.params", LOSS_SCALES),
        ]
    )
    residual = residual_stages(state, prefix=SPARSE)

    def rename(key: str) -> str | None:
        if match := re.fullmatch(rf"{re.escape(SPARSE)}conv(\d)\.(\d+)\.(.+)", key):
            place = sparse_stage(int(match[1]), int(match[2]), residual)
            return f"lidar_encoder.middle_encoder.encoder_layers.{place}.{match[3]}"
        if match := re.fullmatch(r"bev_encoder\.backbone_2d\.blocks\.(\d+)\.(\d+)\.(.+)", key):
            return f"backbone.blocks.{match[1]}.{int(match[2]) - 1}.{match[3]}"  # without the padding layer
        if match := re.fullmatch(rf"{HEAD}tasks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key):
            name = "heatmap" if match[2] == "hm" else match[2]
            place = BRANCH.get(match[3])
            return place and f"bbox_head.task_heads.{match[1]}.{name}.{place}.{match[4]}"
        return rules(key)

    return rename
