"""OpenPCDet's PointPillar, SECOND, CenterPoint and PointRCNN to mmdet3d's.

Names and layouts are those of OpenPCDet's public source (``pcdet/models``). What differs besides names:

- anchor heads number classes Car, Pedestrian, Cyclist, mmdet3d's configs otherwise: the channels follow the classes;
- centre heads predict (cos, sin) of the yaw, mmdet3d (sin, cos); their classes are told by place alone, and compared;
- convolutions before a norm may have a bias, in either code base alone (:func:`match_biases`);
- residual sparse encoders go down at the beginning of a stage, mmdet3d's at the end of the one before;
- feature propagation layers are numbered from the finest, in mmdet3d from the coarsest;
- settings of the config (:func:`settings`), without which the same weights mean other boxes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from perceptkd.converters.conversion import (
    Conversion,
    Rename,
    Setting,
    by_patterns,
    check_norms,
    match_biases,
    rename_keys,
    turn_pointwise_deconvolutions,
    turn_sparse_weights,
)
from perceptkd.core.errors import InputError

KITTI_CLASSES = ("Car", "Pedestrian", "Cyclist")
IGNORED = (r"global_step",)
HEAD_NAMES = {"center": "reg", "center_z": "height", "hm": "heatmap"}
DIR_OFFSET = 0.78539
BOX_CODE = 7
SECOND_STAGE = (
    "the second stage is not exact: mmdet3d pools points about the bottom of a proposal, OpenPCDet about its centre. "
    "Backbone, neck and rpn_head are; tap those, or train the roi_head on"
)


def settings(state: Mapping[str, Any], *, target_classes: Sequence[str], lidar: str) -> list[Setting]:
    """What the config must say.

    Args:
        state: The checkpoint's weights.
        target_classes: Classes of the config, in the order of its labels.
        lidar: Prefix of the LiDAR modules in the config, ``'pts_'`` or nothing.
    """
    found = []
    if any(key.startswith("vfe.pfn_layers") for key in state):
        reason = "OpenPCDet reads points and their offsets to the pillar; legacy=True overwrites the points"
        found.append(Setting(f"{lidar}voxel_encoder.legacy", False, reason))
    if "dense_head.conv_box.weight" in state:
        head = f"{lidar}bbox_head"
        found += [
            Setting(f"{head}.anchor_generator.type", "Anchor3DRangeGenerator", "its anchors lie on the range's edges"),
            Setting(f"{head}.dir_offset", DIR_OFFSET, "where the direction classes begin"),
            Setting(f"{head}.dir_limit_offset", 0, "where the direction classes begin"),
        ]
    if "point_head.box_layers.0.weight" in state:
        found.append(Setting("backbone.norm_cfg.eps", 1e-5, "of OpenPCDet's batch norms there"))
        sizes = dict(zip(KITTI_CLASSES, ([3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73])))
        if set(target_classes) <= set(sizes):
            mean = [sizes[name] for name in target_classes]
            found.append(Setting("rpn_head.bbox_coder.mean_size", mean, "in the order of the classes"))
    return found


def convert(
    state: Mapping[str, Any], model: nn.Module, *, classes: Sequence[str] | None, target_classes: Sequence[str]
) -> Conversion:
    """The weights as those of ``model``.

    Args:
        state: The checkpoint's weights.
        model: The target, whose config has the :func:`settings`.
        classes: Classes of the checkpoint, in its order: of a centre head, head by head. None where nobody said them:
            those of KITTI, and of a centre head unknown.
        target_classes: Those of the target.

    Raises:
        InputError: The classes are not those of the target, or a centre head's are in another order.
    """
    counted = KITTI_CLASSES if classes is None else classes
    lidar = "pts_" if hasattr(model, "pts_bbox_head") else ""
    is_point_rcnn = "point_head.box_layers.0.weight" in state
    rename = point_rcnn_names(state) if is_point_rcnn else voxel_names(state, lidar=lidar)
    conversion = rename_keys(state, rename, ignored=IGNORED)
    if is_point_rcnn:
        _permute_rows(conversion, r"rpn_head\.cls_layers\.\d+\.(weight|bias)", _class_order(counted, target_classes))
        conversion.notes.append(SECOND_STAGE)
    _permute_anchors(conversion, f"{lidar}bbox_head", counted, target_classes)
    _match_tasks(conversion, f"{lidar}bbox_head", model, classes)
    _permute_rows(conversion, rf"{lidar}bbox_head\.task_heads\.\d+\.rot\.\d+\.(weight|bias)", [1, 0])
    match_biases(conversion, model)
    turn_sparse_weights(conversion, model)
    turn_pointwise_deconvolutions(conversion, model, prefix=f"{lidar}neck.deblocks.")
    check_norms(
        model,
        {rf"{lidar}(voxel_encoder|middle_encoder|backbone|neck)\..+": 1e-3} if not is_point_rcnn else {".+": 1e-5},
    )
    return conversion


def voxel_names(state: Mapping[str, Any], *, lidar: str) -> Rename:
    """Names of PointPillar, SECOND and CenterPoint."""
    encoder, head = f"{lidar}middle_encoder", f"{lidar}bbox_head"
    rules = by_patterns(
        [
            (r"vfe\.(pfn_layers\..+)", rf"{lidar}voxel_encoder.\1"),
            (r"backbone_3d\.(conv_input|conv_out)\.(.+)", rf"{encoder}.\1.\2"),
            (r"backbone_2d\.deblocks\.(.+)", rf"{lidar}neck.deblocks.\1"),
            (r"dense_head\.(conv_cls|conv_dir_cls)\.(.+)", rf"{head}.\1.\2"),
            (r"dense_head\.conv_box\.(.+)", rf"{head}.conv_reg.\1"),
            (r"dense_head\.shared_conv\.0\.(.+)", rf"{head}.shared_conv.conv.\1"),
            (r"dense_head\.shared_conv\.1\.(.+)", rf"{head}.shared_conv.bn.\1"),
        ]
    )
    residual = residual_stages(state, prefix="backbone_3d.")

    def rename(key: str) -> str | None:
        if match := re.fullmatch(r"backbone_3d\.conv(\d)\.(\d+)\.(.+)", key):
            return f"{encoder}.encoder_layers.{sparse_stage(int(match[1]), int(match[2]), residual)}.{match[3]}"
        if match := re.fullmatch(r"backbone_2d\.blocks\.(\d+)\.(\d+)\.(.+)", key):
            return f"{lidar}backbone.blocks.{match[1]}.{int(match[2]) - 1}.{match[3]}"  # without the padding layer
        if match := re.fullmatch(r"dense_head\.heads_list\.(\d+)\.(\w+)\.(\d+)\.(.+)", key):
            layer = re.sub(r"^1\.", "bn.", re.sub(r"^0\.", "conv.", match[4]))
            return f"{head}.task_heads.{match[1]}.{HEAD_NAMES.get(match[2], match[2])}.{match[3]}.{layer}"
        return rules(key)

    return rename


def residual_stages(state: Mapping[str, Any], *, prefix: str) -> dict[int, int]:
    """Stage of a residual sparse encoder -> its residual blocks; empty where the encoder has none."""
    blocks = {
        (int(match[1]), int(match[2]))
        for key in state
        if (match := re.fullmatch(rf"{re.escape(prefix)}conv(\d)\.(\d+)\.conv1\.weight", key))
    }
    return {stage: sum(number == stage for number, _ in blocks) for stage in {number for number, _ in blocks}}


def sparse_stage(stage: int, index: int, residual: Mapping[int, int]) -> str:
    """mmdet3d's place of a block of a sparse encoder: 'encoder_layer<stage>.<index>', see the module.

    >>> sparse_stage(2, 0, {1: 2, 2: 2}), sparse_stage(2, 1, {1: 2, 2: 2}), sparse_stage(2, 1, {})
    ('encoder_layer1.2', 'encoder_layer2.0', 'encoder_layer2.1')
    """
    if residual and stage > 1:
        stage, index = (stage - 1, residual[stage - 1]) if index == 0 else (stage, index - 1)
    return f"encoder_layer{stage}.{index}"


def point_rcnn_names(state: Mapping[str, Any]) -> Rename:
    """Names of PointRCNN."""
    propagation = {int(match[1]) for key in state if (match := re.match(r"backbone_3d\.FP_modules\.(\d+)\.", key))}
    rules = by_patterns(
        [
            (r"point_head\.cls_layers\.(.+)", r"rpn_head.cls_layers.\1"),
            (r"point_head\.box_layers\.(.+)", r"rpn_head.reg_layers.\1"),
            (r"roi_head\.merge_down_layer\.0\.(.+)", r"roi_head.bbox_head.merge_down_layer.conv.\1"),
        ]
    )
    branch = {"cls": ("cls_convs", "conv_cls"), "reg": ("reg_convs", "conv_reg")}

    def rename(key: str) -> str | None:
        if match := re.fullmatch(r"(backbone_3d|roi_head)\.SA_modules\.(\d+)\.mlps\.(\d+)\.(\d+)\.(.+)", key):
            owner = "backbone" if match[1] == "backbone_3d" else "roi_head.bbox_head"
            return f"{owner}.SA_modules.{match[2]}.mlps.{match[3]}.{_layer(match[4])}.{match[5]}"
        if match := re.fullmatch(r"backbone_3d\.FP_modules\.(\d+)\.mlp\.(\d+)\.(.+)", key):
            return f"neck.FP_modules.{max(propagation) - int(match[1])}.mlps.{_layer(match[2])}.{match[3]}"
        if match := re.fullmatch(r"roi_head\.xyz_up_layer\.(\d+)\.(.+)", key):
            return f"roi_head.bbox_head.xyz_up_layer.{int(match[1]) // 2}.conv.{match[2]}"  # convolution, ReLU
        if match := re.fullmatch(r"roi_head\.(cls|reg)_layers\.(\d)\.(.+)", key):
            convs, last = branch[match[1]]
            place = {"0": f"{convs}.layer0.conv", "1": f"{convs}.layer0.bn", "4": f"{convs}.layer1.conv",
                     "5": f"{convs}.layer1.bn", "7": last}.get(match[2])  # 3 is the dropout  # fmt: skip
            return place and f"roi_head.bbox_head.{place}.{match[3]}"
        return rules(key)

    return rename


def _layer(index: str) -> str:
    """'layer<k>.conv' or 'layer<k>.bn' of an index into convolution, norm, ReLU, convolution, ..."""
    return f"layer{int(index) // 3}.{('conv', 'bn', 'relu')[int(index) % 3]}"


def _class_order(classes: Sequence[str], target: Sequence[str]) -> list[int]:
    """For every class of the target, its place in the checkpoint."""
    if sorted(classes) != sorted(target):
        raise InputError(
            f"the checkpoint has the classes {list(classes)}, the config {list(target)}: say --classes in the order of "
            "CLASS_NAMES in OpenPCDet's config, and use a config with the same ones"
        )
    return [list(classes).index(name) for name in target]


def _match_tasks(conversion: Conversion, name: str, model: nn.Module, classes: Sequence[str] | None) -> None:
    """Tells which head became which task; refuses classes in another order, which would change places unseen."""
    tasks = getattr(getattr(model, name, None), "class_names", None)
    if tasks is None or not any(key.startswith(f"{name}.task_heads.") for key in conversion.state):
        return
    names = [each for task in tasks for each in task]
    if classes is not None and list(classes) != names:
        raise InputError(
            f"the heads of the checkpoint have the classes {list(classes)}, the tasks of the config {names}: they must "
            "be the same in the same order. Say --classes as in CLASS_NAMES_EACH_HEAD, and use a config with such tasks"
        )
    places = ", ".join(f"heads_list.{index} is {' + '.join(task)}" for index, task in enumerate(tasks))
    doubt = "" if classes is not None else ". Nobody checked it: compare CLASS_NAMES_EACH_HEAD, or say --classes"
    conversion.notes.append(f"{places}{doubt}")


def _permute_rows(conversion: Conversion, pattern: str, order: Sequence[int]) -> None:
    """Reorders the output channels of the last layers that ``pattern`` names; others have another number of them."""
    for key, value in conversion.state.items():
        if re.fullmatch(pattern, key) and len(value) == len(order):
            conversion.state[key] = value[list(order)]


def _permute_anchors(conversion: Conversion, head: str, classes: Sequence[str], target: Sequence[str]) -> None:
    """Reorders an anchor head with one anchor size per class: channels are (size, rotation, class, code or bin)."""
    bias = conversion.state.get(f"{head}.conv_reg.bias")
    if bias is None:
        return
    order = _class_order(classes, target)
    anchors = len(bias) // BOX_CODE
    if len(bias) % BOX_CODE or anchors % len(order):
        raise InputError(f"{head}: {len(bias)} box channels are not {BOX_CODE} for anchors of {len(order)} classes")

    def turn(value: Tensor, name: str) -> Tensor:
        blocks = value.view(len(order), anchors // len(order), -1, *value.shape[1:])[order]
        return (blocks[:, :, order] if name == "conv_cls" else blocks).reshape(value.shape)

    for name in ("conv_cls", "conv_reg", "conv_dir_cls"):
        for part in ("weight", "bias"):
            key = f"{head}.{name}.{part}"
            if key in conversion.state:
                conversion.state[key] = turn(conversion.state[key], name)
