"""Camera overlays: projection as the devkit's, edges where the corners are, nothing from behind the camera."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from perceptkd.visualization import draw_cameras
from perceptkd.visualization.boxes import as_drawn
from perceptkd.visualization.cameras import BAR_PX, lidar_to_image, overlay_boxes, project
from perceptkd.visualization.figure import TRUTH_COLOUR, as_bgr

WIDTH, HEIGHT = 640, 360
CAM2IMG = np.array([[500.0, 0, WIDTH / 2], [0, 500.0, HEIGHT / 2], [0, 0, 1]])
# The camera looks along +y of the LiDAR frame: right = x, down = -z.
LIDAR2CAM = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
MATRIX = lidar_to_image(CAM2IMG, LIDAR2CAM)
CAR = (1.0, 15.0, -1.5, 4.0, 2.0, 1.5, 0.4)


def blank() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)


def green(image: np.ndarray) -> np.ndarray:
    """Pixels (column, row) in the colour of the truth."""
    return np.argwhere((image == as_bgr(TRUTH_COLOUR)).all(axis=2))[:, ::-1]


def test_projection_equals_the_devkit(make_boxes: Callable) -> None:
    from nuscenes.utils.data_classes import Box
    from nuscenes.utils.geometry_utils import view_points
    from pyquaternion import Quaternion

    x, y, bottom, length, width, height, yaw = CAR
    box = Box([x, y, bottom + height / 2], [width, length, height], Quaternion(axis=[0, 0, 1], radians=yaw))
    box.rotate(Quaternion(matrix=LIDAR2CAM[:3, :3]))
    expected = view_points(box.corners(), CAM2IMG, normalize=True)[:2].T
    pixels, depth = project(as_drawn(make_boxes([CAR])).corners[0], MATRIX)
    for corner, corner_depth in zip(pixels, depth):
        nearest = np.abs(expected - corner).sum(axis=1).argmin()
        assert corner == pytest.approx(expected[nearest], abs=1e-3)
        assert corner_depth == pytest.approx(box.corners()[2, nearest], abs=1e-5)


def test_image_augmentation_moves_pixels_not_rays() -> None:
    augmentation = np.eye(4)
    augmentation[:2, :2], augmentation[:2, 3] = [[0.5, 0.1], [-0.1, 0.5]], [7, -30]
    points = np.array([[1.0, 15.0, 0.0], [-3.0, 40.0, 1.0]])
    plain, _ = project(points, MATRIX)
    augmented, depth = project(points, lidar_to_image(CAM2IMG, LIDAR2CAM, augmentation))
    assert augmented == pytest.approx(plain @ augmentation[:2, :2].T + augmentation[:2, 3])
    assert depth == pytest.approx([15, 40])


def test_edges_span_the_projected_corners(make_boxes: Callable) -> None:
    image, boxes = blank(), as_drawn(make_boxes([CAR]))
    assert overlay_boxes(image, boxes, MATRIX, colour=TRUTH_COLOUR) == 1
    corners = project(boxes.corners[0], MATRIX)[0]
    drawn = green(image)
    assert drawn.min(axis=0) == pytest.approx(corners.min(axis=0), abs=2)
    assert drawn.max(axis=0) == pytest.approx(corners.max(axis=0), abs=2)


def test_boxes_behind_the_camera_are_not_drawn(make_boxes: Callable) -> None:
    image = blank()
    assert overlay_boxes(image, as_drawn(make_boxes([(1.0, -15.0, *CAR[2:])])), MATRIX, colour=TRUTH_COLOUR) == 0
    assert (image == 128).all()


def test_a_box_through_the_camera_plane_is_cut_off_there(make_boxes: Callable) -> None:
    """A long wall on the right passes the camera: without clipping its rear would fold over to the left side."""
    image = blank()
    wall = (4.0, 0.0, -1.0, 60.0, 0.5, 2.0, np.pi / 2)
    assert overlay_boxes(image, as_drawn(make_boxes([wall])), MATRIX, colour=TRUTH_COLOUR) == 1
    drawn = green(image)
    assert len(drawn) > 100
    assert drawn[:, 0].min() > WIDTH / 2


def test_views_are_laid_out_ahead_over_behind(tmp_path: Path, make_boxes: Callable) -> None:
    cameras = ["CAM_BACK", "CAM_FRONT_RIGHT", "CAM_FRONT", "CAM_BACK_LEFT", "CAM_FRONT_LEFT", "CAM_BACK_RIGHT"]
    turned = LIDAR2CAM @ np.diag([-1.0, -1.0, 1.0, 1.0])
    calibration = {
        camera: lidar_to_image(CAM2IMG, LIDAR2CAM if camera == "CAM_FRONT" else turned) for camera in cameras
    }
    truth, weak = make_boxes([CAR]), make_boxes([CAR], scores=[0.1])
    path = draw_cameras(
        tmp_path / "cameras.png",
        {camera: blank() for camera in cameras},
        {"truth": truth, "distilled": weak},
        calibration,
        class_names=["car"],
    )
    image = cv2.imread(str(path))
    assert image.shape == (BAR_PX + 2 * (HEIGHT + 4), 3 * (WIDTH + 4), 3)
    column, row = green(image[BAR_PX:]).T
    assert len(column) > 100
    assert (column // (WIDTH + 4) == 1).all()
    assert (row < HEIGHT).all()
    assert len(green(image[:BAR_PX])) > 50, "the legend shows the colour of the truth"


def test_cameras_without_calibration_are_named(tmp_path: Path, make_boxes: Callable) -> None:
    with pytest.raises(ValueError, match=r"differ in \['CAM_BACK'\]"):
        draw_cameras(
            tmp_path / "x.png",
            {"CAM_FRONT": blank(), "CAM_BACK": blank()},
            {"truth": make_boxes([CAR])},
            {"CAM_FRONT": MATRIX},
        )
