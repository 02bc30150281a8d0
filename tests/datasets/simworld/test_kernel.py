"""Whether a kernel is compiled is known before it is called."""

import importlib
from pathlib import Path

import pytest

from perceptkd.datasets.simworld.kernel import is_compiled

SOURCE = """
from perceptkd.datasets.simworld.kernel import kernel

@kernel
def double(x):
    return 2 * x

@kernel
def double_twice(x):
    return 4 * x
"""


def test_a_kernel_is_compiled_once_its_code_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_kernels.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    kernels = importlib.import_module("tiny_kernels")
    assert not is_compiled(kernels.double)
    kernels.double_twice(3)
    assert not is_compiled(kernels.double)
    kernels.double(3)
    assert is_compiled(kernels.double)
