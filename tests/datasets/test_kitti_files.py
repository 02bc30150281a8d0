"""Calibration and label files: read as written, the angles of real labels, and errors that name the file."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.structures import Box3DMode, CameraInstance3DBoxes

from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_files import (
    CLASSES,
    Calibration,
    ObjectLabel,
    camera_boxes_to_lidar,
    dont_care,
    format_calibration,
    format_label,
    format_plane,
    observation_angle,
    read_calibration,
    read_labels,
    read_plane,
    to_square,
    wrap_angle,
)
from perceptkd.datasets.simworld.kitti_rig import kitti_calibration

CAR = ObjectLabel("Car", 0.25, 1, -0.69, (0.0, 192.37, 402.31, 374.0), (1.6, 1.57, 3.23), (-2.7, 1.74, 3.68), -1.29)
angles = st.floats(-20.0, 20.0)


@pytest.fixture
def calibration() -> Calibration:
    return kitti_calibration((1242, 375))


def test_calibration_is_read_as_written(tmp_path, calibration):
    path = tmp_path / "000000.txt"
    path.write_text(format_calibration(calibration))
    found = read_calibration(path)
    for name in ("projections", "rect", "velo_to_cam", "imu_to_velo"):
        np.testing.assert_allclose(getattr(found, name), getattr(calibration, name), rtol=1e-11, atol=1e-12)
    lines = path.read_text().split("\n")
    names = ["P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"]
    assert [line.partition(":")[0] for line in lines] == [*names, "", ""]


def test_transforms_are_those_of_kitti_s_description(calibration):
    """x_image = P2 R0_rect Tr_velo_to_cam x, worked out by hand in homogeneous coordinates."""
    point = np.array([[12.0, -3.0, 0.5]])
    camera = calibration.rect @ (calibration.velo_to_cam[:, :3] @ point[0] + calibration.velo_to_cam[:, 3])
    np.testing.assert_allclose((calibration.lidar2cam @ [*point[0], 1.0])[:3], camera)
    u, v, w = calibration.projections[2] @ [*camera, 1.0]
    pixels, depth = calibration.project(point)
    np.testing.assert_allclose(pixels[0], [u / w, v / w])
    np.testing.assert_allclose(depth, w)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("P2:", "P9:", r"000000.txt has no row P2: unpack .*calib"),
        ("R0_rect: 9", "R0_rect: x", "row R0_rect of .* is not all numbers"),
        ("Tr_velo_to_cam: ", "Tr_velo_to_cam: 1.0 ", "row Tr_velo_to_cam of .* must have 12 finite numbers"),
        ("P0: 7.21", "P0: nan 7.21", "row P0 of .* must have 12 finite numbers"),
        ("R0_rect: 9.99", "R0_rect: 0.00", "R0_rect of .* is no rotation"),
        ("P2: 7.21", "P2: 0.0", "P2 of .* is singular"),
    ],
)
def test_broken_calibrations_are_told(tmp_path, calibration, old, new, message):
    path = tmp_path / "000000.txt"
    text = format_calibration(calibration)
    assert old in text
    path.write_text(text.replace(old, new).replace("P2: 0.0", "P2: 0.0e+00 0 0 0 0 0 0 0 0 0 0 0\nP9: "))
    with pytest.raises(InputError, match=message):
        read_calibration(path)


def test_labels_are_read_as_written(tmp_path):
    labels = [CAR, CAR._replace(type="Person_sitting", occluded=3), dont_care((1.0, 2.0, 3.5, 4.0))]
    path = tmp_path / "000000.txt"
    path.write_text("".join(f"{format_label(label)}\n" for label in labels))
    assert read_labels(path) == labels
    assert all(len(line.split()) == 15 for line in path.read_text().splitlines())
    path.write_text("")
    assert read_labels(path) == []


def test_a_line_looks_like_kitti_s():
    assert format_label(CAR) == "Car 0.25 1 -0.69 0.00 192.37 402.31 374.00 1.60 1.57 3.23 -2.70 1.74 3.68 -1.29"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (format_label(CAR) + " 0.9", "line 2 of .* has 16 columns, where KITTI's labels have 15"),
        (
            format_label(CAR).replace("Car", "Bus"),
            f"line 2 of .* has class 'Bus': KITTI's are {CLASSES[0]}, .* DontCare",
        ),
        (format_label(CAR).replace("1.74", "?"), "line 2 of .*could not convert"),
    ],
)
def test_broken_labels_are_told(tmp_path, line, message):
    path = tmp_path / "000000.txt"
    path.write_text(f"{format_label(CAR)}\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_labels(path)


@given(angles, angles)
def test_wrapped_angles_are_the_same_direction(angle, turn):
    wrapped = wrap_angle(angle)
    assert -np.pi <= wrapped < np.pi
    assert np.cos(wrapped) == pytest.approx(np.cos(angle), abs=1e-9)
    assert np.sin(wrapped) == pytest.approx(np.sin(angle), abs=1e-9)
    place = np.array([10.0 * np.cos(turn), 10.0 * np.sin(turn)])
    behind = observation_angle(place, angle) - observation_angle(-place, angle)
    assert np.cos(behind) == pytest.approx(-1.0)


@given(st.lists(st.tuples(*[st.floats(-50, 50)] * 3, *[st.floats(0.1, 20)] * 3, st.floats(-3.1, 3.1)), max_size=4))
def test_boxes_come_to_the_lidar_as_mmdet3d_brings_them(rows):
    lidar2cam = kitti_calibration((1242, 375)).lidar2cam
    boxes = np.array(rows, np.float64).reshape(-1, 7)
    upstream = CameraInstance3DBoxes(torch.from_numpy(boxes).float()).convert_to(
        Box3DMode.LIDAR, np.linalg.inv(lidar2cam)
    )
    ours = camera_boxes_to_lidar(boxes, lidar2cam)
    np.testing.assert_allclose(ours[:, :6], upstream.tensor[:, :6], atol=1e-4)
    np.testing.assert_allclose(np.cos(ours[:, 6] - upstream.tensor[:, 6].numpy()), 1.0, atol=1e-6)


def test_planes_are_read_as_written(tmp_path):
    path = tmp_path / "000000.txt"
    path.write_text(format_plane(np.array([-0.007, -0.99978, -0.0198, 1.68])))
    assert read_plane(path) == [-0.007, -0.99978, -0.0198, 1.68]
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 -1 0 1.7\n", "has no plane in its fourth line"),
        ("\n\n\n0 -1 0 x\n", "has no plane in its fourth line"),
        ("\n\n\n0 -1 0\n", "must have the four numbers"),
        ("\n\n\n0 1 0 1.7\n", "of length 1 and up"),
        ("\n\n\n0 -2 0 1.7\n", "of length 1 and up"),
    ],
)
def test_broken_planes_are_told(tmp_path, content, message):
    path = tmp_path / "000000.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_plane(path)


def test_square_matrices():
    assert to_square(2 * np.eye(3)).tolist() == np.diag([2.0, 2, 2, 1]).tolist()


def test_alpha_of_real_labels_is_seen_from_the_lidar(real_data: Path):
    """From the camera, the first and third of them would be off by more than 0.02."""
    frame = pickle.loads((real_data / "mmdet3d_demo/kitti/000008.pkl").read_bytes())["data_list"][0]
    lidar2cam = np.array(frame["images"]["CAM2"]["lidar2cam"])
    objects = [instance for instance in frame["instances"] if instance["bbox_label"] >= 0]
    places = camera_boxes_to_lidar(np.array([instance["bbox_3d"] for instance in objects]), lidar2cam)
    for place, instance in zip(places, objects):
        assert observation_angle(place, instance["bbox_3d"][6]) == pytest.approx(instance["alpha"], abs=0.012)
    x, _, z, *_ = objects[0]["bbox_3d"]
    assert abs(objects[0]["bbox_3d"][6] - np.arctan2(x, z) - objects[0]["alpha"]) > 0.02
