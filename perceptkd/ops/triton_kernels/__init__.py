"""Triton kernels of the ops that are hot on a GPU. Each stands beside a twin in torch, which is the definition.

They run on CUDA tensors where Triton is installed (torch brings it along on Linux) unless ``PERCEPTKD_TRITON=off``; on
CPU, tests run them through Triton's interpreter (``TRITON_INTERPRET=1``). Products and sums are not fused, so that
comparisons of distances come out as the twin's.
"""

import importlib.util
import os
from functools import cache

from mmengine.logging import print_log
from torch import Tensor

VARIABLE = "PERCEPTKD_TRITON"


def runs_on_triton(tensor: Tensor) -> bool:
    """Whether the Triton kernels take this tensor."""
    return tensor.is_cuda and chosen_kernels() == "triton"


def chosen_kernels() -> str:
    """'triton' or 'torch': what CUDA tensors are computed with, by ``PERCEPTKD_TRITON`` (``auto`` or ``off``)."""
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in ("auto", "off"):
        raise ValueError(f"{VARIABLE} is auto or off, not {wanted!r}")
    installed = importlib.util.find_spec("triton") is not None
    name = "triton" if wanted == "auto" and installed else "torch"
    _log_choice(name, wanted, installed)
    return name


@cache
def _log_choice(name: str, wanted: str, installed: bool) -> None:
    reason = f"{VARIABLE}={wanted}, triton is {'' if installed else 'not '}installed"
    print_log(f"hot ops on CUDA: {name} ({reason})", logger="current")
