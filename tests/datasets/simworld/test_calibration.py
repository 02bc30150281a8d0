"""The rig is a valid one, close to a real nuScenes car's."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from perceptkd.datasets.simworld import CAMERAS, LIDAR, RIG


def test_sensor_frames_are_right_handed_rotations() -> None:
    for sensor in RIG.values():
        rotation = sensor.ego_from_sensor[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_cameras_look_where_their_names_say() -> None:
    heading = {name: np.degrees(np.arctan2(*RIG[name].ego_from_sensor[[1, 0], 2])) for name in CAMERAS}
    assert abs(heading["CAM_FRONT"]) < 2
    assert abs(abs(heading["CAM_BACK"]) - 180) < 2
    assert 45 < heading["CAM_FRONT_LEFT"] < 65
    assert -65 < heading["CAM_FRONT_RIGHT"] < -45
    for name in CAMERAS:
        assert RIG[name].ego_from_sensor[2, 1] < -0.99, "image rows must run downwards"


def test_intrinsics_scale_with_the_image() -> None:
    full, half = (RIG["CAM_FRONT"].intrinsics_at(size) for size in ((1600, 900), (800, 450)))
    np.testing.assert_allclose(half[:2] * 2, full[:2])
    with pytest.raises(ValueError, match="not a camera"):
        RIG[LIDAR].intrinsics_at((800, 450))


def test_rig_is_close_to_a_real_car(real_data: Path) -> None:
    files = sorted((real_data / "mmdet3d_demo" / "nuscenes").glob("*.pkl"))
    sample = pickle.loads(files[0].read_bytes())["data_list"][0]
    real = {name: np.array(sample["images"][name]["cam2ego"]) for name in CAMERAS}
    real[LIDAR] = np.array(sample["lidar_points"]["lidar2ego"])
    for name, pose in real.items():
        ours = RIG[name].ego_from_sensor
        turn = np.degrees(np.arccos(np.clip((np.trace(pose[:3, :3].T @ ours[:3, :3]) - 1) / 2, -1, 1)))
        assert turn < 1.5, (name, turn)
        assert np.linalg.norm(pose[:3, 3] - ours[:3, 3]) < 0.03, name
    for name in CAMERAS:
        intrinsics = np.array(sample["images"][name]["cam2img"])
        np.testing.assert_allclose(intrinsics, RIG[name].intrinsics, rtol=0.01, atol=0.5)
