"""mmdet3d before 1.0.0rc0 to mmdet3d 1.4: the refactoring of the coordinate systems.

Boxes in the LiDAR frame had the sides (width, length, height) and a clockwise yaw from -y on; now they have (length,
width, height) and a counter-clockwise yaw from +x on: ``yaw = -old - pi / 2`` (mmdet3d's compatibility notes, and
``update_data_coords.py`` there). Old heads are brought into the new convention exactly:

- anchor heads: the two rotations of an anchor change places; of the box code, width and length change places and the
  yaw its sign; the direction classes change places, with ``dir_offset = -pi / 2 - old``;
- centre heads: of ``dim`` the first two channels change places; (sin, cos) of the yaw become (-cos, -sin).

Backbones see points alone and stay as they are.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.utils import digit_version
from torch import Tensor, nn

from perceptkd.converters.conversion import Conversion, Setting, rename_keys, turn_sparse_weights
from perceptkd.core.errors import InputError

REFACTORED = "1.0.0rc0"
#: What the compatibility notes do not say of old configs without the word: KITTI's.
OLD_DIR_OFFSET = 0.0
NEAREST_RAD = 0.1


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


def find_dir_offset(meta: Mapping[str, Any]) -> float:
    """``dir_offset`` of the old config, which checkpoints carry as text; the old default where it does not say."""
    found = re.search(r"dir_offset\s*=\s*(-?[\d.]+)", str(meta.get("config", "")))
    return float(found[1]) if found else OLD_DIR_OFFSET


def settings(state: Mapping[str, Any], meta: Mapping[str, Any], *, version: str, lidar: str) -> list[Setting]:
    """What the config must say: where the direction classes of an anchor head begin."""
    if not is_old(version) or f"{lidar}bbox_head.conv_dir_cls.weight" not in state:
        return []
    offset = -math.pi / 2 - find_dir_offset(meta)
    return [
        Setting(f"{lidar}bbox_head.dir_offset", offset, "where the direction classes begin, in the new yaw"),
        Setting(f"{lidar}bbox_head.dir_limit_offset", 0, "where the direction classes begin"),
    ]


def convert(state: Mapping[str, Any], model: nn.Module, *, version: str) -> Conversion:
    """The weights as those of ``model``, whose config has the :func:`settings`.

    Raises:
        InputError: The head is of a kind that this does not convert.
    """
    conversion = rename_keys(state, lambda key: key)
    turn_sparse_weights(conversion, model)
    if not is_old(version):
        conversion.notes.append(f"mmdet3d {version} has today's boxes: nothing but layouts was changed")
        return conversion
    name = "pts_bbox_head" if hasattr(model, "pts_bbox_head") else "bbox_head"
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
    conversion.notes.append(f"mmdet3d {version} is older than {REFACTORED}: the boxes of {name} were converted")
    return conversion


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
