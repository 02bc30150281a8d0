"""Loss weights as functions of training progress.

A weight in a config is a number, or a dict with ``type`` and ``value``:

========== ======================================= =====================================================
type       other keys (all in [0, 1] of training)  weight
========== ======================================= =====================================================
constant                                           ``value``
warmup     ``end``                                 rises linearly from 0 to ``value``, then stays
linear     ``begin=0, end=1, final=0``             goes linearly from ``value`` to ``final``
cosine     ``begin=0, end=1, final=0``             goes along half a cosine from ``value`` to ``final``
stop       ``at``                                  ``value``, and 0 from ``at`` on
========== ======================================= =====================================================

Progress is the share of the run's iterations that are done. An iteration is one batch of the data loader: with gradient
accumulation several of them make a step of the optimiser, each with the weight of its own iteration.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from perceptkd.core.errors import InputError


def constant(value: float) -> Callable[[float], float]:
    return lambda progress: value


def warmup(value: float, end: float) -> Callable[[float], float]:
    return lambda progress: value * _ramp(progress, 0.0, end)


def linear(value: float, begin: float = 0.0, end: float = 1.0, final: float = 0.0) -> Callable[[float], float]:
    return lambda progress: value + (final - value) * _ramp(progress, begin, end)


def cosine(value: float, begin: float = 0.0, end: float = 1.0, final: float = 0.0) -> Callable[[float], float]:
    return lambda progress: final + (value - final) * (1 + math.cos(math.pi * _ramp(progress, begin, end))) / 2


def stop(value: float, at: float) -> Callable[[float], float]:
    return lambda progress: value if progress < at else 0.0


SCHEDULES: dict[str, Callable[..., Callable[[float], float]]] = {
    "constant": constant,
    "warmup": warmup,
    "linear": linear,
    "cosine": cosine,
    "stop": stop,
}


@dataclass(frozen=True)
class Weight:
    """One term's weight. Call it with the progress in [0, 1].

    Attributes:
        spec: The number or dict it was built from.
        schedule: Progress -> weight.
    """

    spec: float | Mapping[str, Any]
    schedule: Callable[[float], float]

    def __call__(self, progress: float) -> float:
        return self.schedule(progress)

    @property
    def always_zero(self) -> bool:
        """Whether the term never trains anything, so that it need not be part of the graph."""
        if isinstance(self.spec, Mapping):
            return self.spec["value"] == 0 and self.spec.get("final", 0) == 0
        return self.spec == 0


def build_weight(spec: float | Mapping[str, Any]) -> Weight:
    """Make a weight of a number or a schedule dict.

    >>> build_weight(dict(type="warmup", value=10.0, end=0.5))(0.25)
    5.0
    """
    if isinstance(spec, Mapping):
        options = dict(spec)
        kind = options.pop("type", None)
        if kind not in SCHEDULES:
            raise InputError(f"A weight schedule needs type={' | '.join(SCHEDULES)}; got {spec!r}")
        try:
            return _checked(Weight(dict(spec), SCHEDULES[kind](**options)))
        except TypeError as error:
            raise InputError(f"The weight schedule {spec!r} does not fit: {error}") from error
    if not isinstance(spec, Real):
        raise InputError(f"A weight is a number or a schedule dict(type=, value=); got {spec!r}. 0 switches a term off")
    return _checked(Weight(float(spec), constant(float(spec))))


def _checked(weight: Weight) -> Weight:
    values = [weight(step / 10) for step in range(11)]
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise InputError(f"A weight must be finite and not negative; {weight.spec!r} gives {values}")
    return weight


def _ramp(progress: float, begin: float, end: float) -> float:
    """0 before ``begin``, 1 after ``end``, linear between."""
    if end <= begin:
        return float(progress >= end)
    return min(1.0, max(0.0, (progress - begin) / (end - begin)))
