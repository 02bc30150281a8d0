"""The slow KITTI evaluation that the fast one is compared with."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def kitti_reference() -> ModuleType:
    """tests/evaluation/kitti_reference.py."""
    spec = importlib.util.spec_from_file_location("kitti_reference", Path(__file__).with_name("kitti_reference.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
