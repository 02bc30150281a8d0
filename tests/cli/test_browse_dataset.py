"""The command line of browse_dataset: what is drawn of which data, and mistakes as one sentence."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from perceptkd.cli.browse_dataset import main


@pytest.fixture
def fusion(repository: Path, tiny_world: Path, tmp_path: Path) -> str:
    """The fusion detector's config on the tiny world."""
    root = f"data_root = {str(tiny_world)!r}\n"
    train = "train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))\n"
    val = "val_dataloader = dict(dataset=dict(data_root=data_root))\n"
    path = tmp_path / "fusion.py"
    path.write_text(f"_base_ = [{str(repository / 'configs/bev/fusion_sim.py')!r}]\n{root}{train}{val}")
    return str(path)


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: cv2.imread(str(path)) for path in folder.glob("*.png")}


def test_draws_the_scene_and_all_cameras(fusion, tmp_path, capsys):
    assert main([fusion, "--index", "2", "--out", str(tmp_path / "out")]) == 0
    drawn = pictures(tmp_path / "out")
    assert set(drawn) == {"train_000002_bev.png", "train_000002_cameras.png"}
    assert drawn["train_000002_cameras.png"].shape[1] > 3 * 352  # three views side by side
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("2: ")]
    assert len(lines) == 1
    assert "points, 6 images" in lines[0]


def test_another_epoch_is_another_augmentation_and_the_same_one_repeats(fusion, tmp_path):
    for name, epoch in (("a", "0"), ("b", "0"), ("c", "1")):
        main([fusion, "--index", "0", "--epoch", epoch, "--out", str(tmp_path / name)])
    first, again, other = (pictures(tmp_path / name)["train_000000_bev.png"] for name in "abc")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_validation_split_is_drawn_with_its_truth(fusion, tmp_path, capsys):
    assert main([fusion, "--split", "val", "--count", "2", "--out", str(tmp_path / "out")]) == 0
    assert len(pictures(tmp_path / "out")) == 4
    assert "no boxes" not in capsys.readouterr().out


def test_a_data_set_of_images(tiny_folder, tmp_path):
    assert main([str(tiny_folder / "retinanet.py"), "--count", "1", "--out", str(tmp_path)]) == 0
    (drawn,) = pictures(tmp_path).values()
    assert drawn.max() > 0


def test_mistakes_are_one_sentence(fusion, tmp_path, capsys):
    for options, message in (
        (["--index", "99"], "--index 99: the data set has the samples 0 to 2"),
        (["--cfg-options", "train_dataloader.dataset.dataset.ann_file=gone.pkl"], "gone.pkl does not exist"),
        (["--split", "test", "--cfg-options", "test_dataloader=None"], "the config has no test_dataloader"),
    ):
        assert main([fusion, "--out", str(tmp_path / "out"), *options]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert message in error
    assert not (tmp_path / "out").exists()
