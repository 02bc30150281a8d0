"""Frames for pictures hold every sensor, whichever of them the student's own evaluation loads."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from perceptkd.cli.predictions import Frames
from perceptkd.registry import MODELS


@pytest.fixture
def demo_config(tiny_world: Path, tmp_path: Path, repository: Path) -> Iterator[Path]:
    """The config of the demo, with the tiny world as its validation data."""
    path = tmp_path / "demo.py"
    base = repository / "configs/unidistill/unidistill_lidar2camera_demo.py"
    path.write_text(
        f"_base_ = [{str(base)!r}]\n"
        f"held_out = dict(data_root={str(tiny_world)!r}, ann_file='nuscenes_infos_mini_val.pkl')\n"
        "val_dataloader = dict(dataset=held_out)\n"
        "model = dict(distill=False)\n"
    )
    yield path
    DefaultScope._instance_dict.clear()


def test_a_frame_shows_what_all_sensors_saw(demo_config: Path) -> None:
    frames = Frames(str(demo_config))
    assert frames.area_m == (-28.8, -28.8, 28.8, 28.8)
    (index,) = frames.busiest(2)  # all three frames are neighbours
    frame = frames[index]
    assert frame.points.shape[1] >= 3
    assert len(frame.truth.bboxes_3d) == len(frame.truth.labels_3d) > 0
    assert len(frame.images) == len(frame.calibration) == 6
    assert all(image.shape == (112, 200, 3) for image in frame.images.values())


@pytest.mark.parametrize("modality", ["camera", "lidar_voxel"])
def test_student_and_teacher_predict_on_the_same_frames(
    demo_config: Path, tmp_path: Path, repository: Path, modality: str
) -> None:
    frames = Frames(str(demo_config))
    run = tmp_path / "run"
    run.mkdir()
    config = Config.fromfile(repository / f"configs/bev/{modality}_sim.py")
    config.dump(run / "config.py")
    torch.save({"state_dict": MODELS.build(config.model).state_dict()}, run / "epoch_1.pth")
    (found,) = frames.predict(run, run / "epoch_1.pth", [0])
    assert len(found.bboxes_3d) == len(found.scores_3d) == len(found.labels_3d)
