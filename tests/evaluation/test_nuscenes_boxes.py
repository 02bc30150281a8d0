"""Boxes to submission records."""

import numpy as np
import pytest
from pyquaternion import Quaternion

from perceptkd.evaluation.nuscenes_boxes import boxes_to_records, guess_attribute, yaw_to_global


@pytest.fixture
def info() -> dict:
    lidar2ego, ego2global = np.eye(4), np.eye(4)
    lidar2ego[:3, :3] = Quaternion(axis=[0, 0, 1], degrees=-90).rotation_matrix
    lidar2ego[:3, 3] = 1.0, 0.0, 2.0
    ego2global[:3, 3] = 100.0, 200.0, 0.0
    return {"token": "t", "ego2global": ego2global.tolist(), "lidar_points": {"lidar2ego": lidar2ego.tolist()}}


def test_box_goes_to_the_global_frame(info):
    # 10 m ahead (LiDAR +y), heading ahead, 3 m/s ahead; ahead is global +x.
    box = np.array([[0.0, 10.0, -1.0, 4.0, 2.0, 1.5, np.pi / 2, 0.0, 3.0]])
    (record,) = boxes_to_records(
        box, np.array([0.5]), np.array([0]), info=info, classes=["car"], max_range_m={"car": 50.0}, max_boxes=500
    )
    assert np.allclose(record["translation"], [111.0, 200.0, 1.0])
    assert record["size"] == [2.0, 4.0, 1.5]
    assert np.allclose(np.abs(record["rotation"]), [1, 0, 0, 0])
    assert np.allclose(record["velocity"], [3.0, 0.0])
    assert record["attribute_name"] == "vehicle.moving"
    assert record["detection_name"] == "car"
    assert record["detection_score"] == 0.5


def test_rotation_is_the_product_of_the_quaternions():
    rng = np.random.default_rng(0)
    frame = Quaternion(rng.normal(size=4)).normalised
    yaws = rng.uniform(-np.pi, np.pi, 20)
    for yaw, found in zip(yaws, yaw_to_global(yaws, frame.rotation_matrix)):
        expected = frame * Quaternion(axis=[0, 0, 1], radians=yaw)
        assert np.isclose(abs(np.dot(expected.elements, found)), 1.0)


def test_best_boxes_first_and_no_more_than_allowed(info):
    boxes = np.ones((5, 9))
    scores = np.array([0.1, 0.9, 0.5, 0.7, 0.3])
    records = boxes_to_records(
        boxes, scores, np.zeros(5, int), info=info, classes=["car"], max_range_m={"car": 50.0}, max_boxes=3
    )
    assert [record["detection_score"] for record in records] == [0.9, 0.7, 0.5]


def test_boxes_beyond_the_range_of_their_class_do_not_take_a_place(info):
    boxes = np.zeros((3, 9))
    boxes[:, 1] = 45.0  # ahead of the LiDAR, which is 1 m ahead of the car's origin
    limits = {"car": 50.0, "barrier": 30.0}
    records = boxes_to_records(
        boxes, np.ones(3), np.array([0, 1, 0]), info=info, classes=list(limits), max_range_m=limits, max_boxes=2
    )
    assert [record["detection_name"] for record in records] == ["car", "car"]


def test_no_boxes(info):
    empty = np.zeros((0, 9))
    assert (
        boxes_to_records(
            empty, np.zeros(0), np.zeros(0, int), info=info, classes=["car"], max_range_m={"car": 50.0}, max_boxes=3
        )
        == []
    )


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
    assert guess_attribute(name, 0.19) == standing
    assert guess_attribute(name, 0.21) == moving
