"""Triton kernels of the ops that are hot on a GPU. Each stands beside a twin in torch, which is the definition.

``PERCEPTKD_TRITON=on`` sends CUDA tensors to them. It is not the default: Triton compiles its launcher with a C
compiler, and the kernels have been compiled for a GPU and run in Triton's interpreter (``TRITON_INTERPRET=1``), but not
yet on one. Products and sums are not fused, so that comparisons of distances come out as the twin's.
"""

import importlib.util
import os
from collections.abc import Callable
from functools import cache, wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from mmengine.logging import print_log
from torch import Tensor

VARIABLE = "PERCEPTKD_TRITON"

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def runs_on_triton(tensor: Tensor) -> bool:
    """Whether the Triton kernels take this tensor."""
    return tensor.is_cuda and chosen_kernels() == "triton"


def chosen_kernels() -> str:
    """'triton' or 'torch': what CUDA tensors are computed with, by ``PERCEPTKD_TRITON`` (``on`` or ``off``)."""
    wanted = os.environ.get(VARIABLE, "off")
    if wanted not in ("on", "off"):
        raise ValueError(f"{VARIABLE} is on or off, not {wanted!r}")
    if wanted == "on" and importlib.util.find_spec("triton") is None:
        raise ValueError(f"{VARIABLE}=on, but Triton is not installed: pip install triton")
    name = "triton" if wanted == "on" else "torch"
    _log_choice(name)
    return name


@cache
def _log_choice(name: str) -> None:
    print_log(f"hot ops on CUDA: {name} ({VARIABLE}={os.environ.get(VARIABLE, 'off')})", logger="current")


def on_its_device(
    launch: Callable[Concatenate[Tensor, Parameters], Result],
) -> Callable[Concatenate[Tensor, Parameters], Result]:
    """Makes the device of the first argument the current one: Triton launches there, wherever the tensors lie."""

    @wraps(launch)
    def call(first: Tensor, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with torch.cuda.device_of(first):
            return launch(first, *args, **kwargs)

    return call
