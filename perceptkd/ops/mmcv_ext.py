"""Offers our ops to mmcv where it has no compiled ones.

``mmcv.ops`` takes every op from the compiled module ``mmcv._ext``. That module needs a compiler and a matching torch,
so a plain install has none and ``import mmcv.ops`` fails. :func:`install` puts a finder in front of Python's own: it
answers the import of ``mmcv._ext`` by the rule of the environment variable ``PERCEPTKD_OPS``:

==========  ========================================================================================
own         always our ops, even where compiled ones exist
compiled    the compiled ones; an error where there are none
auto        (default) the compiled ones where they exist, else ours
==========  ========================================================================================

The choice is made once, logged when ``mmcv._ext`` is imported, and kept for :func:`backends`. An op that is not ours
yet can be imported, but raises ``NotImplementedError`` with its name when it is called.
"""

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

ENVIRONMENT_VARIABLE = "PERCEPTKD_OPS"
CHOICES = ("own", "compiled", "auto")
EXTENSION = "mmcv._ext"
FUNCTIONS_PACKAGE = "perceptkd.ops.mmcv_ext_functions"


def find_compiled_extension() -> str | None:
    """Returns the file of mmcv's compiled ops, or None where there is none. Imports nothing."""
    package = importlib.util.find_spec("mmcv")
    if package is None:
        return None
    compiled = PathFinder.find_spec(EXTENSION, package.submodule_search_locations)
    return None if compiled is None else compiled.origin


def choose_backend(requested: str, compiled_file: str | None) -> str:
    """Applies the rule of the module docstring.

    Args:
        requested: the value of ``PERCEPTKD_OPS``.
        compiled_file: where mmcv's compiled ops lie, None if there are none.

    Returns:
        'own' or 'compiled'.
    """
    if requested not in CHOICES:
        raise ValueError(
            f"{ENVIRONMENT_VARIABLE}={requested!r} is not a choice of ops; set it to one of {', '.join(CHOICES)}"
        )
    if requested == "compiled" and compiled_file is None:
        raise ImportError(
            f"{ENVIRONMENT_VARIABLE}=compiled, but the installed mmcv has no compiled ops ({EXTENSION} is missing); "
            f"build mmcv with MMCV_WITH_OPS=1, or set {ENVIRONMENT_VARIABLE}=own (or auto) to run on perceptkd's ops"
        )
    if requested == "auto":
        return "own" if compiled_file is None else "compiled"
    return requested


class OwnExtension(ModuleType):
    """Stands for ``mmcv._ext``: our ops by mmcv's names, and for any other name a function that says it is missing."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        function = _bind(name)
        setattr(self, name, function)
        return function


def _bind(name: str) -> Callable[..., Any]:
    """Returns a function that loads our op on its first call: ``import mmcv.ops`` asks for 100 ops and uses few."""

    def call(*args: Any, **kwargs: Any) -> Any:
        function = importlib.import_module(FUNCTIONS_PACKAGE).functions().get(name)
        if function is None:
            raise NotImplementedError(
                f"the mmcv op {name!r} has no implementation in perceptkd yet; to use a model that needs it, install "
                f"an mmcv with compiled ops and set {ENVIRONMENT_VARIABLE}=compiled"
            )
        return function(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call


class _ExtensionFinder(MetaPathFinder, Loader):
    """Answers the import of ``mmcv._ext`` with our ops, or logs that the compiled ones are taken and steps aside."""

    def __init__(self, backend: str, reason: str) -> None:
        self.backend = backend
        self.reason = reason

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != EXTENSION:
            return None
        self._log()
        return ModuleSpec(EXTENSION, self, origin=__file__) if self.backend == "own" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return OwnExtension(spec.name, doc="perceptkd's ops under the names of mmcv's compiled ones.")

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: attributes are bound when they are asked for."""

    def _log(self) -> None:
        from mmengine.logging import print_log

        print_log(f"mmcv ops: {self.backend} ({self.reason})", logger="current", level=logging.INFO)


def _installed() -> _ExtensionFinder | None:
    return next((finder for finder in sys.meta_path if isinstance(finder, _ExtensionFinder)), None)


def install() -> str:
    """Decides whose ops mmcv uses and makes ``mmcv._ext`` importable. Calling it again changes nothing.

    Returns:
        The backend, 'own' or 'compiled'.
    """
    finder = _installed()
    if finder is not None:
        return finder.backend
    requested = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    compiled_file = find_compiled_extension()
    backend = choose_backend(requested, compiled_file)
    if backend == "own" and EXTENSION in sys.modules:
        raise ImportError(
            f"{ENVIRONMENT_VARIABLE}={requested}, but mmcv's compiled ops are already imported; "
            "import perceptkd.compat before mmcv.ops, mmdet and mmdet3d"
        )
    found = "no compiled ops found" if compiled_file is None else f"compiled ops in {compiled_file}"
    sys.meta_path.insert(0, _ExtensionFinder(backend, f"{ENVIRONMENT_VARIABLE}={requested}, {found}"))
    return backend


def backends() -> dict[str, str]:
    """Which implementation the ops of this process run on, as stored with every result.

    >>> import perceptkd.compat
    >>> sorted(backends())
    ['mmcv_ops', 'mmcv_ops_request']
    """
    return {"mmcv_ops": install(), "mmcv_ops_request": os.environ.get(ENVIRONMENT_VARIABLE, "auto")}
