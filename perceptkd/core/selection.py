"""Which channels of a teacher's tap belong to a narrower student's: adapters of type 'select'."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor, nn

from perceptkd.core.align import AdapterConfig, AlignError, channel_axis, features, pair_values
from perceptkd.core.cached_teacher import CachedTeacher
from perceptkd.core.channels import ChannelTrace
from perceptkd.core.distiller import Distiller
from perceptkd.core.slicing import kept_channels
from perceptkd.core.tap import Tap, TapCollector, TapSpec
from perceptkd.core.teacher import FrozenTeacher, Teacher


def choose_channels(
    distiller: Distiller, student: nn.Module, taps: Mapping[str, Tap], teachers: Mapping[str, Teacher], batch: Any
) -> None:
    """Write the channels into the distiller's adapters of type 'select' that name none.

    They are those that the student would have if it were cut out of the teacher
    (:func:`perceptkd.core.slicing.slice_weights`), whether or not it was.

    Args:
        distiller: Its ``adapter_configs`` are completed.
        student: The student.
        taps: The student's, by the distiller's alias, of a dry pass.
        teachers: By name.
        batch: A raw batch.

    Raises:
        AlignError: The teacher has no model, or its channels do not come from layers that the student has as well.
    """
    for name, specs in distiller.teacher_taps.items():
        configs = {alias: distiller.adapter_configs.get(alias) for alias in specs}
        parsed = {alias: AdapterConfig.parse(alias, config) for alias, config in configs.items() if config is not None}
        wanted = {alias: config for alias, config in parsed.items() if config.type == "select" and not config.channels}
        if not wanted:
            continue
        teacher = teachers[name]
        if isinstance(teacher, CachedTeacher):
            raise AlignError(f"The adapter of '{next(iter(wanted))}' needs channels=: a cached teacher has no weights")
        trace = ChannelTrace(teacher.model, student)
        numbers = _numbers_at_taps(trace, teacher, {alias: specs[alias] for alias in wanted}, batch)
        for alias, config in wanted.items():
            kept = kept_channels(trace, config.importance)
            channels = _channels_by_level(trace, kept, alias, taps[alias], numbers[alias])
            distiller.adapter_configs[alias] = asdict(replace(config, channels=channels))


def _numbers_at_taps(
    trace: ChannelTrace, teacher: FrozenTeacher, specs: Mapping[str, TapSpec], batch: Any
) -> dict[str, Tap]:
    collector = TapCollector(teacher.model, specs, owner=f"teacher '{teacher.name}'")
    data = teacher.model.data_preprocessor(copy.deepcopy(batch), False)
    with trace.following(), collector.recording():
        teacher.model._run_forward(data, mode=teacher.config.forward_mode)
    collector.detach()
    return collector.taps()


def _channels_by_level(trace: ChannelTrace, kept: Tensor, alias: str, student: Tap, numbers: Tap) -> list[list[int]]:
    levels = []
    for mine, other in pair_values(alias, student, numbers) or []:
        tensor, width = features(other), features(mine).shape[channel_axis(features(mine))]
        levels.append(kept[trace.read(tensor, channel_axis(tensor))].nonzero()[:, 0].tolist())
        if len(levels[-1]) != width:
            raise AlignError(
                f"'{alias}': the student has {width} channels, but by layers of the same names it would have "
                f"{len(levels[-1])} of the teacher's. Name them by channels=, or use type='conv'"
            )
    if not levels:
        raise AlignError(f"The adapter of '{alias}' selects channels of features, not of predictions")
    return levels
