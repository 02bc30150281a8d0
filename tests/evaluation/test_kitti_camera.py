"""Predictions in the LiDAR frame as the camera sees them."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceptkd.datasets.kitti_files import camera_boxes_to_lidar
from perceptkd.evaluation.kitti_boxes import TYPES, KittiTable
from perceptkd.evaluation.kitti_camera import NEAR_M, boxes_to_camera, project_boxes

WIDTH, HEIGHT, FOCAL_PX = 1200, 400, 700.0
CAM2IMG = np.array([[FOCAL_PX, 0, 600, 40], [0, FOCAL_PX, 200, 0.2], [0, 0, 1, 0.003], [0, 0, 0, 1]])
#: x right, y down, z forward from x forward, y left, z up, and 0.3 m behind the camera, 0.1 m above.
LIDAR2CAM = np.array([[0, -1.0, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, -0.3], [0, 0, 0, 1]])
INFO: dict[str, Any] = {
    "sample_idx": 7,
    "images": {"CAM2": {"lidar2cam": LIDAR2CAM, "cam2img": CAM2IMG, "width": WIDTH, "height": HEIGHT}},
}
SIZES = np.array([[WIDTH, HEIGHT]])


def convert(
    boxes: Any, scores: Any = None, labels: Any = None, *, info: Any = INFO, classes: Any = ("Car",)
) -> KittiTable:
    boxes = np.array(boxes, np.float32).reshape(-1, 7)
    return boxes_to_camera(
        boxes,
        np.full(len(boxes), 0.5, np.float32) if scores is None else np.array(scores, np.float32),
        np.zeros(len(boxes), np.int64) if labels is None else np.array(labels),
        np.zeros(len(boxes), np.int64),
        infos=[info],
        classes=classes,
        camera="CAM2",
    )


def test_a_car_ahead():
    """10.3 m ahead, front towards the camera's right: bounds worked out by hand."""
    found = convert([[10.3, 0, -1.7, 4, 2, 1.5, -np.pi / 2]])
    np.testing.assert_allclose(found.box, [[0, 1.6, 10, 4, 1.5, 2, 0]], atol=1e-6)
    near = 9 + 0.003
    expected = [
        [
            (FOCAL_PX * -2 + 600 * 9 + 40) / near,
            (FOCAL_PX * 0.1 + 200 * 11 + 0.2) / 11.003,
            (FOCAL_PX * 2 + 600 * 9 + 40) / near,
            (FOCAL_PX * 1.6 + 200 * 9 + 0.2) / near,
        ]
    ]
    np.testing.assert_allclose(found.bbox, expected, rtol=1e-5)
    assert found.alpha == pytest.approx(0.0, abs=1e-6)
    assert (found.truncation, found.occlusion, found.score) == (-1, -1, 0.5)
    assert TYPES[found.label[0]] == "Car"


def test_alpha_is_seen_from_the_lidar():
    """30 degrees to the left of the LiDAR and driving away along the ray: seen from behind, as straight ahead."""
    aside = 10 * np.tan(np.pi / 6)
    ahead, left = convert([[10, 0, -1.7, 4, 2, 1.5, 0], [10, aside, -1.7, 4, 2, 1.5, np.pi / 6]]).alpha
    assert ahead == pytest.approx(left) == pytest.approx(-np.pi / 2)


@given(
    location=st.tuples(st.floats(-20, 20), st.floats(0, 3), st.floats(-5, 60)),
    size=st.tuples(st.floats(0.3, 15), st.floats(0.3, 4), st.floats(0.3, 3)),
    rotation_y=st.floats(-3.1, 3.1),
)
@settings(max_examples=60, deadline=None)
def test_boxes_go_to_the_lidar_frame_and_back(location, size, rotation_y):
    box = np.array([[*location, *size, rotation_y]])
    found = convert(camera_boxes_to_lidar(box, LIDAR2CAM))
    _, is_seen = project_boxes(box, CAM2IMG[None], SIZES)
    assert len(found) == is_seen.sum()
    np.testing.assert_allclose(found.box[:, :6], box[is_seen, :6], atol=1e-4)
    np.testing.assert_allclose(np.cos(found.box[:, 6] - rotation_y), 1, atol=1e-6)


