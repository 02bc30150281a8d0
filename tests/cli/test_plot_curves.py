"""plot_curves.py draws work directories and explains what it cannot read."""

import json
from pathlib import Path

import pytest

from perceptkd.cli.plot_curves import main


def test_draws_the_curves_of_a_work_directory(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scalars = tmp_path / "run" / "20240101_000000" / "vis_data" / "scalars.json"
    scalars.parent.mkdir(parents=True)
    scalars.write_text("".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 50)))
    out = tmp_path / "curves.png"
    assert main([f"control={tmp_path / 'run'}", "--out", str(out)]) == 0
    assert out.stat().st_size > 5000
    assert str(out) in capsys.readouterr().out


def test_a_folder_without_scalars_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    assert "no vis_data/scalars.json" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_two_runs_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["a=x", "a=y"]) == 2
    assert "NAME=y" in capsys.readouterr().err


def test_an_unknown_quantity_lists_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scalars = tmp_path / "scalars.json"
    scalars.write_text('{"step": 1, "loss": 2.0}\n')
    assert main([str(scalars), "--keys", "acc", "--out", str(tmp_path / "x.png")]) == 2
    assert "['loss', 'step']" in capsys.readouterr().err
