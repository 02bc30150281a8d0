"""The options of a teacher in a config."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from perceptkd.core.errors import InputError

ROLES = ("frozen", "ema", "peer", "cached")


@dataclass(frozen=True)
class TeacherConfig:
    """What a config says about a teacher.

    Attributes:
        config: Its model: a dict, a config path or ``lib::path``. An EMA teacher has the student's.
        checkpoint: Its weights. ``None`` is an error unless ``allow_random``.
        role: 'frozen', 'ema' (mean of past students) or 'cached' (read from a store).
        norm: 'eval' uses the teacher's BatchNorm statistics, 'train' those of the batch; neither updates them.
        precision: 'student' computes as the student's training step does (bf16 with ``--amp``), 'bf16' in bf16 autocast
            and 'fp32' without autocast, whatever the student does.
        grad_through: Run the forward with gradients, so that they reach what feeds the teacher (never its weights).
        forward_mode: 'predict', 'loss' or 'tensor'. 'predict' calls heads as modules in every mm library; mmdet's
            'tensor' bypasses the hooks of heads, and mmdet3d's CenterPoint has none.
        stop_early: End the forward right after the deepest tap.
        compile: True or arguments of ``torch.compile``, for the forward up to the deepest tap (needs ``stop_early``).
        allow_partial: Accept a checkpoint of which more than 1 % of the keys do not fit, or one has another shape.
        allow_random: Accept a teacher without a checkpoint.
        momentum: Share of the old weights an EMA teacher keeps per iteration (with accumulation: per small batch).
        cache: Folder of a cached teacher's store.
    """

    config: Any = None
    checkpoint: str | None = None
    role: str = "frozen"
    norm: str = "eval"
    precision: str = "student"
    grad_through: bool = False
    forward_mode: str = "predict"
    stop_early: bool = True
    compile: bool | Mapping[str, Any] = False
    allow_partial: bool = False
    allow_random: bool = False
    momentum: float = 0.999
    cache: str | None = None

    @classmethod
    def parse(cls, name: str, options: Mapping[str, Any]) -> "TeacherConfig":
        """Read the options of the teacher ``name``.

        Raises:
            InputError: An option is unknown or has a value that is not allowed.
        """
        known = [field.name for field in fields(cls)]
        unknown = [repr(option) for option in options if option not in known]
        if unknown:
            raise InputError(f"Teacher '{name}' has no option {', '.join(unknown)}; it has {', '.join(known)}")
        return cls(**options)

    def __post_init__(self) -> None:
        for key, allowed in (
            ("role", ROLES),
            ("norm", ("eval", "train")),
            ("precision", ("student", "bf16", "fp32")),
            ("forward_mode", ("predict", "loss", "tensor")),
        ):
            if getattr(self, key) not in allowed:
                raise InputError(f"A teacher's {key} must be one of {', '.join(allowed)}; got {getattr(self, key)!r}")
        if self.compile and not self.stop_early:
            raise InputError("A compiled teacher stops at its deepest tap: compile needs stop_early=True")
        if self.role == "peer":
            raise InputError(
                "role='peer' is not available: peers train jointly, which needs the peer's losses and weights in the "
                "student's optimiser. Use role='frozen' or 'ema'."
            )
        if self.role in ("frozen", "cached") and self.config is None:
            raise InputError(f"A teacher of role '{self.role}' needs config=")
        if self.role == "cached" and self.cache is None:
            raise InputError("A teacher of role 'cached' needs cache=, the folder that tools/cache_teacher.py wrote")
        if self.role == "cached" and self.norm != "eval":
            raise InputError(
                "A cached teacher needs norm='eval': with statistics of the batch its outputs depend on the batch"
            )


def active_precision(precision: str, device: torch.device) -> str:
    """What a teacher of this ``precision`` computes in, here and now: 'fp32', 'bf16' or 'fp16'."""
    if precision != "student":
        return precision
    if not torch.is_autocast_enabled(device.type):
        return "fp32"
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}[torch.get_autocast_dtype(device.type)]
