"""Choice of the implementation by environment."""

import pytest

from perceptkd.ops.sparse import SubMConv3d, chosen_backend
from perceptkd.ops.sparse import backend as module
from perceptkd.ops.sparse.backend import VARIABLE


@pytest.mark.parametrize("value", ["auto", "torch"])
def test_torch_is_the_backend(value, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert chosen_backend() == "torch"


def test_the_choice_is_printed_once_where_runs_log(monkeypatch, make_tensor) -> None:
    printed = []
    monkeypatch.setattr(module, "print_log", lambda message, logger: printed.append((message, logger)))
    monkeypatch.setenv(VARIABLE, "auto")
    module._log_choice.cache_clear()
    for _ in range(2):
        SubMConv3d(3, 3, 3).double()(make_tensor())
    assert printed == [("sparse convolution: torch (PERCEPTKD_SPARSE=auto)", "current")]


@pytest.mark.parametrize("value", ["spconv", "triton", "fast"])
def test_others_are_refused_by_name_when_a_layer_runs(value, monkeypatch, make_tensor) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=f"PERCEPTKD_SPARSE={value} is not available yet; set it to auto or one of"):
        SubMConv3d(3, 3, 3).double()(make_tensor())
