"""Choice of the implementation by environment."""

import pytest

from perceptkd.ops.sparse import SubMConv3d, chosen_backend
from perceptkd.ops.sparse import backend as module
from perceptkd.ops.sparse.backend import VARIABLE


@pytest.mark.parametrize(
    ("value", "kernels", "device", "expected"),
    [
        ("auto", "on", "cpu", "torch"),
        ("auto", "on", "cuda", "triton"),
        ("auto", "off", "cuda", "torch"),
        ("torch", "on", "cuda", "torch"),
        ("triton", "off", "cuda", "triton"),
        ("spconv", "on", "cuda", "spconv"),
    ],
)
def test_the_device_and_the_variables_choose(value, kernels, device, expected, monkeypatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv(VARIABLE, value)
    monkeypatch.setenv("PERCEPTKD_TRITON", kernels)
    assert chosen_backend(device) == expected


def test_unknown_kernels_are_refused(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "auto")
    monkeypatch.setenv("PERCEPTKD_TRITON", "auto")
    with pytest.raises(ValueError, match="PERCEPTKD_TRITON is on or off, not 'auto'"):
        chosen_backend("cuda")


def test_triton_on_cpu_is_refused(monkeypatch, make_tensor) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="Triton kernels need CUDA tensors"):
        SubMConv3d(3, 3, 3).double()(make_tensor())


def test_the_choice_is_printed_once_where_runs_log(monkeypatch, make_tensor) -> None:
    printed = []
    monkeypatch.setattr(module, "print_log", lambda message, logger: printed.append((message, logger)))
    monkeypatch.setenv(VARIABLE, "auto")
    module._log_choice.cache_clear()
    for _ in range(2):
        SubMConv3d(3, 3, 3).double()(make_tensor())
    assert printed == [("sparse convolution on cpu: torch (PERCEPTKD_SPARSE=auto)", "current")]


@pytest.mark.parametrize("value", ["mmcv", "fast"])
def test_others_are_refused_by_name_when_a_layer_runs(value, monkeypatch, make_tensor) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=f"PERCEPTKD_SPARSE={value} does not exist; set it to auto or one of"):
        SubMConv3d(3, 3, 3).double()(make_tensor())
