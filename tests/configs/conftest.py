"""Config tests build models of mmdet3d, which needs perceptkd.compat first; the synthetic batch is the BEV tests'."""

import importlib.util
from pathlib import Path

import perceptkd.compat  # noqa: F401

_source = Path(__file__).resolve().parent.parent / "models" / "bev" / "conftest.py"
_spec = importlib.util.spec_from_file_location("bev_synthetic_batch", _source)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

make_batch = _module.make_batch
