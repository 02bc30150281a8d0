"""Outputs of dense heads: as maps by name, and which of two heads may be compared.

Shapes: B samples, C channels, H rows (y), W columns (x).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from perceptkd.core.bev import tap_extent
from perceptkd.core.class_map import head_classes, select_classes
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import GeometryError, canonical_bev, same_extent
from perceptkd.core.tap import Tap


class HeadPair(NamedTuple):
    """Outputs of two heads that speak of the same cells and classes."""

    student: dict[str, list[Tensor]]  # name -> one map [B, C, H, W] per task
    teacher: dict[str, list[Tensor]]
    regression: list[str]  # the names of the regression outputs that both have


def head_maps(tap: Tap) -> dict[str, list[Tensor]]:
    """The nested output of a dense head as {name: one canonical map [B, C, H, W] per task}."""
    maps: dict[str, list[Tensor]] = defaultdict(list)
    pending = [canonical_bev(tap)]
    while pending:
        output = pending.pop(0)
        if isinstance(output, list | tuple):
            pending = [*output, *pending]
            continue
        if not isinstance(output, Mapping):
            raise InputError(
                f"The tap '{tap.spec}' of the {tap.model} gives a {type(output).__name__} without a name. Heads are "
                "compared as dicts of maps, as centre heads return them: tap such a head in student_taps and "
                "teacher_taps"
            )
        for name, head_map in output.items():
            maps[name].append(head_map)
    return dict(maps)


def pair_heads(
    student: Tap, teacher: Tap, step: Step, *, distiller: Distiller, heatmap_key: str, reg_keys: Sequence[str]
) -> HeadPair:
    """Takes the outputs of both heads, and checks that cell by cell and channel by channel they mean the same.

    Args:
        student: Tap of the student's head.
        teacher: Tap of the teacher's.
        step: Its models; where both have a ``bbox_head`` or ``pts_bbox_head`` with ``class_names``, these have to be
            equal, or to match by the distiller's ``class_map``.
        distiller: Who asks. With a ``class_map`` the teacher's maps come in the student's tasks and classes (see
            :func:`select_classes`).
        heatmap_key: Name of the class logits.
        reg_keys: Names of the regression outputs to compare, of which those count that both have.

    Raises:
        InputError: An output is missing, or tasks, classes, channels or grids differ.
        GeometryError: The maps cover different places.
    """
    method = type(distiller).__name__
    pair = head_maps(student), head_maps(teacher)
    if not all(heatmap_key in head for head in pair):
        has = f"the student's has {sorted(pair[0])}, the teacher's {sorted(pair[1])}"
        raise InputError(f"{method}: both heads need '{heatmap_key}' (heatmap_key=), but {has}")
    shared = [key for key in reg_keys if all(key in head for head in pair)]
    own, other = head_classes(step.student_model), head_classes(step.teacher_models.get(distiller.teachers[0]))
    if distiller.class_map is not None:
        compared = {key: pair[1][key] for key in (heatmap_key, *shared)}
        pair = pair[0], select_classes(compared, own, other, distiller.class_map, scores=heatmap_key)
    elif own is not None and other is not None and own != other:
        raise InputError(
            f"{method}: the heads have other classes or another order: {own} (student), {other} (teacher); "
            "class_map=dict() takes those of the same name, class_map=dict(car=['car', 'van']) merges some"
        )
    if reg_keys and not shared:
        raise InputError(f"{method}: the heads share none of {reg_keys}; reg_keys=() leaves response_reg out")
    for key in (heatmap_key, *shared):
        shapes = [[tuple(task.shape) for task in head[key]] for head in pair]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{method}: '{key}' is {shapes[0]} in the student, {shapes[1]} in the teacher; response terms need "
                "equal tasks, classes and grids. Weights of 0 for them leave the heads out"
            )
    if not same_extent(tap_extent(student), tap_extent(teacher)):
        raise GeometryError(
            f"{method}: the heads cover {tap_extent(student)} m (student), {tap_extent(teacher)} m (teacher)"
        )
    return HeadPair(*pair, shared)
