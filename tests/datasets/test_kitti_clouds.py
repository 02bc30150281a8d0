"""Clouds of KITTI: damaged files, and what the image shows of them."""

import numpy as np
import pytest

from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_clouds import cut_to_image, read_points, write_points
from perceptkd.datasets.simworld.kitti_rig import kitti_calibration

SIZE = (1242, 375)


def test_clouds_are_read_as_written(tmp_path):
    points = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    write_points(tmp_path / "a/b.bin", points)
    assert (read_points(tmp_path / "a/b.bin") == points).all()
    write_points(tmp_path / "a/none.bin", points[:0])
    assert read_points(tmp_path / "a/none.bin").shape == (0, 4)
    assert len(list((tmp_path / "a").iterdir())) == 2


@pytest.mark.parametrize("values", [np.zeros(7), np.full(8, np.nan), np.array([0, 0, np.inf, 0])])
def test_damaged_clouds_are_told(tmp_path, values):
    path = tmp_path / "000000.bin"
    path.write_bytes(values.astype(np.float32).tobytes())
    with pytest.raises(InputError, match=r"000000.bin is no cloud of four finite float32 per point"):
        read_points(path)


def test_points_in_the_image_are_those_that_project_into_it():
    calibration = kitti_calibration(SIZE)
    ahead, behind, aside, above = [20.0, 0.0, -1.0, 0.5], [-20.0, 0.0, 1.0, 0.5], [10.0, 20.0, 0, 0], [10.0, 0, 9, 0]
    edge = calibration_ray(calibration, pixel=(1241.4, 374.4), depth=30.0)
    beyond = calibration_ray(calibration, pixel=(1242.6, 100.0), depth=30.0)
    points = np.array([ahead, behind, aside, above, [*edge, 1.0], [*beyond, 1.0]], np.float32)
    assert (cut_to_image(points, calibration, SIZE) == points[[0, 4]]).all()
    assert cut_to_image(points[:0], calibration, SIZE).shape == (0, 4)


def calibration_ray(calibration, pixel: tuple[float, float], depth: float) -> np.ndarray:
    """The velodyne point [3] that is seen at a pixel."""
    homogeneous = np.array([pixel[0] * depth, pixel[1] * depth, depth])
    return np.linalg.solve(calibration.lidar2img[:3, :3], homogeneous - calibration.lidar2img[:3, 3])
