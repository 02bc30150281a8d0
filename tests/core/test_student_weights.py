"""A student that starts from trained weights, which its config names beside it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict

from perceptkd.core import DistillModel, checkpoint
from perceptkd.core.checkpoint import CheckpointError
from perceptkd.core.errors import InputError
from perceptkd.registry import MODELS

STUDENT = {"type": "perceptkd.ToyDetector"}


def build(student: dict[str, Any], *, distill: bool = False) -> DistillModel:
    """A whole model as a config writes it."""
    return MODELS.build(
        {
            "type": "perceptkd.DistillModel",
            "student": student,
            "teachers": {"teacher": {"config": STUDENT, "allow_random": True}},
            "distillers": [{"type": "perceptkd.ToyDistiller"}],
            "distill": distill,
        }
    )


@pytest.mark.parametrize("distill", [True, False])
def test_a_student_starts_from_trained_weights(tmp_path: Path, distill: bool) -> None:
    torch.manual_seed(5)
    trained = MODELS.build(STUDENT).state_dict()
    torch.save({"state_dict": {f"student.{key}": value for key, value in trained.items()}}, tmp_path / "epoch_3.pth")
    student = {"config": STUDENT, "checkpoint": str(tmp_path / "epoch_*.pth")}
    model = build(student, distill=distill)
    assert not torch.equal(model.student.state_dict()["backbone.0.weight"], trained["backbone.0.weight"])
    model.init_weights()
    assert all(torch.equal(value, trained[key]) for key, value in model.student.state_dict().items())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"checkpoint": "right.pth", "modules": []}, InputError, "not one with config, checkpoint, modules"),
        ({"checkpoint": "none.pth"}, FileNotFoundError, "no checkpoint of the student at none.pth.*tools/train.py"),
        ({}, InputError, r"is dict\(config=, checkpoint=.*, not one with config"),
        ({"checkpoint": "wide.pth"}, CheckpointError, "does not fit the student"),
    ],
)
def test_weights_that_a_student_cannot_start_from_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(MODELS.build({**STUDENT, "channels": 6}).state_dict(), "wide.pth")
    torch.save(MODELS.build(STUDENT).state_dict(), "right.pth")
    with pytest.raises(error, match=message):
        build({"config": STUDENT, **options}).init_weights()


def test_what_trained_weights_lack_is_initialised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "TOLERATED_SHARE", 0.2)
    trained = MODELS.build(STUDENT).state_dict()
    lacking = trained.pop("bbox_head.score.bias")
    torch.save(trained, tmp_path / "partial.pth")
    student = {"config": STUDENT, "checkpoint": str(tmp_path / "partial.pth")}
    model = build(student)
    bias = model.student.bbox_head.score.bias.data
    monkeypatch.setattr(model.student, "init_weights", lambda: bias.fill_(7.0))
    model.init_weights()
    assert torch.equal(bias, torch.full_like(lacking, 7.0))
    assert all(torch.equal(model.student.state_dict()[key], value) for key, value in trained.items())


def test_load_from_refuses_the_weights_of_a_plain_detector() -> None:
    model = build(STUDENT)
    with pytest.raises(InputError, match=r"student=dict\(config=, checkpoint=\)"):
        load_state_dict(model, model.student.state_dict())
    load_state_dict(model, model.state_dict())
