"""mmdet3d before 1.0.0rc0 to mmdet3d 1.4: the refactoring of the coordinate systems.

Boxes in the LiDAR frame had the sides (width, length, height) and a clockwise yaw from -y on; now they have (length,
width, height) and a counter-clockwise yaw from +x on: ``yaw = -old - pi / 2`` (mmdet3d's compatibility notes, and
``update_data_coords.py`` there). Old heads are brought into the new convention exactly:

- anchor heads: the two rotations of an anchor change places; of the box code, width and length change places and the
  yaw its sign; the direction classes change places, with ``dir_offset = -pi / 2 - old``;
- centre heads: of ``dim`` the first two channels change places; (sin, cos) of the yaw become (-cos, -sin).

In the same release pillars got the offset to their centre in z as one more input, whose weights are zero here. Old ones
with ``legacy=True`` saw the offsets in x and y in place of the coordinates; today's flag loses z as well. Such weights
need ``legacy=False``, which keeps all coordinates: the weights of x and y are added to those of the offsets.

Other encoders and backbones see points alone and stay as they are.
"""

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from mmengine.utils import digit_version
from torch import Tensor, nn

from perceptkd.converters.conversion import Conversion, Setting, rename_keys, turn_sparse_weights
from perceptkd.converters.mmdet3d_config import old_classes, old_model
from perceptkd.core.errors import InputError

REFACTORED = "1.0.0rc0"
#: Defaults of old heads and anchors, which KITTI's configs used; sides are width, length, height.
OLD_DIR_OFFSET = 0.0
OLD_SIZES = [[1.6, 3.9, 1.56]]
NEAREST_RAD = 0.1
#: The first layer of ``PillarFeatureNet`` and of ``DynamicPillarFeatureNet``.
STATIC_PILLARS, DYNAMIC_PILLARS = "pfn_layers.0.linear.weight", "pfn_layers.0.0.weight"
NO_META: Mapping[str, Any] = MappingProxyType({})


def find_version(meta: Mapping[str, Any], given: str | None = None) -> str:
    """The version of mmdet3d that wrote a checkpoint.

    Args:
        meta: The checkpoint's ``meta``.
        given: What the user said, where ``meta`` is silent.

    Raises:
        InputError: Nobody knows, or what was said is no version.
    """
    if "mmengine_version" in meta:
        return "1.1.0"  # MMEngine writes no version of mmdet3d, which uses it since then
    version = str(meta.get("mmdet3d_version") or given or "")
    if not version:
        raise InputError(
            "the checkpoint does not say which mmdet3d wrote it: say it, as in --from-version 0.17.0. Names such as "
            f"v0.1.0_models or v1.0.0_models in the address it came from tell; boxes changed in {REFACTORED}"
        )
    try:
        digit_version(version)
    except (AssertionError, ValueError) as error:
        raise InputError(f"{version!r} is no version such as 0.17.0") from error
    return version


def is_old(version: str) -> bool:
    """Whether boxes had the old convention.

    >>> is_old("0.18.1"), is_old("1.0.0rc0")
    (True, False)
    """
    return digit_version(version) < digit_version(REFACTORED)


def is_legacy(state: Mapping[str, Any], meta: Mapping[str, Any], *, lidar: str) -> bool:
    """Whether old pillars saw offsets in place of x and y; as in upstream's configs where the checkpoint has none."""
    model = old_model(meta)
    if not model:
        return not any(key.startswith(f"{lidar}bbox_head.task_heads.") for key in state)  # CenterPoint's did not
    return bool((model.get(f"{lidar}voxel_encoder") or {}).get("legacy", True))


def settings(state: Mapping[str, Any], meta: Mapping[str, Any], *, version: str, lidar: str) -> list[Setting]:
    """What the config must say: how pillars read points, the anchors, and where their direction classes begin."""
    if not is_old(version):
        return []
    found, name = [], f"{lidar}bbox_head"
    head = old_model(meta).get(name) or {}
    if f"{lidar}voxel_encoder.{STATIC_PILLARS}" in state:
        found.append(Setting(f"{lidar}voxel_encoder.legacy", False, "legacy=True overwrites z of the points as well"))
    if f"{name}.conv_reg.weight" in state and "anchor_generator" in head:
        anchors = {**head["anchor_generator"]}
        anchors["sizes"] = np.asarray(anchors.get("sizes", OLD_SIZES))[..., [1, 0, 2]].tolist()
        found.append(Setting(f"{name}.anchor_generator", anchors, "the checkpoint's, sides as length, width, height"))
    if f"{name}.conv_dir_cls.weight" in state:
        offset = -math.pi / 2 - head.get("dir_offset", OLD_DIR_OFFSET)
        found += [
            Setting(f"{name}.dir_offset", offset, "where the direction classes begin, in the new yaw"),
            Setting(f"{name}.dir_limit_offset", 0, "where the direction classes begin"),
        ]
    return found


