"""Outputs of dense heads: as maps by name, and which of two heads may be compared.

Shapes: B samples, C channels, H rows (y), W columns (x).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from perceptkd.core.bev import tap_extent
from perceptkd.core.class_map import head_classes, select_classes
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import GeometryError, canonical_bev, same_extent
from perceptkd.core.tap import Tap

WITHOUT_REGRESSION = "reg_keys=() leaves regression out, where the method allows it"


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


def foreground_score(head: Tap) -> Tensor:
    """The largest class probability of a dense head in every cell [B, 1, H, W].

    Args:
        head: Tap of a centre head (its heatmaps), or of an anchor head, which returns (class scores, boxes, directions)
            with a list of maps each, of which the first level counts.
    """
    output = canonical_bev(head)
    if is_anchor_output(output):
        scores = output[0][0]
    else:
        maps = head_maps(head)
        if "heatmap" not in maps:
            raise InputError(f"The head at '{head.spec}' has no 'heatmap' to tell objects by, but {sorted(maps)}")
        scores = torch.cat(maps["heatmap"], dim=1)
    return scores.amax(dim=1, keepdim=True).sigmoid()


def tapped_module(model: nn.Module | None, tap: Tap) -> Any:
    """The module of the model that is tapped, None where there is no such model or module."""
    return dict(model.named_modules()).get(tap.spec.path) if model is not None else None


def is_anchor_output(output: Any) -> bool:
    """Whether this is what mmdet3d's anchor heads return: lists of maps, and not of dicts."""
    while isinstance(output, list | tuple) and output:
        output = output[0]
    return isinstance(output, Tensor)


def box_channels(
    step: Step, head: Any, classes: int, *, channel_labels: Sequence[int] | None, method: str, device: torch.device
) -> Tensor:
    """The class channel of each annotated box of the batch [N], -1 for a class that the heads do not know.

    Args:
        step: Its annotated boxes.
        head: Of the student. A BEVCenterHead says the data set's labels of its channels; else channel k has label k,
            as in mmdet3d.
        classes: Class channels, those of all tasks.
        channel_labels: The data set's label of every class channel, in place of what the head says.
        method: Who asks, for the message.
        device: Where to.
    """
    known = channel_labels
    if known is None:
        known = getattr(head, "task_label_to_dataset", torch.arange(classes)).tolist()
    if len(known) != classes:
        raise InputError(
            f"{method}: {len(known)} channel_labels for heads with {classes} class channels: give the data set's "
            "label of each channel"
        )
    channels = torch.full((max(known) + 2,), -1, device=device)  # the last is that of labels which are not known
    channels[torch.tensor(known, device=device)] = torch.arange(classes, device=device)
    labels = torch.cat([sample.gt_instances_3d.labels_3d.to(device) for sample in step.data_samples])
    return channels[labels.clamp(max=len(channels) - 1)]


def pair_heads(
    student: Tap,
    teacher: Tap,
    step: Step,
    *,
    distiller: Distiller,
    heatmap_key: str,
    reg_keys: Sequence[str],
    same_grid: bool = True,
) -> HeadPair:
    """Takes the outputs of both heads, and checks that cell by cell and channel by channel they mean the same.

    Args:
        student: Tap of the student's head.
        teacher: Tap of the teacher's.
        step: Its models; where both have a ``bbox_head`` or ``pts_bbox_head`` with ``class_names``, these have to be
            equal, or to match by the distiller's ``class_map``. A cached teacher's are those that its store knows.
        distiller: Who asks. With a ``class_map`` the teacher's maps come in the student's tasks and classes (see
            :func:`select_classes`).
        heatmap_key: Name of the class logits.
        reg_keys: Names of the regression outputs to compare, of which those count that both have.
        same_grid: Whether the heatmaps must have equal sizes. Regression outputs must in any case: they are offsets
            within a cell.

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
    name = distiller.teachers[0]
    own = head_classes(step.student_model)
    other = head_classes(step.teacher_models.get(name)) or step.stored_classes.get(name)
    if distiller.class_map is not None:
        compared = {key: pair[1][key] for key in (heatmap_key, *shared)}
        pair = pair[0], select_classes(compared, own, other, distiller.class_map, scores=heatmap_key)
    elif own is not None and other is not None and own != other:
        raise InputError(
            f"{method}: the heads have other classes or another order: {own} (student), {other} (teacher); "
            "class_map=dict() takes those of the same name, class_map=dict(car=['car', 'van']) merges some"
        )
    if reg_keys and not shared:
        raise InputError(f"{method}: the heads share none of {reg_keys}; {WITHOUT_REGRESSION}")
    _check_shapes(pair, heatmap_key, 4 if same_grid else 2, method=method)
    for key in shared:
        _check_shapes(pair, key, 4, method=method, remedy=f"; {WITHOUT_REGRESSION}")
    if not same_extent(tap_extent(student), tap_extent(teacher)):
        raise GeometryError(
            f"{method}: the heads cover {tap_extent(student)} m (student), {tap_extent(teacher)} m (teacher)"
        )
    return HeadPair(*pair, shared)


def _check_shapes(
    pair: Sequence[Mapping[str, Sequence[Tensor]]], key: str, sizes: int, *, method: str, remedy: str = ""
) -> None:
    """Refuse heads whose maps of a name differ in number or in their first ``sizes`` sizes."""
    shapes = [[tuple(task.shape[:sizes]) for task in head[key]] for head in pair]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{method}: '{key}' is {shapes[0]} in the student, {shapes[1]} in the teacher; terms on heads need "
            f"equal tasks, classes and grids{remedy}"
        )
