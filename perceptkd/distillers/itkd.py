"""itKD (CVPR 2023): maps of student and teacher through one auto-encoder over channels, and attention between heads.

Both maps are compressed to a short code by the same 1 x 1 convolutions, and decompressed again. Codes must agree; what
the student's code decompresses to must be the teacher's map, and the other way round (interchange). The outputs of the
heads at the centres of annotated boxes are compared after dot-product attention between their channels. Nothing is
added to the student at inference.

Shapes: B samples, N boxes, n boxes of a sample, C channels of a map, H rows (y), W columns (x), D channels of a head.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from perceptkd.core.bev import batch_boxes, centre_cells, tap_extent
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import canonical_pair
from perceptkd.core.heads import box_channels, head_maps, pair_heads, tapped_module
from perceptkd.core.tap import Tap, Taps
from perceptkd.registry import DISTILLERS

HIDDEN = (128, 64)
REG_CHANNELS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}

Cells = tuple[Tensor, Tensor, Tensor]  # sample, row and column of every object


class SharedAutoEncoder(nn.Module):
    """Compresses maps of both sides to ``code_channels``, and decompresses them to the student's channels."""

    def __init__(self, student_channels: int, teacher_channels: int, code_channels: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(student_channels, teacher_channels, 1)
        self.compress = _pointwise(teacher_channels, *HIDDEN, code_channels)
        self.decompress = _pointwise(code_channels, *reversed(HIDDEN), student_channels)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Codes of both [B, C', H, W], the student's code as a teacher's map, the teacher's code as a student's map."""
        student_code, teacher_code = self.compress(self.widen(student)), self.compress(teacher)
        return student_code, teacher_code, self.widen(self.decompress(student_code)), self.decompress(teacher_code)


def _pointwise(*channels: int) -> nn.Sequential:
    """1 x 1 convolutions with ReLU between them."""
    layers = [nn.Conv2d(*pair, 1) for pair in pairwise(channels)]
    return nn.Sequential(layers[0], *(part for layer in layers[1:] for part in (nn.ReLU(), layer)))


def map_difference(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of two maps, over all ranks."""
    return (first - second).abs().sum() / all_reduce_mean(first.new_tensor(float(first.numel()))).clamp(min=1)


def centre_difference(first: Tensor, second: Tensor, cells: Cells, *, max_objects: int) -> Tensor:
    """Squared difference of two maps [B, C, H, W] at the cells of objects, summed, over ``B C max_objects``.

    The release pads every sample to ``max_objects`` and takes the mean with the padding.
    """
    difference = (first - second).permute(0, 2, 3, 1)[cells]
    batch_size, channels = first.shape[:2]
    return difference.square().sum() / all_reduce_mean(first.new_tensor(float(batch_size * channels * max_objects)))


def channel_attention(outputs: Tensor, scale: float) -> Tensor:
    """Dot-product attention between the channels of outputs X [n, D]: ``X softmax(X' X / scale)``, columns sum to 1."""
    return outputs @ (outputs.T @ outputs / scale).softmax(dim=0)


def head_attention(outputs: Tensor, groups: Sequence[int], scale: float) -> Tensor:
    """Attention between all channels of [n, D], beside that within each head of ``groups`` channels: [n, 2 D]."""
    within = [channel_attention(part, scale) for part in outputs.split(list(groups), dim=1)]
    return torch.cat([channel_attention(outputs, scale), *within], dim=1)


@DISTILLERS.register_module()
class ItKD(Distiller):
    """Interchange transfer and head attention (Cho, Choi, Baek, Hwang; CVPR 2023, arXiv 2205.15531).

    Terms: ``compression`` (codes), ``interchange`` (decompressed maps, all over and at object centres) and ``head``.
    The release weighs distillation and detection loss by 0.5 each; here the terms have a weight of 1, as the latter.

    Follows the release (layers, formulas, padding to ``max_objects``), which is written for Waymo's single task and the
    student of a quarter width; its nuScenes config does not fit its code. Different are

    * the layer that mixes the two attentions sees both sides alike and can make both constant, so that the loss falls
      without any learning of the student. Here it keeps its random start, unless ``train_mixing``;
    * both sides of ``head`` are raw outputs. The release compares the student's class *probabilities*, which its
      detection loss has written over the logits by then, with the teacher's *logits*;
    * every task has its own ``head`` term, of its own objects, and the mean counts. The release takes the first task's;
    * averages go over all ranks.

    Args:
        student_channels, teacher_channels: Of ``feature``; a dry pass tells them too.
        task_classes: Class channels of every task of the heads; a dry pass tells them too.
        code_channels: C' of the codes.
        train_mixing: See above.
        max_objects: What counts are taken for: objects of a sample in ``interchange``, and the scale of the attention,
            its square root.
        heatmap_key: Name of the class logits in the output of the heads.
        reg_keys: Dense regression outputs, which both heads must have.
        channel_labels: The data set's label of every class channel, see :func:`perceptkd.core.heads.box_channels`.
        **kwargs: Of the base class.
    """

    default_weights = {"compression": 1.0, "interchange": 1.0, "head": 1.0}
    default_student_taps = {"feature": "neck[0]", "response": "bbox_head"}
    default_teacher_taps = default_student_taps
    default_adapters = {"feature": None, "response": None}
    layout_aware = True
    maps_classes = True
    background_terms = frozenset({"compression", "interchange"})

    def __init__(
        self,
        *,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
        task_classes: Sequence[int] | None = None,
        code_channels: int = 32,
        train_mixing: bool = False,
        max_objects: int = 500,
        heatmap_key: str = "heatmap",
        reg_keys: Sequence[str] = tuple(REG_CHANNELS),
        channel_labels: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if set(reg_keys) - set(REG_CHANNELS) or not reg_keys:
            raise InputError(f"ItKD: reg_keys are some of {tuple(REG_CHANNELS)}, not {tuple(reg_keys)}")
        if code_channels < 1 or max_objects < 1:
            raise InputError(f"ItKD: code_channels and max_objects are positive, not {code_channels}, {max_objects}")
        self.channels = student_channels, teacher_channels
        self.task_classes = task_classes
        self.code_channels, self.max_objects = code_channels, max_objects
        self.train_mixing = train_mixing
        self.heatmap_key, self.reg_keys = heatmap_key, tuple(reg_keys)
        self.channel_labels = channel_labels

    def build_adapters(self, student: Taps | None = None, teacher: Taps | None = None) -> None:
        """Make the auto-encoder and the mixing layers, for the channels of the options or of a dry pass."""
        super().build_adapters(student, teacher)
        channels, classes = self.channels, self.task_classes
        if student is not None and teacher is not None:
            maps = student["feature"].value, teacher["feature"].value
            channels = channels[0] or maps[0].shape[1], channels[1] or maps[1].shape[1]
            classes = classes or [task.shape[1] for task in head_maps(student["response"])[self.heatmap_key]]
        if None in channels or not classes:
            raise InputError(
                "ItKD: give student_channels and teacher_channels (of 'feature') and task_classes (class channels of "
                f"every task), or the model dry_batch=; they are {channels} and {classes}"
            )
        self.task_classes = list(classes)
        self.auto_encoder = SharedAutoEncoder(*channels, self.code_channels)
        widths = [sum(self._groups(count)) for count in self.task_classes]
        self.mixing = nn.ModuleList(nn.Linear(2 * width, width) for width in widths).requires_grad_(self.train_mixing)

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Returns the terms named in the class docstring."""
        mine, theirs = canonical_pair(student["feature"], teacher["feature"])
        theirs = theirs.detach()
        widths = self.auto_encoder.widen.in_channels, self.auto_encoder.widen.out_channels
        if (mine.shape[1], theirs.shape[1]) != widths or mine.shape[2:] != theirs.shape[2:]:
            raise InputError(
                f"ItKD: 'feature' is {tuple(mine.shape)} in the student, {tuple(theirs.shape)} in the teacher; it must "
                f"have {widths[0]} and {widths[1]} channels on one grid (student_channels, teacher_channels)"
            )
        boxes, sample_index = batch_boxes(step.data_samples, device=mine.device)
        cells, _ = _cells(boxes, sample_index, student["feature"], shape=mine.shape[2:])
        student_code, teacher_code, as_teacher, as_student = self.auto_encoder(mine, theirs)
        interchange = [
            map_difference(*pair) + centre_difference(*pair, cells, max_objects=self.max_objects)
            for pair in ((as_teacher, theirs), (as_student, mine))
        ]
        return {
            "compression": map_difference(student_code, teacher_code),
            "interchange": torch.stack(interchange).sum(),
            "head": self._heads(student["response"], teacher["response"], boxes, sample_index, step),
        }

    def _heads(self, student: Tap, teacher: Tap, boxes: Tensor, sample_index: Tensor, step: Step) -> Tensor:
        """The term ``head``, a mean over tasks."""
        keys: dict[str, Any] = {"heatmap_key": self.heatmap_key, "reg_keys": self.reg_keys}
        *heads, shared = pair_heads(student, teacher, step, distiller=self, **keys)
        found = [task.shape[1] for task in heads[0][self.heatmap_key]]
        if shared != list(self.reg_keys) or found != self.task_classes:
            raise InputError(
                f"ItKD: the heads have tasks of {found} classes and share {shared}; task_classes and reg_keys say "
                f"{self.task_classes} and {list(self.reg_keys)}"
            )
        cells, inside = _cells(boxes, sample_index, student, shape=heads[0][self.heatmap_key][0].shape[2:])
        known: dict[str, Any] = {"channel_labels": self.channel_labels, "method": "ItKD", "device": boxes.device}
        channel = box_channels(step, tapped_module(step.student_model, student), sum(found), **known)[inside]
        first, terms = 0, []
        for task, classes in enumerate(found):
            mine = (channel >= first) & (channel < first + classes)
            at_cells = tuple(part[mine] for part in cells)
            sides = [
                torch.cat([side[key][task].permute(0, 2, 3, 1)[at_cells] for key in (self.heatmap_key, *shared)], dim=1)
                for side in heads
            ]
            terms.append(self._attention_difference(*sides, at_cells[0], task))
            first += classes
        return torch.stack(terms).mean()

    def _attention_difference(self, student: Tensor, teacher: Tensor, sample: Tensor, task: int) -> Tensor:
        """Absolute difference of mixed attention of outputs [N, D] of one task, summed, per object."""
        groups, scale = self._groups(self.task_classes[task]), self.max_objects**0.5
        mixed = []
        for outputs in (student, teacher.detach()):
            attended = [head_attention(outputs[sample == number], groups, scale) for number in sample.unique()]
            mixed.append(self.mixing[task](torch.cat([outputs.new_zeros(0, 2 * outputs.shape[1]), *attended])))
        count = all_reduce_mean(student.new_tensor(float(len(student))))
        # the empty sum lets the graph reach the student where there is no object
        return ((mixed[0] - mixed[1]).abs().sum() + student[:0].sum()) / (count + 1e-4)

    def _groups(self, classes: int) -> list[int]:
        """Channels of each head of a task."""
        return [classes, *(REG_CHANNELS[key] for key in self.reg_keys)]


def _cells(boxes: Tensor, sample_index: Tensor, tap: Tap, *, shape: Sequence[int]) -> tuple[Cells, Tensor]:
    """Sample, row and column of the boxes whose centre is on the map, and which boxes those are."""
    row, column, inside = centre_cells(boxes, shape=tuple(shape), extent=tap_extent(tap))
    return (sample_index[inside], row[inside], column[inside]), inside