@given(
    place=st.tuples(st.floats(-8, 8), st.floats(0, 3), st.floats(-4, 12)),
    rotation_y=st.floats(-3.1, 3.1),
    seed=st.integers(0, 100),
)
@settings(max_examples=100, deadline=None)
def test_image_boxes_are_those_of_what_is_in_front(place, rotation_y, seed):
    """Against points all over the box, of which those before the camera are projected."""
    box = np.array([[*place, 4.0, 1.5, 2.0, rotation_y]])
    inside = np.random.default_rng(seed).uniform(-0.5, 0.5, (4000, 3))
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 3)
    along, up, across = (np.concatenate([inside, corners]) * [4.0, 1.5, 2.0]).T
    cos, sin = np.cos(rotation_y), np.sin(rotation_y)
    points = np.array(place) + np.column_stack([cos * along + sin * across, up - 0.75, cos * across - sin * along])
    points = points[points[:, 2] >= NEAR_M]
    bounds, is_seen = project_boxes(box, CAM2IMG[None], SIZES)
    pixels = points @ CAM2IMG[:3, :3].T + CAM2IMG[:3, 3]
    pixels = pixels[:, :2] / pixels[:, 2:]
    if not is_seen:
        assert not ((pixels > 0) & (pixels < SIZES - 1)).all(axis=1).any()
        return
    clipped = np.clip(pixels, 0, SIZES[0] - 1)
    assert (clipped >= bounds[0, :2] - 1e-6).all()
    assert (clipped <= bounds[0, 2:] + 1e-6).all()
    if place[2] > 4:  # all in front: the corners are the extremes
        np.testing.assert_allclose(bounds[0], [*clipped.min(0), *clipped.max(0)], atol=1e-6)


def test_a_box_that_reaches_behind_the_camera_ends_at_the_border():
    """Alongside, from 3 m behind to 5 m ahead: corners behind would appear on the other side."""
    box = np.array([[3.0, 1.6, 1.0, 8.0, 3.0, 2.0, np.pi / 2]])
    bounds, is_seen = project_boxes(box, CAM2IMG[None], SIZES)
    assert is_seen.all()
    left = (FOCAL_PX * 2 + 600 * 5 + 40) / 5.003
    np.testing.assert_allclose(bounds[0], [left, 0, WIDTH - 1, HEIGHT - 1], atol=1e-9)


@pytest.mark.parametrize(
    "box",
    [
        [0.0, 1.6, -10.0, 4.0, 1.5, 2.0, 0.0],  # behind
        [30.0, 1.6, 10.0, 4.0, 1.5, 2.0, 0.0],  # right of the image
        [-30.0, 1.6, 10.0, 4.0, 1.5, 2.0, 0.0],
        [0.0, 20.0, 10.0, 4.0, 1.5, 2.0, 0.0],  # below
        [0.0, -20.0, 10.0, 4.0, 1.5, 2.0, 0.0],
    ],
)
def test_what_the_image_does_not_show_is_left_out(box):
    _, is_seen = project_boxes(np.array([box]), CAM2IMG[None], SIZES)
    assert not is_seen.any()
    assert len(convert(camera_boxes_to_lidar(np.array([box]), LIDAR2CAM))) == 0


def test_no_boxes():
    found = convert(np.empty((0, 7)))
    assert (len(found), found.bbox.shape) == (0, (0, 4))


@pytest.mark.parametrize(("boxes", "scores"), [([[np.nan] * 7], [0.5]), ([[10.0, 0, 0, 4, 2, 1, 0]], [np.inf])])
def test_diverged_predictions(boxes, scores):
    with pytest.raises(
        ValueError, match="sample 7: a predicted box or score is NaN or infinite; the model has diverged"
    ):
        convert(boxes, scores)


@pytest.mark.parametrize("label", [-1, 1])
def test_labels_that_no_class_has(label):
    with pytest.raises(ValueError, match=rf"sample 7: a predicted label is {label}, and .* has 1 names \(Car\)"):
        convert([[10.0, 0, 0, 4, 2, 1, 0]], labels=[label])


def test_classes_that_kitti_does_not_know():
    with pytest.raises(ValueError, match=r"dataset_meta\['classes'\] has car, Bus, which KITTI does not know"):
        convert([[10.0, 0, 0, 4, 2, 1, 0]], classes=("car", "Bus"))


@pytest.mark.parametrize("field", ["lidar2cam", "cam2img", "width", "height"])
def test_missing_calibration(field):
    info = copy.deepcopy(INFO)
    del info["images"]["CAM2"][field]
    with pytest.raises(ValueError, match=f"sample 7: the calibration of CAM2 has no '{field}'"):
        convert([[10.0, 0, 0, 4, 2, 1, 0]], info=info)


def test_missing_camera():
    with pytest.raises(ValueError, match="sample 7: the calibration of CAM2 has no 'CAM2'"):
        convert([[10.0, 0, 0, 4, 2, 1, 0]], info={**INFO, "images": {}})


@pytest.mark.parametrize("field", ["lidar2cam", "cam2img"])
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_singular_calibration(field, value):
    info = copy.deepcopy(INFO)
    info["images"]["CAM2"][field][0] = value
    with pytest.raises(ValueError, match="sample 7: lidar2cam of CAM2 is no rotation, or cam2img is singular"):
        convert([[10.0, 0, 0, 4, 2, 1, 0]], info=info)


def test_calibration_of_another_shape():
    info = copy.deepcopy(INFO)
    info["images"]["CAM2"]["cam2img"] = CAM2IMG[:3, :3]
    with pytest.raises(ValueError, match=r"must be \[4, 4\], not \(4, 4\) and \(3, 3\)"):
        convert([[10.0, 0, 0, 4, 2, 1, 0]], info=info)
