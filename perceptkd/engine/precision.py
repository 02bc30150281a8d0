"""Which number format and memory layout a device trains in: one stated rule, logged once, kept for the results."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from perceptkd.core.errors import InputError

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Precision:
    """A choice of number format and layout, and the reason for it.

    Attributes:
        dtype: What autocast computes matrix products in; None leaves autocast off.
        channels_last: Whether 2D convolutions keep their weights as [out, kernel, kernel, in].
        reason: For the log.
    """

    dtype: torch.dtype | None
    channels_last: bool
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The autocast context for ``device``."""
        return torch.autocast(device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def describe(self) -> dict[str, str]:
        """For logs and result files.

        >>> Precision(None, False, "asked for").describe()
        {'amp': 'off', 'memory_format': 'contiguous', 'precision_reason': 'asked for'}
        """
        return {
            "amp": "off" if self.dtype is None else str(self.dtype).removeprefix("torch."),
            "memory_format": "channels_last" if self.channels_last else "contiguous",
            "precision_reason": self.reason,
        }


@cache
def cpu_computes_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware: AMX tiles or AVX-512 (Linux names them in ``/proc/cpuinfo``)."""
    information = Path("/proc/cpuinfo")
    known = information.read_text(errors="replace") if information.exists() else ""
    return any(f" {flag}" in known for flag in ("amx_bf16", "avx512_bf16"))


def choose_precision(device: torch.device | str, *, request: str = "auto") -> Precision:
    """The rule: bf16 and channels_last where the hardware computes bf16, plain fp32 elsewhere.

    Args:
        device: Where the model is.
        request: ``auto`` for the rule, or ``bf16``, ``fp16`` or ``fp32`` to overrule it.

    Raises:
        InputError: An unknown request, or bf16 on a GPU that has none.
    """
    if request not in ("auto", "bf16", "fp16", "fp32"):
        raise InputError(f"precision must be auto, bf16, fp16 or fp32, not {request!r}")
    if request == "fp32":
        return Precision(None, False, "fp32 was asked for")
    if request == "fp16":
        return Precision(torch.float16, True, "fp16 was asked for")
    if torch.device(device).type == "cuda":
        able, hardware = torch.cuda.is_bf16_supported(including_emulation=False), "this GPU computes bf16"
    else:
        able, hardware = cpu_computes_bf16(), "this CPU computes bf16"
    if request == "bf16":
        if torch.device(device).type == "cuda" and not able:
            raise InputError("bf16 was asked for, but this GPU has no bf16 arithmetic: use precision='auto' or 'fp32'")
        return Precision(torch.bfloat16, True, "bf16 was asked for")
    if able:
        return Precision(torch.bfloat16, True, hardware)
    return Precision(None, False, hardware.replace("computes", "does not compute"))


def to_channels_last(model: nn.Module) -> int:
    """Bring the weights of all 2D convolutions into channels_last; returns how many. Values do not change.

    Only these: sparse convolutions keep 4D weights in a layout of their own.
    """
    layers = _convolutions(model)
    for layer in layers:
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return len(layers)


def is_channels_last(model: nn.Module) -> bool:
    """Whether :func:`to_channels_last` would change nothing."""
    return all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in _convolutions(model))


def _convolutions(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, CONVOLUTIONS)]


_chosen: dict[str, str] = {}


def record_precision(precision: Precision) -> None:
    """Log the choice, once per choice, and keep it for ``perceptkd.engine.backends``."""
    description = precision.describe()
    if _chosen != description:
        _chosen.clear()
        _chosen.update(description)
        print_log("Backends: " + ", ".join(f"{key}={value}" for key, value in description.items()), logger="current")


def chosen_precision() -> dict[str, str]:
    """What the latest training of this process chose; fp32 before there was one."""
    return dict(_chosen) or Precision(None, False, "no AmpOptimWrapper in this process").describe()
