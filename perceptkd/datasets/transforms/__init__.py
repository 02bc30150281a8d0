"""Steps of a data pipeline. Randomness comes from numpy's global state, which ``SeededDataset`` seeds per sample."""

import importlib
import pkgutil

import perceptkd.compat  # noqa: F401  (mmdet3d must be importable before any of the modules here)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")  # registers its transforms
