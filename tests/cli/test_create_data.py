"""The command line of create_data."""

import json
import subprocess
import sys

import pytest

from perceptkd.cli.create_data import main

TINY = ["--scenes", "1", "--keyframes", "1", "--no-sweeps", "--image-size", "64x36", "--workers", "1"]


def test_writes_a_mini_world_and_says_where(tmp_path, capsys):
    assert main(["simworld", "--out", str(tmp_path), *TINY]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "nuscenes/nuscenes_infos_mini_train.pkl")
    manifest = json.loads((tmp_path / "nuscenes/world.json").read_text())
    assert manifest["version"] == "v1.0-mini"
    assert manifest["image_size"] == [64, 36]
    assert not (tmp_path / "nuscenes/sweeps").exists()


def test_writes_splits_with_trainval_names(tmp_path, capsys):
    options = ["--splits", "train=1", "tune=1", "report=1", "--keyframes", "1", "--image-size", "64x36"]
    assert main(["simworld", "--out", str(tmp_path), *options, "--sweeps", "0", "--workers", "1"]) == 0
    root = tmp_path / "nuscenes"
    splits = json.loads((root / "v1.0-trainval/splits.json").read_text())
    assert list(splits) == ["train", "tune", "report"]
    assert len(capsys.readouterr().out.split()) == 3
    assert {path.name for path in root.glob("*.pkl")} == {f"nuscenes_infos_{split}.pkl" for split in splits}


def test_makes_infos_of_existing_tables(tmp_path, capsys):
    main(["simworld", "--out", str(tmp_path), "--scenes", "2", *TINY[2:]])
    before = {path: path.read_bytes() for path in (tmp_path / "nuscenes").glob("*.pkl")}
    for path in before:
        path.unlink()
    assert main(["nuscenes", "--root", str(tmp_path / "nuscenes"), "--version", "v1.0-mini"]) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "nuscenes").glob("*.pkl")} == before


def test_writes_a_kitti_world_and_its_infos_again(tmp_path, capsys):
    options = ["--format", "kitti", "--splits", "train=1", "--keyframes", "1", "--image-size", "64x36"]
    assert main(["simworld", "--out", str(tmp_path), *options, "--workers", "1"]) == 0
    root = tmp_path / "kitti"
    infos = [root / f"kitti_infos_{split}.pkl" for split in ("train", "trainval")]
    assert capsys.readouterr().out.split() == [str(path) for path in infos]
    before = {path: path.read_bytes() for path in root.glob("*.pkl")}
    assert len(before) == 3
    for path in before:
        path.unlink()
    assert main(["kitti", "--root", str(root), "--splits", "train", "trainval"]) == 0
    assert {path: path.read_bytes() for path in root.glob("*.pkl")} == before


def test_writes_a_semantickitti_world_and_its_infos_again(tmp_path, capsys):
    options = ["--format", "semantickitti", "--splits", "report=1", "--keyframes", "1", "--workers", "1"]
    assert main(["simworld", "--out", str(tmp_path), *options]) == 0
    path = tmp_path / "semantickitti/semantickitti_infos_test.pkl"
    assert capsys.readouterr().out.strip() == str(path)
    content = path.read_bytes()
    path.unlink()
    assert main(["semantickitti", "--root", str(path.parent)]) == 0
    assert path.read_bytes() == content


def test_lost_info_files_are_made_again(tmp_path):
    main(["simworld", "--out", str(tmp_path), *TINY])
    path = tmp_path / "nuscenes/nuscenes_infos_mini_train.pkl"
    content = path.read_bytes()
    path.unlink()
    assert main(["simworld", "--out", str(tmp_path), *TINY]) == 0
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nuscenes", "--root", "nowhere"], "no nuScenes tables in nowhere/v1.0-trainval"),
        (["simworld", "--out", "x", "--scenes", "11"], "v1.0-mini has 1 to 10 scenes, got 11"),
        (["simworld", "--out", "x", "--scenes", "1", "--splits", "train=1"], "--scenes is for v1.0-mini"),
        (["simworld", "--out", "x", "--version", "v1.0-mini", "--splits", "train=1"], "leave out --splits"),
        (["simworld", "--out", "x", "--image-size", "8x8"], "at least 16 pixels"),
        (["kitti", "--root", "nowhere"], "no KITTI in nowhere"),
        (["semantickitti", "--root", "nowhere"], "nowhere/sequences/00/velodyne has no clouds"),
        (["simworld", "--out", "x", "--format", "kitti", "--sweeps", "1"], "kitti has no sweeps"),
        (["simworld", "--out", "x", "--format", "kitti", "--scenes", "1"], "--version and --scenes are for nuscenes"),
        (["simworld", "--out", "x", "--format", "kitti", "--splits", "val=1"], "kitti has no place for split val"),
        (["simworld", "--out", "x", "--format", "semantickitti", "--image-size", "64x36"], "has no images"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(options) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [["--image-size", "800"], ["--image-size", "axb"], ["--splits", "train"], ["--splits", "train=x"]]
)
def test_options_that_cannot_be_read(tmp_path, capsys, options):
    with pytest.raises(SystemExit):
        main(["simworld", "--out", str(tmp_path), *options])
    assert "such as" in capsys.readouterr().err


def test_the_help_names_the_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["simworld", "--help"])
    shown = capsys.readouterr().out
    for default in (
        "nuscenes",
        "40",
        "800x450; kitti: 1242x375",
        "0",
        "train=16 tune=6 report=6",
        "the machine's cores",
    ):
        assert f"(default: {default})" in shown
    assert "(default: 9; semantickitti, which labels them: 0)" in shown


def test_another_seed_is_refused_in_one_sentence(tmp_path, capsys):
    main(["simworld", "--out", str(tmp_path), *TINY])
    assert main(["simworld", "--out", str(tmp_path), *TINY, "--seed", "1"]) == 2
    assert "holds another world" in capsys.readouterr().err
    assert main(["simworld", "--out", str(tmp_path), *TINY, "--seed", "1", "--overwrite"]) == 0


def test_the_tool_runs(repository):
    run = [sys.executable, str(repository / "tools/create_data.py"), "-h"]
    assert "simworld" in subprocess.run(run, capture_output=True, text=True, check=True).stdout
