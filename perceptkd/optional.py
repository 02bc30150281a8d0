"""Optional dependencies, imported where they are used."""

import importlib
from types import ModuleType


class MissingDependencyError(ImportError):
    """A package that is not installed; the message is the command that installs it."""


def require(
    module: str, *, extra: str | None = None, package: str | None = None, libraries: str | None = None
) -> ModuleType:
    """Import an optional module, or say in one line how to get it.

    Args:
        module: What to import, ``'onnxruntime.quantization'``.
        extra: The extra of perceptkd that contains it.
        package: Its name on the package index, where it is in no extra and called otherwise.
        libraries: Libraries of the system that it loads and a machine may lack, with the command that installs them.

    >>> require("json").__name__
    'json'
    """
    root = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != root:
            raise  # it is installed, and lacks something itself
        target = f"'perceptkd[{extra}]'" if extra else package or root
        raise MissingDependencyError(f"{module} is not installed: pip install {target}", name=module) from None
    except ImportError as error:
        if libraries is None:
            raise
        raise MissingDependencyError(
            f"{module} cannot be loaded ({error}): it needs {libraries}", name=module
        ) from None
