"""Bring two paired taps to the same channels and size, so that a loss can compare them.

An adapter is written in a config as ``'auto'`` (what the dry pass finds necessary), ``None`` (hand both on as they are)
or a dict of :class:`AdapterConfig`: ``dict(type='conv', kernel=3, norm=True, in_channels=128, out_channels=256)``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptkd.core.sparse_match import keep_common
from perceptkd.core.tap import Tap, map_tensors

KINDS = ("auto", "conv", "linear", "identity", "select")
CONVOLUTIONS: dict[int, type[nn.Module]] = {4: nn.Conv2d, 5: nn.Conv3d}
HOW = (
    "Give the model dry_batch= (a raw batch, dict(image_size=(H, W)) or dict(dataset=...)) to infer an adapter, or the "
    "distiller adapters=dict({alias}=dict(type='conv', in_channels=.., out_channels=..)), or {alias}=None for none"
)


class AlignError(ValueError):
    """Two taps that cannot be compared, or for which no adapter is known."""


@dataclass(frozen=True)
class AdapterConfig:
    """How to adapt one pair.

    Attributes:
        type: 'conv', 'linear', 'identity' (resize only), 'select' (leave out channels of the teacher) or 'auto': conv
            for maps, linear for rows of features, and neither where the channels agree.
        kernel: Of the convolution, 1 or 3.
        norm: Put BatchNorm and ReLU behind the convolution.
        side: Whose features go through it.
        in_channels: Channels of that side, one number or one per level; the dry pass if left out.
        out_channels: Channels of the other side.
        channels: Of the teacher's, those that 'select' hands on, one list or one per level; left out, those that a
            student cut out of this teacher has, by a forward on the dry batch (:mod:`perceptkd.core.selection`).
        importance: Which these are, see :mod:`perceptkd.core.slicing`.
    """

    type: str = "auto"
    kernel: int = 1
    norm: bool = False
    side: str = "student"
    in_channels: int | Sequence[int] | None = None
    out_channels: int | Sequence[int] | None = None
    channels: Sequence[Any] | None = None
    importance: str = "l1"

    @classmethod
    def parse(cls, alias: str, config: str | Mapping[str, Any]) -> "AdapterConfig":
        try:
            parsed = cls(type=config) if isinstance(config, str) else cls(**config)
        except TypeError as error:
            raise AlignError(f"The adapter of '{alias}': {error}") from error
        if parsed.type not in KINDS or parsed.side not in ("student", "teacher"):
            raise AlignError(f"The adapter of '{alias}' needs type={' | '.join(KINDS)} and side=student | teacher")
        return parsed


class ChannelSelection(nn.Module):
    """Hands on some channels of a map [B, C, ...] or of rows [..., C]; ``channels`` says which, in order."""

    channels: Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("channels", torch.as_tensor(channels, dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        return features.index_select(channel_axis(features), self.channels)


class PairAdapter(nn.Module):
    """Adapts the taps of one alias. Sparse ones keep the voxels that both sides have, in the same order.

    Args:
        alias: Their name.
        layers: One module per level; none means that channels agree.
        side: Whose features go through them.
        resize: Bring the student's maps to the size of the teacher's.
    """

    def __init__(
        self, alias: str, layers: Sequence[nn.Module] = (), *, side: str = "student", resize: bool = True
    ) -> None:
        super().__init__()
        self.alias = alias
        self.side = side
        self.resize = resize
        self.layers = nn.ModuleList(layers)

    def forward(self, student: Tap, teacher: Tap) -> tuple[Tap, Tap]:
        """Both taps with equal channels and size; levels are paired by stride. Predictions pass unchanged."""
        pairs = pair_values(self.alias, student, teacher)
        if pairs is None:
            return student, teacher
        if self.layers and len(self.layers) != len(pairs):
            raise AlignError(f"'{self.alias}' has {len(pairs)} levels but {len(self.layers)} adapters")
        turned = {student.layout, teacher.layout} == {"yx", "xy"}
        aligned = [self._align(level, *pair, turned=turned) for level, pair in enumerate(pairs)]
        several = isinstance(student.value, list | tuple)
        first, second = ([pair[side] for pair in aligned] for side in (0, 1))
        return (
            replace(student, calls=[first if several else first[0]]),
            replace(teacher, calls=[second if several else second[0]]),
        )

    def _align(self, level: int, student: Any, teacher: Any, *, turned: bool) -> tuple[Any, Any]:
        sparse = [hasattr(value, "replace_feature") for value in (student, teacher)]
        if all(sparse):
            student, teacher = keep_common(student, teacher)
        elif any(sparse):
            raise AlignError(
                f"'{self.alias}': one side is sparse and the other is not, so their rows are not the same places. Tap "
                f"two sparse outputs or two dense ones; {self.alias}=None in adapters= hands both on as they are"
            )
        if self.layers and self.side == "student":
            student = map_tensors(self.layers[level], student)
        elif self.layers:
            teacher = map_tensors(self.layers[level], teacher)
        mine, other = features(student), features(teacher)
        axis = channel_axis(mine)
        if mine.ndim != other.ndim or mine.shape[axis] != other.shape[axis]:
            raise AlignError(
                f"'{self.alias}': the student has {tuple(mine.shape)}, the teacher {tuple(other.shape)}. "
                f"{HOW.format(alias=self.alias)}"
            )
        size = other.shape[2:][::-1] if turned else other.shape[2:]
        if self.resize and mine.ndim == 4 and mine.shape[2:] != size:
            student = F.interpolate(mine, size=size, mode="bilinear", align_corners=False)
        return student, teacher


def build_pair_adapter(
    alias: str,
    config: AdapterConfig,
    student: Tap | None = None,
    teacher: Tap | None = None,
    *,
    resize: bool = True,
) -> PairAdapter:
    """Make the adapter of one alias, from the taps of a dry pass or from channels in the config.

    Args:
        alias: Its name.
        config: What is asked for.
        student: The student's tap of a dry pass.
        teacher: The teacher's.
        resize: See :class:`PairAdapter`.

    Raises:
        AlignError: Neither is there, and the type says that an adapter is wanted.
    """
    if config.type == "select":
        if not config.channels:
            raise AlignError(f"The adapter of '{alias}' needs channels=, or a dry_batch= of the model to find them")
        levels = config.channels if isinstance(config.channels[0], Sequence) else [config.channels]
        return PairAdapter(alias, list(map(ChannelSelection, levels)), side="teacher", resize=resize)
    pairs = pair_values(alias, student, teacher) if student is not None and teacher is not None else None
    if config.in_channels is not None and config.out_channels is not None:
        channels = list(zip(_several(config.in_channels), _several(config.out_channels), strict=True))
        dimensions = [4 if config.type != "linear" else 2] * len(channels)
    elif pairs is not None:
        sides = pairs if config.side == "student" else [(second, first) for first, second in pairs]
        tensors = [(features(first), features(second)) for first, second in sides]
        channels = [(a.shape[channel_axis(a)], b.shape[channel_axis(b)]) for a, b in tensors]
        dimensions = [a.ndim for a, _ in tensors]
    elif config.type in ("conv", "linear"):
        raise AlignError(f"The adapter of '{alias}' has no channels. {HOW.format(alias=alias)}")
    else:
        return PairAdapter(alias, resize=resize)
    if config.type == "identity" or (config.type == "auto" and all(a == b for a, b in channels)):
        return PairAdapter(alias, resize=resize)
    layers = [_build_layer(config, *sizes, dimension) for sizes, dimension in zip(channels, dimensions)]
    return PairAdapter(alias, layers, side=config.side, resize=resize)


def pair_values(alias: str, student: Tap, teacher: Tap) -> list[tuple[Any, Any]] | None:
    """The features to compare, level by level; None where the taps hold predictions or several calls."""
    if len(student.calls) != 1 or len(teacher.calls) != 1:
        return None
    first, second = student.value, teacher.value
    if _is_feature(first) and _is_feature(second):
        return [(first, second)]
    if not all(isinstance(value, list | tuple) and all(map(_is_feature, value)) for value in (first, second)):
        return None
    student_strides, teacher_strides = level_strides(student), level_strides(teacher)
    if student_strides is None or teacher_strides is None:
        sizes = [[features(level).shape[2:] for level in value] for value in (first, second)]
        if sizes[0] != sizes[1]:
            raise AlignError(
                f"'{alias}' has levels of sizes {sizes[0]} and {sizes[1]}: declare stride=(..) beside the taps"
            )
        return list(zip(first, second))
    return [(first[i], second[j]) for i, j in pair_levels(student_strides, teacher_strides, alias=alias)]


def pair_levels(student: Sequence[float], teacher: Sequence[float], *, alias: str = "levels") -> list[tuple[int, int]]:
    """Which level of the student goes with which of the teacher: those of equal stride.

    >>> pair_levels([8, 16, 32, 64, 128], [4, 8, 16, 32])
    [(0, 1), (1, 2), (2, 3)]
    """
    pairs = [(i, j) for i, a in enumerate(student) for j, b in enumerate(teacher) if math.isclose(a, b, rel_tol=0.01)]
    if not pairs:
        raise AlignError(
            f"'{alias}': no level of the student (strides {student}) has a stride of the teacher ({teacher})"
        )
    return pairs


def level_strides(tap: Tap) -> list[float] | None:
    """Strides of a multi-level output: declared, or input size over map size rounded to a power of two."""
    if tap.stride is not None:
        return [float(stride) for stride in _several(tap.stride)]
    if tap.input_size is None:
        return None
    return [2.0 ** round(math.log2(tap.input_size[1] / features(level).shape[-1])) for level in tap.value]


def features(value: Any) -> Tensor:
    """The tensor of a dense or sparse output."""
    return value if isinstance(value, Tensor) else value.features


def channel_axis(tensor: Tensor) -> int:
    """1 for maps [B, C, ...], -1 for rows of features [N, C] and [B, N, C]."""
    return 1 if tensor.ndim >= 4 else -1


def _is_feature(value: Any) -> bool:
    return (isinstance(value, Tensor) and value.ndim >= 2) or hasattr(value, "replace_feature")


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value]


def _build_layer(config: AdapterConfig, in_channels: int, out_channels: int, dimensions: int) -> nn.Module:
    if config.type == "linear" or (config.type == "auto" and dimensions not in CONVOLUTIONS):
        return nn.Linear(in_channels, out_channels)
    convolution = CONVOLUTIONS[dimensions](
        in_channels, out_channels, config.kernel, padding=config.kernel // 2, bias=not config.norm
    )
    if not config.norm:
        return convolution
    norm = nn.BatchNorm2d if dimensions == 4 else nn.BatchNorm3d
    return nn.Sequential(convolution, norm(out_channels), nn.ReLU())
