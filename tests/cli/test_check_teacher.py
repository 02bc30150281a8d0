"""Contract of the core, line 13: a teacher is loaded whole or named as broken, and scored beside its record."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from perceptkd.cli.check_teacher import main


@pytest.fixture
def teacher_copy(teacher_run: Path, tmp_path: Path) -> Path:
    """The teacher's checkpoint and record, to spoil."""
    for name in ("epoch_1.pth", "metrics.json"):
        shutil.copy(teacher_run / name, tmp_path / name)
    return tmp_path / "epoch_1.pth"


def check(tiny_folder: Path, checkpoint: Path, *arguments: str) -> int:
    option = f"model.teachers.big.checkpoint={checkpoint}"
    work_dir = str(checkpoint.parent / "log")
    return main([str(tiny_folder / "distill.py"), "--work-dir", work_dir, *arguments, "--cfg-options", option])


def test_whole_and_as_good_as_recorded(tiny_folder: Path, teacher_copy: Path, capsys: pytest.CaptureFixture) -> None:
    assert check(tiny_folder, teacher_copy) == 0
    out = capsys.readouterr().out
    assert "teacher 'big'" in out
    assert "keys match" in out
    recorded = json.loads((teacher_copy.parent / "metrics.json").read_text())["epoch_1.pth"]
    value = f"{recorded['coco/bbox_mAP_50']:.4f}"
    (line,) = [line.split() for line in out.splitlines() if line.split()[:1] == ["coco/bbox_mAP_50"]]
    assert line[1:] == [value, value]


def test_worse_than_recorded(tiny_folder: Path, teacher_copy: Path, capsys: pytest.CaptureFixture) -> None:
    record = {"epoch_1.pth": {"coco/bbox_mAP_50": 0.9}}
    (teacher_copy.parent / "metrics.json").write_text(json.dumps(record))
    assert check(tiny_folder, teacher_copy) == 1
    assert "0.9000  lower than recorded" in capsys.readouterr().out


def test_without_a_record(tiny_folder: Path, teacher_copy: Path, capsys: pytest.CaptureFixture) -> None:
    (teacher_copy.parent / "metrics.json").unlink()
    assert check(tiny_folder, teacher_copy) == 0
    assert "no metrics are recorded in" in capsys.readouterr().out


def without_a_key(state: dict) -> dict:
    """Less than 1 % of the keys are missing, which training tolerates."""
    return {key: value for key, value in state.items() if key != "neck.fpn_convs.0.conv.bias"}


FORMS = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state},
    "model_state": lambda state: {"model_state": state},
    "lightning": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 1},
    "ddp": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "one key is missing": lambda state: {"state_dict": without_a_key(state)},
}


@pytest.mark.parametrize("form", FORMS)
def test_whatever_training_loads_is_evaluated(
    tiny_folder: Path, teacher_copy: Path, capsys: pytest.CaptureFixture, form: str
) -> None:
    torch.save(FORMS[form](torch.load(teacher_copy, weights_only=False)["state_dict"]), teacher_copy)
    status = check(tiny_folder, teacher_copy)
    out = capsys.readouterr().out
    assert "coco/bbox_mAP_50" in out
    if form == "one key is missing":
        assert "1 missing: neck.fpn_convs.0.conv.bias" in out
    else:
        assert status == 0


def test_a_partial_teacher_is_evaluated_where_the_config_allows_it(
    tiny_folder: Path, teacher_copy: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoint = torch.load(teacher_copy, weights_only=False)
    kept = {key: value for key, value in checkpoint["state_dict"].items() if not key.startswith("neck.")}
    torch.save({**checkpoint, "state_dict": kept}, teacher_copy)
    assert check(tiny_folder, teacher_copy) == 2
    check_partial = [f"model.teachers.big.{key}" for key in (f"checkpoint={teacher_copy}", "allow_partial=True")]
    work_dir = str(teacher_copy.parent / "log")
    main([str(tiny_folder / "distill.py"), "--work-dir", work_dir, "--cfg-options", *check_partial])
    assert "coco/bbox_mAP_50" in capsys.readouterr().out


def test_a_teacher_at_an_address(
    tiny_folder: Path, teacher_copy: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(path: str, map_location: str) -> dict:
        assert path == "https://example.org/teacher.pth"
        return torch.load(teacher_copy, weights_only=False)

    monkeypatch.setattr("perceptkd.core.checkpoint.CheckpointLoader.load_checkpoint", download)
    address = "model.teachers.big.checkpoint=https://example.org/teacher.pth"
    work_dir = str(teacher_copy.parent / "log")
    assert main([str(tiny_folder / "distill.py"), "--work-dir", work_dir, "--cfg-options", address]) == 0
    out = capsys.readouterr().out
    assert "teacher 'big': https://example.org/teacher.pth" in out
    assert "no metrics are recorded in" in out


def test_an_unknown_option_of_a_teacher_is_one_sentence(
    tiny_folder: Path, teacher_copy: Path, capsys: pytest.CaptureFixture
) -> None:
    option = "model.teachers.big.checkpont=x.pth"
    assert main([str(tiny_folder / "distill.py"), "--cfg-options", option]) == 2
    assert "Teacher 'big' has no option 'checkpont'; it has config, checkpoint, " in capsys.readouterr().err


def test_missing_keys_stop_it_and_are_named(
    tiny_folder: Path, teacher_copy: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoint = torch.load(teacher_copy, weights_only=False)
    neck = [key for key in checkpoint["state_dict"] if key.startswith("neck.")]
    for key in neck:
        del checkpoint["state_dict"][key]
    torch.save(checkpoint, teacher_copy)
    assert check(tiny_folder, teacher_copy, "--no-eval") == 2
    error = capsys.readouterr().err
    assert f"{len(neck)} missing" in error
    assert neck[0] in error


def test_no_eval_does_not_evaluate(tiny_folder: Path, teacher_copy: Path, capsys: pytest.CaptureFixture) -> None:
    assert check(tiny_folder, teacher_copy, "--no-eval", "--teacher", "big") == 0
    assert "coco/bbox_mAP" not in capsys.readouterr().out


def test_nothing_to_check(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tiny_folder / "retinanet.py")]) == 2
    assert "it has: none" in capsys.readouterr().err
    assert main([str(tiny_folder / "distill.py")]) == 2
    assert "has no checkpoint to check" in capsys.readouterr().err
    assert check(tiny_folder, tmp_path / "gone.pth") == 2
    assert "There is no checkpoint of teacher" in capsys.readouterr().err
