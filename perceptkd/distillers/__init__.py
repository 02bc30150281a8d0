"""Published distillation methods, one per module, registered in ``perceptkd.registry.DISTILLERS``.

Every module of this package is imported when the registry first looks for a method, and its decorator registers it:
a new method is a new file here (with its config and its test), and nothing else changes.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
