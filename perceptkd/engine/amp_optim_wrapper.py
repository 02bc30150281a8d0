"""Mixed precision training that also runs on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from perceptkd.engine.precision import (
    Precision,
    choose_precision,
    is_channels_last,
    record_precision,
    to_channels_last,
)
from perceptkd.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """``OptimWrapper`` with bf16 autocast and channels_last convolutions where the hardware computes bf16.

    MMEngine's own ``AmpOptimWrapper`` refuses to run without a GPU. bf16 has the range of fp32 and needs no loss
    scaling; fp16, for GPUs without bf16, gets it. Weights, gradients and the optimizer's state stay fp32.

    Args:
        precision: ``auto`` (the rule of ``choose_precision``), ``bf16``, ``fp16`` or ``fp32``.
        **kwargs: Of ``OptimWrapper``.
    """

    def __init__(self, *, precision: str = "auto", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._request = precision
        self._precision: Precision | None = None
        device = self.optimizer.param_groups[0]["params"][0].device.type
        self._scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Backward of the scaled loss; without fp16 the scale is 1."""
        super().backward(self._scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Update the parameters, unless a scaled fp16 gradient overflowed; clipping sees the true gradients."""
        if self.clip_grad_kwargs:
            self._scaler.unscale_(self.optimizer)
            self._clip_grad()
        self._scaler.step(self.optimizer, **kwargs)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, and the scale of fp16."""
        scale = {"loss_scaler": self._scaler.state_dict()} if self._scaler.is_enabled() else {}
        return {**super().state_dict(), **scale}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        state_dict = dict(state_dict)
        scale = state_dict.pop("loss_scaler", None)
        if scale and self._scaler.is_enabled():
            self._scaler.load_state_dict(scale)
        super().load_state_dict(state_dict)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Called once before training, when the weights are final: choose, and lay out the convolutions."""
        super().initialize_count_status(model, init_counts, max_counts)
        self._choose(model)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of a training step under autocast."""
        precision = self._precision or self._choose(model)
        with super().optim_context(model), precision.autocast(next(model.parameters()).device):
            yield

    def _choose(self, model: nn.Module) -> Precision:
        self._precision = choose_precision(next(model.parameters()).device, request=self._request)
        if self._precision.channels_last and is_model_wrapper(model) and not is_channels_last(model):
            # too late to lay the model out, see FlexibleDistributedDataParallel
            self._precision = replace(self._precision, channels_last=False)
        if self._precision.channels_last:
            to_channels_last(model)
            distillation = getattr(getattr(model, "module", model), "distillers", None)  # teachers are no modules of it
            for teacher in getattr(distillation, "teachers", {}).values():
                if teacher.model is not None:  # a cached teacher has none
                    to_channels_last(teacher.model)
        record_precision(self._precision)
        return self._precision
