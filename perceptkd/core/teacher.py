"""Holders of teachers: they own a model, or a store of its outputs, outside of the student's module tree.

A teacher that were a sub-module would be saved in every checkpoint, averaged by EMA, bucketed by DDP and put into train
mode at every epoch. So DistillModel keeps holders, which are no modules, and only passes moves between devices on.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from perceptkd.core.batch import batch_size, input_size
from perceptkd.core.cache import TeacherCache
from perceptkd.core.cache_key import build_fingerprint
from perceptkd.core.cached_teacher import CachedTeacher
from perceptkd.core.checkpoint import find_checkpoint, load_weights, training_hint
from perceptkd.core.errors import InputError
from perceptkd.core.source import ModelSource, build_model, read_model_source
from perceptkd.core.tap import ForwardStopped, Tap, TapCollector, TapError, TapSpec
from perceptkd.core.teacher_config import TeacherConfig, active_precision

#: Every so many forwards the whole teacher runs, to see that it still makes the calls that early stopping assumes.
RECHECK_EVERY = 100


class FrozenTeacher:
    """A trained model that only answers.

    Args:
        name: Its name in the config.
        model: The model, weights loaded.
        taps: Alias -> spec of everything any distiller asks of it.
        config: The rest.
    """

    def __init__(self, name: str, model: nn.Module, taps: Mapping[str, TapSpec], *, config: TeacherConfig) -> None:
        self.name = name
        self.config = config
        self.model: Any = model.eval().requires_grad_(False)
        if config.norm == "train":
            _use_batch_statistics(model)
        self.collector = TapCollector(model, taps, owner=f"teacher '{name}'")
        self._call_counts: dict[int, dict[str, int]] = {}
        self._forwards = 0
        compile_options = config.compile if isinstance(config.compile, Mapping) else {}
        self._stopped_forward = torch.compile(self._forward, **compile_options) if config.compile else self._forward

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenTeacher":
        """A copy of the student (for EMA, say) learns from the same teacher."""
        return self

    @property
    def specs(self) -> dict[str, TapSpec]:
        """The taps with the geometry of the model filled in."""
        return self.collector.specs

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Move or cast all weights, as ``nn.Module._apply`` does for the student."""
        self.model._apply(function)

    def set_device(self, device: torch.device) -> None:
        """Tell the teacher's own preprocessor where to put batches."""
        if isinstance(self.model, BaseModel):
            self.model._set_device(device)

    def collect(self, batch: Any) -> dict[str, Tap]:
        """Run the teacher on the raw batch up to its deepest tap.

        Args:
            batch: As the data loader made it; it is copied, so that the teacher's pipeline may write into it.

        Returns:
            Alias -> tap.
        """
        data = self.model.data_preprocessor(copy.deepcopy(batch), False)
        size = batch_size(data)
        known = self._call_counts.get(size)
        whole = not self.config.stop_early or known is None or self._forwards % RECHECK_EVERY == RECHECK_EVERY - 1
        gradients = nullcontext() if self.config.grad_through else torch.no_grad()
        with gradients, self._autocast(), self.collector.recording(stop_at=None if whole else known):
            (self._forward if whole else self._stopped_forward)(data)
        if whole and self.config.stop_early:
            self._learn_calls(size, known)
        self._forwards += 1
        return self.collector.taps(input_size=input_size(data))

    def example(self, batch: Any) -> dict[str, Tap]:
        """Taps for who needs their shapes alone: those of the batch."""
        return self.collect(batch)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "student":
            return nullcontext()
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16")

    def _forward(self, data: Any) -> None:
        # Our own signal that the taps are complete, no error: everything asked for has been recorded. It is caught
        # inside of what is compiled, so that nothing behind the deepest tap is ever traced.
        try:  # noqa: SIM105  (dynamo does not trace contextlib.suppress)
            self.model._run_forward(data, mode=self.config.forward_mode)
        except ForwardStopped:
            pass

    def _learn_calls(self, size: int, known: dict[str, int] | None) -> None:
        """Remember how often each tapped module is called for this batch size: after that the teacher may stop.

        A teacher whose number of calls depends on the data cannot be stopped: whether it made more calls than before or
        fewer, the next batch may need more than were learned, and those would be lost.
        """
        counts = dict(self.collector.counts)
        if known is not None and counts != known:
            raise TapError(
                f"The number of calls of a tapped module of teacher '{self.name}' depends on the data ({known} before, "
                f"{counts} now): set stop_early=False for it"
            )
        self._call_counts[size] = counts

    def clear(self) -> None:
        """Drop the taps of the step."""
        self.collector.clear()


