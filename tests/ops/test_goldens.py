"""Our ops against what mmcv's compiled CPU kernels gave; goldens/make_goldens.py wrote that down."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import perceptkd.compat  # noqa: F401
from perceptkd.ops import mmcv_ext

FOLDER = Path(__file__).with_name("goldens")


def load_cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_cases", FOLDER / "cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = load_cases().CASES
GOLDENS = np.load(FOLDER / "mmcv.npz")


@pytest.fixture(autouse=True)
def _own_ops() -> None:
    if mmcv_ext.backends()["mmcv_ops"] != "own":
        pytest.skip("mmcv's compiled ops are in use, which are the reference")


def test_every_case_has_its_golden_and_every_golden_its_case() -> None:
    assert {name.split("/")[0] for name in GOLDENS.files} == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_gives_what_compiled_mmcv_gives(name: str) -> None:
    found = CASES[name]()
    keys = [file.removeprefix(f"{name}/") for file in GOLDENS.files if file.startswith(f"{name}/")]
    expected = {key: torch.from_numpy(GOLDENS[f"{name}/{key}"]) for key in keys}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
