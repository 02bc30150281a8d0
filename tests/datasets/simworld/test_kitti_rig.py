"""The rig of a KITTI car, and its calibration file: points land on the pixels that show them."""

import numpy as np
import pytest

from perceptkd.datasets.kitti_files import to_square
from perceptkd.datasets.simworld import LIDAR, CameraFrame, LidarSweep, Scene, render_camera
from perceptkd.datasets.simworld.kitti_rig import CAMERA, KITTI_RIG, PIXEL_CENTRE, kitti_calibration

INSTANT = 6.0
SIZE = (621, 188)


@pytest.fixture(scope="module")
def picture(scene: Scene) -> CameraFrame:
    return render_camera(scene, CAMERA, INSTANT, SIZE, rig=KITTI_RIG)


def test_sensors_are_where_kitti_has_them() -> None:
    velo, camera = KITTI_RIG[LIDAR].ego_from_sensor, KITTI_RIG[CAMERA].ego_from_sensor
    np.testing.assert_array_equal(velo[:3, :3], np.eye(3))  # x forward, y left, z up
    assert velo[2, 3] == 1.73
    assert camera[2, 3] == pytest.approx(1.65, abs=0.01)
    assert camera[0, 3] - velo[0, 3] == pytest.approx(0.27, abs=0.01)
    assert camera[1, 3] == pytest.approx(0.06, abs=0.01)  # left of the middle
    for pose in (velo, camera):
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
    assert camera[:3, 2] @ [1, 0, 0] > 0.999
    assert camera[:3, 1] @ [0, 0, -1] > 0.999


def test_the_calibration_file_says_where_camera_2_is() -> None:
    calibration = kitti_calibration((1242, 375))
    velo_from_camera = np.linalg.inv(KITTI_RIG[LIDAR].ego_from_sensor) @ KITTI_RIG[CAMERA].ego_from_sensor
    intrinsics = KITTI_RIG[CAMERA].intrinsics.copy()
    intrinsics[:2, 2] -= PIXEL_CENTRE
    expected = to_square(intrinsics) @ np.linalg.inv(velo_from_camera)
    np.testing.assert_allclose(calibration.lidar2img, expected, atol=1e-9)


def test_no_matrix_of_the_chain_can_be_left_out() -> None:
    """Leaving out R0_rect, or the offset in P2, moves points by pixels: who forgets it will see it."""
    calibration = kitti_calibration((1242, 375))
    point = np.array([20.0, 3.0, -1.0, 1.0])
    without_offset = calibration.projections[2].copy()
    without_offset[:, 3] = 0
    seen = [
        calibration.projections[2] @ calibration.lidar2cam @ point,
        calibration.projections[2] @ to_square(calibration.velo_to_cam) @ point,
        without_offset @ calibration.lidar2cam @ point,
    ]
    pixels = np.array([pixel[:2] / pixel[2] for pixel in seen])
    assert (np.linalg.norm(pixels[1:] - pixels[0], axis=1) > 2).all()


def test_points_land_on_the_pixels_that_show_their_object(kitti_sweep: LidarSweep, picture: CameraFrame) -> None:
    pixels, depth = kitti_calibration(SIZE).project(kitti_sweep.points)
    cells = np.round(pixels).astype(int)
    inside = (depth > 0) & (cells >= 0).all(1) & (cells < SIZE).all(1)
    columns, rows = cells[inside].T
    assert inside.sum() > 8000
    # They are 0.3 m apart, so that each sees a little of what the other does not.
    assert (picture.instance[rows, columns] == kitti_sweep.instance_id[inside]).mean() > 0.97
    error = np.abs(picture.depth[rows, columns] / depth[inside] - 1)
    assert np.median(error) < 0.01
