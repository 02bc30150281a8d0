"""How the world's numba kernels are compiled.

Strict floating point, one thread, no global lock. Compiled code is kept beside the source; numba renews it when the
file of the outermost kernel changes, but not when one that it calls does: ``make clean`` after editing kernels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

kernel = numba.njit(cache=True, nogil=True, error_model="numpy")
inlined_kernel = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")


def is_compiled(function: Callable[..., Any]) -> bool:
    """Whether compiled code of the kernel is stored, so that its first call does not wait for the compiler."""
    if numba.config.DISABLE_JIT:
        return True
    module = function.__module__.rpartition(".")[2]
    return any(Path(function.stats.cache_path).glob(f"{module}.{function.__qualname__}-*.nbc"))
