"""Choice of the implementation by environment."""

import pytest

from perceptkd.ops.sparse import SubMConv3d, chosen_backend
from perceptkd.ops.sparse.backend import VARIABLE


@pytest.mark.parametrize("value", ["auto", "torch"])
def test_torch_is_the_backend(value, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert chosen_backend() == "torch"


@pytest.mark.parametrize("value", ["spconv", "triton", "fast"])
def test_others_are_refused_by_name_when_a_layer_runs(value, monkeypatch, make_tensor) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=f"PERCEPTKD_SPARSE={value} is not available yet; set it to auto or one of"):
        SubMConv3d(3, 3, 3).double()(make_tensor())
