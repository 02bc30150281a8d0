"""The command line of ``create_data custom``: what it prints, and mistakes as one sentence."""

from pathlib import Path

import numpy as np
import pytest

from perceptkd.cli.create_data import main

HEADER = "frame,class,x,y,z,length,width,height,yaw"


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """The arguments for ten clouds of one box each, one point of them NaN."""
    rows, cloud = [HEADER], np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    cloud[0, 0] = np.nan
    (tmp_path / "clouds").mkdir()
    for number in range(10):
        np.save(tmp_path / f"clouds/{number}.npy", cloud)
        rows.append(f"{number},box,0,0,0,2.2,2.1,2.5,0")
    (tmp_path / "boxes.csv").write_text("\n".join(rows) + "\n")
    names = ("--points", "clouds"), ("--boxes", "boxes.csv"), ("--out", "out")
    return ["custom", *(part for option, name in names for part in (option, str(tmp_path / name)))]


def test_says_what_is_in_the_data_and_where_it_is(options, tmp_path, capsys):
    assert main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["train: 8 frames", "val: 2 frames", "10 points were NaN or infinite and are left out"]
    assert lines[4].split() == ["box", "10", "0", "2.20", "x", "2.10", "x", "2.50"]
    assert lines[5:] == [str(tmp_path / f"out/custom_infos_{split}.pkl") for split in ("train", "val")]


def test_the_same_command_gives_the_same_bytes(options, tmp_path):
    main(options)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert main(options) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_frames_in_no_split_are_told_of(options, tmp_path, capsys):
    (tmp_path / "few.txt").write_text("3\n7\n")
    assert main([*options, "--splits", f"test={tmp_path / 'few.txt'}"]) == 0
    assert "8 frames are in no split" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").glob("*.pkl")] == ["custom_infos_test.pkl"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--splits", "train=few.txt", "--val-fraction", "0.2"], "leave out --val-fraction"),
        (["--classes", "a", "b", "a"], "--classes names a class twice"),
        (["--classes", "car"], "boxes.csv, line 2: the class 'box' is none of ['car']"),
        (["--val-fraction", "0"], "leaves a split without any frame"),
        (["--points", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(options, more, message, capsys, tmp_path):
    assert main([*options, *more]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert error.count("\n") == 0
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_split_that_cannot_be_read(options, capsys):
    with pytest.raises(SystemExit):
        main([*options, "--splits", "train.txt"])
    assert "no split such as train=train.txt" in capsys.readouterr().err