def check_classes(meta: Mapping[str, Any], target_classes: Sequence[str]) -> list[str]:
    """Refuses classes in another order, which would change places unseen; a note where nobody can tell."""
    classes = old_classes(meta)
    if classes and target_classes and classes != list(target_classes):
        raise InputError(
            f"the checkpoint has the classes {classes}, the config {list(target_classes)}: use a config with the same "
            "ones in the same order"
        )
    if classes or not target_classes:
        return []
    return [f"the checkpoint does not say its classes: they must be {list(target_classes)}, in this order"]


def convert(
    state: Mapping[str, Any],
    model: nn.Module,
    *,
    version: str,
    meta: Mapping[str, Any] = NO_META,
    target_classes: Sequence[str] = (),
) -> Conversion:
    """The weights as those of ``model``, whose config has the :func:`settings`.

    Raises:
        InputError: The head or the pillars are of a kind that this does not convert, or the classes are others.
    """
    conversion = rename_keys(state, lambda key: key)
    conversion.notes += check_classes(meta, target_classes)
    turn_sparse_weights(conversion, model)
    if not is_old(version):
        conversion.notes.append(f"mmdet3d {version} has today's boxes: nothing but layouts was changed")
        return conversion
    lidar = "pts_" if hasattr(model, "pts_bbox_head") else ""
    name = f"{lidar}bbox_head"
    head = getattr(model, name, None)
    from mmdet3d.models.dense_heads import Anchor3DHead, CenterHead

    is_anchor_head = isinstance(head, Anchor3DHead) and hasattr(head, "conv_reg")  # SSN's has layers per task
    if hasattr(model, "roi_head") or not (is_anchor_head or isinstance(head, CenterHead)):
        raise InputError(
            f"boxes of mmdet3d {version} are converted for one-stage LiDAR detectors with an Anchor3DHead or CenterHead"
            f", not for {type(model).__name__} with {type(head).__name__}"
        )
    if isinstance(head, CenterHead):
        _turn_centre_head(conversion, name)
    else:
        _turn_anchor_head(conversion, name, head)
    _widen_pillars(conversion, model, lidar=lidar, legacy=is_legacy(state, meta, lidar=lidar))
    conversion.notes.append(f"mmdet3d {version} is older than {REFACTORED}: the boxes of {name} were converted")
    if not old_model(meta):
        conversion.notes += assumptions(conversion, lidar=lidar)
    return conversion


def assumptions(conversion: Conversion, *, lidar: str) -> list[str]:
    """What was taken for granted of a checkpoint that does not carry its config."""
    found = []
    if f"{lidar}voxel_encoder.{STATIC_PILLARS}" in conversion.state:
        legacy = is_legacy(conversion.state, {}, lidar=lidar)
        found.append(f"PillarFeatureNet had legacy={legacy} (True on KITTI, False in CenterPoint)")
    if f"{lidar}bbox_head.conv_reg.weight" in conversion.state:
        found.append("the anchors are the config's (KITTI's were those of an Anchor3DRangeGenerator, up to 70.4 m)")
    if f"{lidar}bbox_head.conv_dir_cls.weight" in conversion.state:
        found.append(f"dir_offset was {OLD_DIR_OFFSET:g} (so on KITTI; 0.7854 on nuScenes, Lyft and Waymo)")
    if not found:
        return []
    return [f"the checkpoint does not carry its config; --from-config would say what was assumed: {'; '.join(found)}"]


