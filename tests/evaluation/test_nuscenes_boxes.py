"""Boxes to submission records."""

import numpy as np
import pytest
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion

from perceptkd.core.errors import InputError
from perceptkd.evaluation.nuscenes_boxes import BoxTable, boxes_to_global, guess_attributes, to_records, yaw_to_global


@pytest.fixture
def info() -> dict:
    lidar2ego, ego2global = np.eye(4), np.eye(4)
    lidar2ego[:3, :3] = Quaternion(axis=[0, 0, 1], degrees=-90).rotation_matrix
    lidar2ego[:3, 3] = 1.0, 0.0, 2.0
    ego2global[:3, 3] = 100.0, 200.0, 0.0
    return {"token": "t", "ego2global": ego2global.tolist(), "lidar_points": {"lidar2ego": lidar2ego.tolist()}}


LIMITS = {"car": 50.0, "barrier": 30.0}


def convert(info: dict, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, *, max_boxes: int = 500) -> BoxTable:
    return boxes_to_global(
        boxes, scores, labels, info=info, classes=list(LIMITS), max_range_m=LIMITS, max_boxes=max_boxes
    )


def test_box_goes_to_the_global_frame(info):
    # 10 m ahead (LiDAR +y), heading ahead, 3 m/s ahead; ahead is global +x.
    box = np.array([[0.0, 10.0, -1.0, 4.0, 2.0, 1.5, np.pi / 2, 0.0, 3.0]])
    (record,) = to_records(convert(info, box, np.array([0.5]), np.array([0])), "t")
    assert record["sample_token"] == "t"
    assert np.allclose(record["translation"], [111.0, 200.0, 1.0])
    assert record["size"] == [2.0, 4.0, 1.5]
    assert np.allclose(np.abs(record["rotation"]), [1, 0, 0, 0])
    assert np.allclose(record["velocity"], [3.0, 0.0])
    assert record["attribute_name"] == "vehicle.moving"
    assert record["detection_name"] == "car"
    assert record["detection_score"] == 0.5


def test_equals_the_devkit_s_boxes_on_a_tilted_pose():
    """The devkit turns and shifts a box by two quaternions, one pose after the other."""
    rng = np.random.default_rng(0)
    poses = [(Quaternion(rng.normal(size=4)).normalised, rng.uniform(-5, 5, 3)) for _ in range(2)]
    lidar2ego, ego2global = (pose.transformation_matrix for pose, _ in poses)
    lidar2ego[:3, 3], ego2global[:3, 3] = (shift for _, shift in poses)
    info = {"token": "t", "ego2global": ego2global.tolist(), "lidar_points": {"lidar2ego": lidar2ego.tolist()}}
    boxes = np.column_stack([rng.uniform(-9, 9, (20, 3)), rng.uniform(1, 5, (20, 3)), rng.uniform(-4, 4, (20, 3))])
    found = convert(info, boxes, np.linspace(1, 0.1, 20), np.zeros(20, int))
    for row, (x, y, z, length, width, height, yaw, *velocity) in enumerate(boxes):
        rotation = Quaternion(axis=[0, 0, 1], radians=yaw)
        box = Box([x, y, z], [width, length, height], rotation, velocity=(*velocity, 0.0))
        for pose, shift in poses:
            box.rotate(pose)
            box.translate(shift)
        np.testing.assert_allclose(found.translation[row], box.center)
        np.testing.assert_allclose(found.size[row], box.wlh)
        np.testing.assert_allclose(found.velocity[row], box.velocity[:2])
        assert abs(np.dot(found.rotation[row], box.orientation.elements)) == pytest.approx(1.0)


def test_labels_are_translated(info):
    records = to_records(convert(info, np.ones((2, 9)), np.array([0.6, 0.5]), np.array([1, 0])), "t")
    assert [record["detection_name"] for record in records] == ["barrier", "car"]
    assert records[0]["attribute_name"] == ""


def test_rotation_is_the_product_of_the_quaternions():
    rng = np.random.default_rng(0)
    frame = Quaternion(rng.normal(size=4)).normalised
    yaws = rng.uniform(-np.pi, np.pi, 20)
    for yaw, found in zip(yaws, yaw_to_global(yaws, frame.rotation_matrix)):
        expected = frame * Quaternion(axis=[0, 0, 1], radians=yaw)
        assert np.isclose(abs(np.dot(expected.elements, found)), 1.0)


def test_best_boxes_first_and_no_more_than_allowed(info):
    table = convert(info, np.ones((5, 9)), np.array([0.1, 0.9, 0.5, 0.7, 0.3]), np.zeros(5, int), max_boxes=3)
    assert table.score.tolist() == [0.9, 0.7, 0.5]


def test_boxes_beyond_the_range_of_their_class_do_not_take_a_place(info):
    boxes = np.zeros((3, 9))
    boxes[:, 1] = 45.0  # ahead of the LiDAR, which is 1 m ahead of the car's origin
    table = convert(info, boxes, np.ones(3), np.array([0, 1, 0]), max_boxes=2)
    assert [DETECTION_NAMES[label] for label in table.label] == ["car", "car"]


def test_no_boxes(info):
    assert to_records(convert(info, np.zeros((0, 9)), np.zeros(0), np.zeros(0, int)), "t") == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_of_a_diverged_model_are_refused(info, value):
    for boxes, scores in ((np.full((1, 9), value), np.ones(1)), (np.ones((1, 9)), np.full(1, value))):
        with pytest.raises(ValueError, match="sample t: a predicted box or score is NaN or infinite"):
            convert(info, boxes, scores, np.zeros(1, int))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_of_no_class_is_refused(info, label):
    with pytest.raises(InputError, match=rf"sample t: a predicted label is {label}, .* has 2 names \(car, barrier\)"):
        convert(info, np.ones((2, 9)), np.ones(2), np.array([0, label]))


def test_a_class_that_is_not_evaluated_is_refused(info):
    arguments = (np.ones((1, 9)), np.ones(1), np.zeros(1, int))
    with pytest.raises(InputError, match=r"dataset_meta\['classes'\] has Car, .* of car, truck, .*, barrier"):
        boxes_to_global(*arguments, info=info, classes=["Car"], max_range_m=LIMITS, max_boxes=500)


def test_join_and_select(info):
    one, two = (convert(info, np.ones((n, 9)), np.linspace(0.9, 0.1, n), np.zeros(n, int)) for n in (1, 2))
    joined = BoxTable.join([(7, one), (3, two)])
    assert joined.frame.tolist() == [7, 3, 3]
    assert joined[joined.frame == 3].score.tolist() == two.score.tolist()
    assert one.frame.tolist() == [0]


@pytest.mark.parametrize(
    ("name", "standing", "moving"),
    [
        ("car", "vehicle.parked", "vehicle.moving"),
        ("bus", "vehicle.stopped", "vehicle.moving"),
        ("construction_vehicle", "vehicle.parked", "vehicle.moving"),
        ("bicycle", "cycle.without_rider", "cycle.with_rider"),
        ("pedestrian", "pedestrian.standing", "pedestrian.moving"),
        ("traffic_cone", "", ""),
    ],
)
def test_attribute_by_speed(name, standing, moving):
    label = DETECTION_NAMES.index(name)
    found = guess_attributes(np.array([label, label]), np.array([0.19, 0.21]))
    assert [([*ATTRIBUTE_NAMES, ""])[index] for index in found] == [standing, moving]
