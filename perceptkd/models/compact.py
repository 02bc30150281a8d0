"""Compact students of LiDAR detectors: every width of a model dict divided by one number.

Widths follow PointDistiller (CVPR 2023, section 4.1): "4x" stands for a quarter of the parameters, and so divides every
width by the square root of 4. Depth, strides, voxels and what the data or the classes decide stay as they are.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perceptkd.core.errors import InputError

#: Full and compact number of channels of each level that a part hands on.
Widths = list[tuple[int, int]]
Divide = Callable[[Any], Any]

#: Parts in the order that features take; detectors with several sensors prefix them with ``pts_``.
PARTS = ("voxel_encoder", "middle_encoder", "backbone", "neck", "rpn_head", "bbox_head", "roi_head")
WIDTHLESS = ("data_preprocessor", "init_cfg")


def shrink(model: Mapping[str, Any], compression: float = 4) -> dict[str, Any]:
    """The model dict of a compact student; ``model`` itself is not changed.

    Args:
        model: PointPillars, SECOND, CenterPoint (on pillars or voxels), PointRCNN, or another detector of these parts.
        compression: How many times fewer parameters, about: 1 changes nothing, the paper has 2, 4, 8 and 16.

    Raises:
        InputError: A part is not known here; the message names those that are.

    >>> pillars = {"type": "PillarFeatureNet", "feat_channels": [64]}
    >>> shrink({"type": "VoxelNet", "voxel_encoder": pillars}, compression=2)["voxel_encoder"]["feat_channels"]
    [45]
    """
    if compression < 1:
        raise InputError(f"compression must be at least 1 (which changes nothing), got {compression}")
    compact = copy.deepcopy(dict(model))
    if compression == 1:
        return compact
    parts = {
        key.removeprefix("pts_"): value
        for key, value in compact.items()
        if isinstance(value, Mapping) and "type" in value and key not in WIDTHLESS
    }
    unknown = [f"{name}={_kind(part)}" for name, part in parts.items() if name not in PARTS or _kind(part) not in RULES]
    if unknown or not parts:
        raise InputError(
            f"{_kind(compact)} cannot be made compact: {', '.join(unknown) or 'it has no parts'}. Known are the parts "
            f"{', '.join(PARTS)} (with or without pts_) of the types {', '.join(RULES)}. Write the student's widths "
            "into a config of its own instead"
        )
    widths: Widths = []
    for name in PARTS:
        if name in parts:
            widths = RULES[_kind(parts[name])](parts[name], widths, lambda value: _divide(value, compression))
    return compact


def divide_width(width: int, compression: float) -> int:
    """A width divided by the square root of ``compression``, rounded as the paper's students are.

    The root is rounded to one decimal (1.4, 2, 2.8 and 4 for 2, 4, 8 and 16) and the quotient down: a compression below
    1.1 changes nothing.

    >>> [divide_width(width, 8) for width in (16, 96, 196, 384)]
    [5, 34, 70, 137]
    """
    tenths = round(10 * math.sqrt(compression))  # integers: 11 // 1.1 is 9
    return max(1, 10 * width // tenths)


def _divide(value: Any, compression: float) -> Any:
    """Widths in nested sequences; None stands for a layer that is not there."""
    if isinstance(value, Sequence):
        return type(value)(_divide(item, compression) for item in value)  # type: ignore[call-arg]
    return None if value is None else divide_width(value, compression)


def _kind(part: Mapping[str, Any]) -> str:
    kind = part["type"]
    return kind.split(".")[-1] if isinstance(kind, str) else kind.__name__


def _simple_encoder(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    """Means of raw points have no width."""
    return widths


def _pillar_encoder(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    full = part.setdefault("feat_channels", (64,))
    *inner, last = divide(full)
    if _kind(part) == "PillarFeatureNet":  # its inner layers put a maximum of half the width behind the other half
        inner = [width // 2 * 2 for width in inner]
    part["feat_channels"] = type(full)([*inner, last])
    return [(full[-1], last)]


def _scatter(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    part["in_channels"] = widths[0][1]
    return widths


def _sparse_encoder(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    defaults = {
        "base_channels": 16,
        "output_channels": 128,
        "encoder_channels": ((16,), (32, 32, 32), (64, 64, 64), (64, 64, 64)),
    }
    full = part.get("output_channels", defaults["output_channels"])
    part.update({key: divide(part.get(key, default)) for key, default in defaults.items()})
    return [(full, part["output_channels"])]


def _second(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    heights = part["in_channels"] // widths[0][0]  # a sparse encoder folds them into its channels
    full = part["out_channels"]
    part.update(in_channels=heights * widths[0][1], out_channels=divide(full))
    return list(zip(full, part["out_channels"]))


def _second_fpn(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    full = part["out_channels"]
    part.update(in_channels=[width for _, width in widths], out_channels=divide(full))
    return [(sum(full), sum(part["out_channels"]))]


def _fpn(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    full = part["out_channels"]
    part.update(in_channels=[width for _, width in widths], out_channels=divide(full))
    return [(full, part["out_channels"])]


def _anchor_head(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    part.update(in_channels=widths[0][1], feat_channels=widths[0][1])
    return []


def _center_head(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    shared, separate = divide(part.get("share_conv_channel", 64)), part["separate_head"]
    part.update(in_channels=widths[0][1], share_conv_channel=shared)
    separate["head_conv"] = divide(separate.get("head_conv", 64))
    if "dcn_config" in separate:
        groups = separate["dcn_config"].get("groups", 1)
        if shared % groups:
            raise InputError(f"The {groups} groups of dcn_config do not divide {shared} channels: change compression=")
        separate["dcn_config"].update(in_channels=shared, out_channels=shared)
    return []


def _point_backbone(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    full, merged = part["sa_channels"], part.get("aggregation_channels", (64, 128, 256))
    part.update(sa_channels=divide(full), aggregation_channels=divide(merged))
    ends = zip(_level_ends(full, merged), _level_ends(part["sa_channels"], part["aggregation_channels"]))
    return list(ends)


def _level_ends(sa_channels: Sequence[Any], aggregation_channels: Sequence[int | None] | None) -> list[int]:
    merged = aggregation_channels or [None] * len(sa_channels)
    return [width or sum(scale[-1] for scale in level) for level, width in zip(sa_channels, merged)]


def _point_neck(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    """Each level joins what comes from below with its own features, the last one with those of the points."""
    *skipped, (full, compact) = widths
    points = part["fp_channels"][-1][0] - part["fp_channels"][-2][-1]
    rows = []
    for level, (_, beside) in zip(part["fp_channels"], [*reversed(skipped), (points, points)]):
        rows.append((compact + beside, *divide(level[1:])))
        full, compact = level[-1], rows[-1][-1]
    part["fp_channels"] = rows
    return [(full, compact)]


def _point_rpn_head(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    layers = part["pred_layer_cfg"]
    layers["in_channels"] = widths[0][1]
    for branch in ("cls_linear_channels", "reg_linear_channels"):
        layers[branch] = divide(layers[branch])
    return widths


def _point_roi_head(part: dict[str, Any], widths: Widths, divide: Divide) -> Widths:
    head = part["bbox_head"]
    head.update(mlp_channels=divide(head["mlp_channels"]), sa_channels=divide(head["sa_channels"]))
    head["mlp_channels"][-1] = widths[0][1]  # it is joined with as many channels of the points
    layers = head["pred_layer_cfg"]
    layers["in_channels"] = head["sa_channels"][-1][-1]
    for branch in ("cls_conv_channels", "reg_conv_channels"):
        layers[branch] = divide(layers[branch])
    return []


#: What each type of part does with the widths that reach it.
RULES: dict[str, Callable[[dict[str, Any], Widths, Divide], Widths]] = {
    "HardSimpleVFE": _simple_encoder,
    "DynamicSimpleVFE": _simple_encoder,
    "PillarFeatureNet": _pillar_encoder,
    "DynamicPillarFeatureNet": _pillar_encoder,
    "HardVFE": _pillar_encoder,
    "DynamicVFE": _pillar_encoder,
    "PointPillarsScatter": _scatter,
    "SparseEncoder": _sparse_encoder,
    "SECOND": _second,
    "SECONDFPN": _second_fpn,
    "FPN": _fpn,
    "Anchor3DHead": _anchor_head,
    "CenterHead": _center_head,
    "PointNet2SAMSG": _point_backbone,
    "PointNetFPNeck": _point_neck,
    "PointRPNHead": _point_rpn_head,
    "PointRCNNRoIHead": _point_roi_head,
}