def _widen_pillars(conversion: Conversion, model: nn.Module, *, lidar: str, legacy: bool) -> None:
    """Gives pillars the input that they got: (point, offset to the mean, offset to the centre, distance).

    Args:
        conversion: Its weights of the first layer are [out, in], and become [out, in + 1].
        model: The target.
        lidar: Prefix of its LiDAR modules, ``'pts_'`` or nothing.
        legacy: Whether x and y of the point were the offsets to the centre. Dynamic pillars never did that.

    Raises:
        InputError: The weights are not those of such pillars, or the distance was that of overwritten coordinates.
    """
    from mmdet3d.models.voxel_encoders import DynamicPillarFeatureNet, PillarFeatureNet

    encoder = getattr(model, f"{lidar}voxel_encoder", None)
    is_dynamic = isinstance(encoder, DynamicPillarFeatureNet)
    key = f"{lidar}voxel_encoder.{DYNAMIC_PILLARS if is_dynamic else STATIC_PILLARS}"
    if not isinstance(encoder, PillarFeatureNet) or not encoder._with_voxel_center or key not in conversion.state:
        return
    weight, legacy = conversion.state[key], legacy and not is_dynamic
    if weight.shape[1] != encoder.in_channels - 1:
        raise InputError(
            f"pillars of the config had {encoder.in_channels - 1} inputs before mmdet3d {REFACTORED}, {key} has "
            f"{weight.shape[1]}: is it of another config?"
        )
    if legacy and encoder._with_distance:
        raise InputError(
            "old pillars with legacy=True and with_distance=True cannot be converted: today's distance differs"
        )
    place = encoder.in_channels - 1 - encoder._with_distance
    weight = torch.cat([weight[:, :place], torch.zeros_like(weight[:, :1]), weight[:, place:]], dim=1)
    if legacy:
        weight[:, [place - 2, place - 1]] += weight[:, :2]
        weight[:, :2] = 0
    conversion.state[key] = weight


def _turn_centre_head(conversion: Conversion, name: str) -> None:
    pattern = rf"{name}\.task_heads\.\d+\.(?:task_head\.)?(dim|rot)\.\d+\.(?:weight|bias)"
    for key, value in conversion.state.items():
        match = re.fullmatch(pattern, key)
        if match and match[1] == "dim":
            conversion.state[key] = value[[1, 0, 2]]
        elif match:
            conversion.state[key] = -value[[1, 0]]


def _turn_anchor_head(conversion: Conversion, name: str, head: Any) -> None:
    """Channels of the three convolutions are (size, rotation, class, code or bin)."""
    order, left_over = match_rotations(head.prior_generator.rotations)
    rotations, sizes = len(order), head.num_anchors // len(order)

    def blocks(value: Tensor) -> Tensor:
        return value.reshape(sizes, rotations, -1, *value.shape[1:])[:, order]

    for key in [key for key in conversion.state if key.startswith(f"{name}.conv_")]:
        layer, part = key.removeprefix(f"{name}.").split(".")
        value = conversion.state[key]
        turned = blocks(value).clone()
        if layer == "conv_reg":
            turned[:, :, [3, 4]] = turned[:, :, [4, 3]]
            turned[:, :, 6] *= -1
            if part == "bias":
                turned[:, :, 6] += torch.tensor(left_over, dtype=value.dtype)[None]
        elif layer == "conv_dir_cls":
            turned = turned.flip(2)
        conversion.state[key] = turned.reshape(value.shape)


def match_rotations(rotations: Sequence[float]) -> tuple[list[int], list[float]]:
    """Which old rotation of an anchor each new one is, for equal lists; boxes of opposite headings are one anchor.

    Returns:
        Indices of the old rotations, and what is left between the exact new angle and the anchor's [rad], which the
        box code has to add: anchors at 1.57 are not quite at pi / 2.

    >>> order, left_over = match_rotations([0, 1.57])
    >>> order, [round(value, 6) for value in left_over]
    ([1, 0], [0.000796, 0.000796])
    """
    exact = [-old - math.pi / 2 for old in rotations]
    order, left_over = [], []
    for new in rotations:
        gaps = [(angle - new + math.pi / 2) % math.pi - math.pi / 2 for angle in exact]
        nearest = min(range(len(gaps)), key=lambda index: abs(gaps[index]))
        order.append(nearest)
        left_over.append(gaps[nearest])
    if sorted(order) != list(range(len(order))) or max(map(abs, left_over)) > NEAREST_RAD:
        raise InputError(f"anchors with the rotations {list(rotations)} have no counterpart after a quarter turn")
    return order, left_over
