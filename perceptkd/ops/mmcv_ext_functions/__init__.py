"""Our ops under the names and signatures of mmcv's compiled module; see :mod:`perceptkd.ops.mmcv_ext`.

mmcv's Python wrappers allocate the outputs and pass them in; each function here fills them from the op of its name.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any


def get_compiler_version() -> str:
    return "none (perceptkd.ops)"


def get_compiling_cuda_version() -> str:
    return "none (perceptkd.ops)"


@cache
def functions() -> dict[str, Callable[..., Any]]:
    """Every op offered to mmcv, by mmcv's name: the public functions that the modules of this package define."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = {"get_compiler_version": get_compiler_version, "get_compiling_cuda_version": get_compiling_cuda_version}
    for module in modules:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                found[name] = function
    return found
