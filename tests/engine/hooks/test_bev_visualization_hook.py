"""Pictures of a test leave training alone; mistakes end in a sentence. What is drawn: tests/cli/test_test.py."""

from types import SimpleNamespace

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from perceptkd.core.errors import InputError
from perceptkd.engine.hooks.bev_visualization_hook import BEVVisualizationHook, record_of
from perceptkd.visualization import frames
from perceptkd.visualization.frames import read_cameras, read_points, truth_of


def sample_with(**metainfo: object) -> Det3DDataSample:
    sample = Det3DDataSample(metainfo=metainfo)
    sample.pred_instances_3d = InstanceData(bboxes_3d=LiDARInstance3DBoxes(torch.zeros(1, 7)))
    return sample


def test_it_has_no_part_in_training() -> None:
    assert set(BEVVisualizationHook().get_triggered_stages()) == {"before_test", "after_test_iter"}


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="interval=0 must be 1 or more"):
        BEVVisualizationHook(interval=0)


def test_samples_of_joined_data_sets_are_refused() -> None:
    dataset = SimpleNamespace(get_data_info=lambda index: {"token": f"token-{index}"})
    assert record_of(dataset, sample_with(sample_idx=3, token="token-3")) == {"token": "token-3"}
    with pytest.raises(InputError, match="several data sets are joined"):
        record_of(dataset, sample_with(sample_idx=3, token="token-0"))


@pytest.mark.parametrize("sample", [sample_with(sample_idx=3), Det3DDataSample(metainfo={"token": "a"})])
def test_samples_of_other_detectors_are_refused(sample: Det3DDataSample) -> None:
    with pytest.raises(InputError, match="samples of perceptkd"):
        record_of(SimpleNamespace(), sample)


def test_what_is_not_there_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(frames, "print_log", lambda message, **options: said.append(message))
    info = {
        "token": "a",
        "lidar_points": {"lidar_path": "gone.bin", "num_pts_feats": 5},
        "images": {"CAM_FRONT": {"img_path": "gone.jpg"}, "CAM_BACK": {}},
    }
    assert read_points(info) is None
    assert read_cameras(info) == ({}, {})
    assert [message.split(":")[0] for message in said] == ["gone.bin is not there", "gone.jpg is not there"]
    assert truth_of(sample_with()) is None
