"""What BEV maps mean: which axis is which, and which metres they cover.

mmdet3d's detectors give maps ``[B, C, Y, X]``, its BEVFusion project ``[B, C, X, Y]``. Comparing one with the other
runs without an error and mirrors the scene. So a tap declares its layout, and what is not declared is not guessed.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptkd.core.errors import InputError
from perceptkd.core.tap import Extent, Tap, TapSpec, map_tensors

#: Extents that differ by less, in metres, are the same.
TOLERANCE_M = 1e-3


class GeometryError(InputError):
    """Two BEV maps that cannot be compared cell by cell."""


def canonical_bev(tap: Tap) -> Any:
    """The tap's only output with every map as ``[B, C, H=y, W=x]``.

    Raises:
        GeometryError: The tap does not declare its layout.
    """
    if tap.layout not in ("yx", "xy"):
        raise GeometryError(
            f"The tap '{tap.spec}' of the {tap.model} does not say which axis is which: give it layout='yx' or 'xy', "
            "or give the model bev_geometry=dict(layout=..., extent=...)"
        )
    if tap.layout == "yx":
        return tap.value
    return map_tensors(lambda bev_map: bev_map.transpose(-1, -2), tap.value)


def canonical_pair(student: Tap, teacher: Tap, *, resample: bool = False) -> tuple[Tensor, Tensor]:
    """Both maps as ``[B, C, y, x]`` over the student's extent.

    Args:
        student: Tap of one map.
        teacher: Tap of one map.
        resample: Sample the teacher's map at the student's cells where it covers more metres than the student's.
            Without it that raises, and so does a smaller map in any case.
    """
    student_map, teacher_map = canonical_bev(student), canonical_bev(teacher)
    if not same_extent(student.extent, teacher.extent):
        if not resample or student.extent is None or teacher.extent is None:
            raise GeometryError(_extent_message(str(student.spec), student.spec, teacher.spec))
        if not _covers(teacher.extent, student.extent):
            raise GeometryError(
                f"'{student.spec}': the student's map covers {student.extent} (x0, y0, x1, y1 in metres), of which the "
                f"teacher's {teacher.extent} leaves out a part: train both on one range, or the student on a smaller "
                "one"
            )
        height, width = student_map.shape[-2:]
        teacher_map = resample_bev(
            teacher_map, extent=teacher.extent, target_extent=student.extent, size=(height, width)
        )
    return student_map, teacher_map


def check_equal_shapes(student: Tensor, teacher: Tensor, *, method: str, alias: str) -> None:
    """Raise where maps that a method compares cell by cell differ in channels or size."""
    if student.shape != teacher.shape:
        raise InputError(
            f"{method}: '{alias}' is {tuple(student.shape)} in the student, {tuple(teacher.shape)} in the teacher; "
            f"give the distiller an adapter for it (adapters=dict({alias}=...))"
        )


def resample_bev(bev_map: Tensor, *, extent: Extent, target_extent: Extent, size: tuple[int, int]) -> Tensor:
    """Bilinear samples of a map at the cell centres of another grid.

    Args:
        bev_map: [B, C, y, x], covering ``extent`` in metres (outer edges).
        target_extent: What the result covers: no more than the map.
        size: Its (height, width).
    """
    x0, y0, x1, y1 = target_extent
    height, width = size
    x = x0 + (torch.arange(width).to(bev_map) + 0.5) * (x1 - x0) / width
    y = y0 + (torch.arange(height).to(bev_map) + 0.5) * (y1 - y0) / height
    x = 2 * (x - extent[0]) / (extent[2] - extent[0]) - 1
    y = 2 * (y - extent[1]) / (extent[3] - extent[1]) - 1
    grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
    return F.grid_sample(bev_map, grid.expand(len(bev_map), -1, -1, -1), padding_mode="border", align_corners=False)


def check_pair(alias: str, student: TapSpec, teacher: TapSpec, *, layout_aware: bool = False) -> None:
    """Raise unless maps of these two taps may be compared cell by cell.

    Args:
        alias: Their common name, for the message.
        student: The student's tap, geometry filled in.
        teacher: The teacher's.
        layout_aware: The method works in metres or aligns the maps itself, so that layouts and extents only need to be
            declared.
    """
    layouts = {None if spec.layout == "image" else spec.layout for spec in (student, teacher)}
    if len(layouts) > 1 and (None in layouts or not layout_aware):
        raise GeometryError(
            f"'{alias}' pairs BEV maps of layout {student.layout} (student, '{student}') and {teacher.layout} "
            f"(teacher, '{teacher}'). Declare both layouts, and use a method that aligns them (canonical_bev)."
        )
    known = student.extent is not None
    if known is (teacher.extent is None):
        with_extent, without = ("student", "teacher") if known else ("teacher", "student")
        raise GeometryError(
            f"'{alias}': the extent of the {with_extent}'s map is known, that of the {without}'s is not. Give its tap "
            "extent=(x0, y0, x1, y1) in metres, or the model bev_geometry=dict(layout=..., extent=...)"
        )
    if not layout_aware and not same_extent(student.extent, teacher.extent):
        raise GeometryError(_extent_message(alias, student, teacher))


def same_extent(first: Extent | None, second: Extent | None) -> bool:
    """Whether two extents are equal; unknown ones are equal to unknown ones only."""
    if first is None or second is None:
        return first is second
    return all(abs(a - b) < TOLERANCE_M for a, b in zip(first, second))


def _covers(extent: Extent, other: Extent) -> bool:
    low, high = zip(extent[:2], other[:2]), zip(other[2:], extent[2:])
    return all(outer < inner + TOLERANCE_M for outer, inner in (*low, *high))


def _extent_message(alias: str, student: TapSpec, teacher: TapSpec) -> str:
    return (
        f"'{alias}': the student's map covers {student.extent} and the teacher's {teacher.extent} (x0, y0, x1, y1 in "
        "metres). Train both on one range, or resample explicitly with canonical_pair(..., resample=True)."
    )