class EMATeacher(FrozenTeacher):
    """The running mean of the student's weights. It starts as the student is at the first step.

    Args:
        name: Its name in the config.
        student: The student.
        taps: As for any teacher.
        config: The rest.
    """

    def __init__(self, name: str, student: nn.Module, taps: Mapping[str, TapSpec], *, config: TeacherConfig) -> None:
        super().__init__(name, copy.deepcopy(student), taps, config=config)
        self.started = False

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Take in the student as the last step left it; buffers (BatchNorm statistics) are copied."""
        momentum = self.config.momentum if self.started else 0.0
        for mine, weight in zip(self.model.parameters(), student.parameters(), strict=True):
            mine.lerp_(weight.to(mine), 1 - momentum)
        for buffer, value in zip(self.model.buffers(), student.buffers(), strict=True):
            buffer.copy_(value)
        self.started = True

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs; empty before the first step."""
        return dict(self.model.state_dict()) if self.started else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if state:
            self.model.load_state_dict(state)
            self.started = True


Teacher = FrozenTeacher | CachedTeacher


def build_teacher(name: str, options: Mapping[str, Any], taps: Mapping[str, TapSpec], *, student: nn.Module) -> Teacher:
    """Build, load and check the teacher a config describes."""
    config = TeacherConfig.parse(name, options)
    if config.role == "ema":
        return EMATeacher(name, student, taps, config=config)
    if isinstance(config.config, nn.Module):
        return FrozenTeacher(name, config.config, taps, config=config)
    source = read_model_source(config.config)
    if config.checkpoint is None and not config.allow_random:
        raise InputError(
            f"Teacher '{name}' has no checkpoint=, and a random teacher teaches nothing. "
            f"{training_hint(stem=source.stem, config=source.path)}. allow_random=True uses random weights."
        )
    if config.role == "cached":
        expected = teacher_fingerprint(name, config)
        del expected["precision"]  # the student's is known when it trains
        cache = TeacherCache(str(config.cache), expected=expected)
        return CachedTeacher(name, taps, cache=cache, precision=config.precision)
    path = _weights(name, config, source)
    model = build_model(source)
    if path:
        load_weights(model, path, owner=f"teacher '{name}'", allow_partial=config.allow_partial)
    return FrozenTeacher(name, model, taps, config=config)


def teacher_fingerprint(name: str, config: TeacherConfig, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the outputs of a teacher depend on: stored with its cache, and compared when a training reads that.

    Args:
        name: Of the teacher.
        config: Its options.
        device: Where it runs. To be called within the autocast that it runs in.
    """
    source = read_model_source(config.config)
    return build_fingerprint(
        model=source.model,
        checkpoint=_weights(name, config, source),
        norm=config.norm,
        forward_mode=config.forward_mode,
        precision=active_precision(config.precision, torch.device(device)),
    )


def _weights(name: str, config: TeacherConfig, source: ModelSource) -> Path | str | None:
    if config.checkpoint is None:
        return None
    return find_checkpoint(config.checkpoint, owner=f"teacher '{name}'", stem=source.stem, config=source.path)


def _use_batch_statistics(model: nn.Module) -> None:
    """Normalise by the batch, as UniDistill's released teacher does, yet leave the running statistics alone."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
            module.track_running_stats = False
