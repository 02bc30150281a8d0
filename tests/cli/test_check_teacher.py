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
    assert "has no checkpoint at" in capsys.readouterr().err
