"""Weights of a student are found in checkpoints of every form, and have to fit exactly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from perceptkd.core.checkpoint import CheckpointError
from perceptkd.engine.checkpoints import load_student

State = dict[str, Tensor]


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


FORMS: dict[str, Callable[[State], dict]] = {
    "bare": lambda state: state,
    "mmengine": lambda state: {"state_dict": state},
    "ddp": lambda state: {"state_dict": under("module.", state)},
    "distill model": lambda state: {"state_dict": {**under("student.", state), "distillers.pkd.w": torch.zeros(1)}},
    "distill model in ddp": lambda state: {"state_dict": under("module.student.", state)},
    "model_state": lambda state: {"model_state": state},
    "lightning": lambda state: {"state_dict": under("model.", state)},
}


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_and_gives_its_meta(model: nn.Module, tmp_path: Path, form: str) -> None:
    expected = {key: torch.full_like(value, 2) for key, value in model.state_dict().items()}
    meta = {} if form == "bare" else {"meta": {"epoch": 3}}
    torch.save({**FORMS[form](expected), **meta}, tmp_path / "a.pth")
    assert load_student(model, tmp_path / "a.pth") == meta.get("meta", {})
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("form", FORMS)
def test_a_single_key_that_does_not_fit_is_refused_and_leaves_the_model_as_it_was(
    model: nn.Module, tmp_path: Path, form: str
) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: torch.full_like(value, 2) for key, value in before.items()}
    del state["0.bias"]
    state["0.scale"], state["0.weight"] = torch.zeros(1), torch.zeros(3, 5)
    torch.save(FORMS[form](state), tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load_student(model, tmp_path / "a.pth")
    for problem in ("1 missing: 0.bias", "1 unexpected: 0.scale", "1 of another shape: 0.weight"):
        assert problem in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_file_without_weights(model: nn.Module, tmp_path: Path) -> None:
    torch.save({"meta": {"epoch": 3}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_student(model, tmp_path / "a.pth")
