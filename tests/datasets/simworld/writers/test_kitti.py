"""The KITTI writer: files as KITTI's, boxes that hold what the LiDAR hit, the same bytes for any workers."""

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from perceptkd.datasets.kitti_files import (
    CLASSES,
    DONT_CARE,
    Calibration,
    ObjectLabel,
    camera_boxes_to_lidar,
    observation_angle,
    read_calibration,
    read_labels,
)
from perceptkd.datasets.simworld import (
    Agent,
    CameraFrame,
    LidarSweep,
    Scene,
    build_scene,
    cast_lidar,
    render_camera,
)
from perceptkd.datasets.simworld.kitti_rig import CAMERA, EGO_FROM_VELO, KITTI_RIG
from perceptkd.datasets.simworld.writers.kitti import image_sets, places_of, write_kitti_world
from perceptkd.datasets.simworld.writers.kitti_labels import kitti_type
from perceptkd.datasets.simworld.writers.plan import WorldError, plan_kitti

SIZE = (414, 125)
PLAN = plan_kitti("kitti", {"train": 1, "tune": 1, "report": 1}, num_keyframes=2, sweeps=0, image_size=SIZE)
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 2)]) / 2


class Frame(NamedTuple):
    """What is stored of a frame, and the world that it was made from."""

    scene: Scene
    t: float
    picture: CameraFrame
    sweep: LidarSweep
    folder: Path
    number: str
    calibration: Calibration
    labels: list[ObjectLabel]

    @property
    def objects(self) -> list[tuple[ObjectLabel, np.ndarray, Agent]]:
        """Every labelled object: its label, its box [7] in the LiDAR frame and the agent that stands there."""
        labels = [label for label in self.labels if label.type != DONT_CARE]
        boxes = np.array(
            [(*label.location, *np.array(label.size_hwl)[[2, 0, 1]], label.rotation_y) for label in labels]
        )
        boxes = camera_boxes_to_lidar(boxes.reshape(-1, 7), self.calibration.lidar2cam)
        velo_from_global = np.linalg.inv(self.scene.ego_pose(self.t) @ EGO_FROM_VELO)
        centers = self.scene.agent_poses(self.t)[0] @ velo_from_global[:3, :3].T + velo_from_global[:3, 3]
        found = []
        for label, box in zip(labels, boxes):
            distance = np.linalg.norm(centers - box[:3] - [0.0, 0.0, box[5] / 2], axis=1)
            # A box that is upright in the camera frame has its middle 2 cm from that of one upright in the LiDAR's.
            assert distance.min() < 0.06
            found.append((label, box, self.scene.agents[int(distance.argmin())]))
        return found

    @property
    def tilt(self) -> float:
        """Angle between the LiDAR and the upright objects, radians."""
        return float(np.arccos(self.scene.ego_pose(self.t)[2, 2])) + 0.02  # and between the camera and the LiDAR


@lru_cache
def scene_called(name: str) -> Scene:
    return build_scene(PLAN.scenes()[name])


@pytest.fixture(scope="module")
def frames(tiny_kitti: Path) -> list[Frame]:
    found = []
    for name, (folder, first) in places_of(PLAN).items():
        scene = scene_called(name)
        for index, t in enumerate(scene.keyframe_times.tolist()):
            number, place = f"{first + index:06d}", tiny_kitti / folder
            picture = render_camera(scene, CAMERA, t, rig=KITTI_RIG)
            sweep = cast_lidar(scene, t, rig=KITTI_RIG)
            calibration = read_calibration(place / "calib" / f"{number}.txt")
            labels = read_labels(place / "label_2" / f"{number}.txt")
            found.append(Frame(scene, t, picture, sweep, place, number, calibration, labels))
    return found


def test_folders_are_kitti_s(tiny_kitti):
    assert sorted(path.name for path in tiny_kitti.iterdir()) == [
        "ImageSets",
        "gt_database",
        "kitti_dbinfos_train.pkl",
        "kitti_infos_test.pkl",
        "kitti_infos_train.pkl",
        "kitti_infos_trainval.pkl",
        "kitti_infos_val.pkl",
        "testing",
        "training",
        "world.json",
    ]
    for folder, numbers in {"training": range(4), "testing": (4, 5)}.items():
        for name, suffix in {
            "velodyne": "bin",
            "label_2": "txt",
            "calib": "txt",
            "image_2": "png",
            "planes": "txt",
        }.items():
            files = sorted(path.name for path in (tiny_kitti / folder / name).iterdir())
            assert files == [f"{number:06d}.{suffix}" for number in numbers]
    manifest = json.loads((tiny_kitti / "world.json").read_text())
    assert manifest["version"] == "kitti"
    assert len(manifest["hash"]) == 64


def test_image_sets_are_the_splits(tiny_kitti):
    sets = {path.stem: path.read_text().split() for path in (tiny_kitti / "ImageSets").iterdir()}
    assert sets == {
        "train": ["000000", "000001"],
        "val": ["000002", "000003"],
        "trainval": ["000000", "000001", "000002", "000003"],
        "test": ["000004", "000005"],
    }


def test_frames_are_numbered_split_by_split():
    plan = plan_kitti("kitti", {"report": 1, "tune": 2, "train": 2}, num_keyframes=3)
    assert {scene: place.first for scene, place in places_of(plan).items()} == {
        "train-0000": 0,
        "train-0001": 3,
        "tune-0000": 6,
        "tune-0001": 9,
        "report-0000": 12,
    }
    sets = image_sets(plan)
    assert len(set(sets["train"]) | set(sets["val"]) | set(sets["test"])) == 15
    assert sets["trainval"] == sorted(sets["train"] + sets["val"])
    assert "test" not in image_sets(plan_kitti("kitti", {"train": 1}, num_keyframes=1))


def test_splits_that_kitti_does_not_have_are_told():
    with pytest.raises(WorldError, match=r"kitti has no place for split dev: .*train \(train\), tune \(val\)"):
        plan_kitti("kitti", {"train": 1, "dev": 1})


def test_clouds_are_those_of_the_ray_caster(frames):
    for frame in frames:
        points = np.fromfile(frame.folder / "velodyne" / f"{frame.number}.bin", np.float32).reshape(-1, 4)
        assert (points == frame.sweep.points[:, :4]).all()
        assert 0 <= points[:, 3].min() <= points[:, 3].max() < 1
        assert len(points) > 90_000


def test_images_are_those_of_the_camera(frames):
    for frame in frames[:2]:
        image = cv2.imread(str(frame.folder / "image_2" / f"{frame.number}.png"))
        assert image.shape == (125, 414, 3)
        assert (image[:, :, ::-1] == frame.picture.rgb).all()


def test_columns_are_within_their_ranges(frames):
    for frame in frames:
        types = [label.type for label in frame.labels]
        assert types == sorted(types, key=lambda name: name == DONT_CARE)  # DontCare last
        for label in frame.labels:
            left, top, right, bottom = label.bbox
            assert 0 <= left < right <= SIZE[0] - 1
            assert 0 <= top < bottom <= SIZE[1] - 1
            if label.type == DONT_CARE:
                assert label[1:4] == (-1, -1, -10)
                assert (*label.size_hwl, *label.location, label.rotation_y) == (*[-1] * 3, *[-1000] * 3, -10)
                continue
            assert label.type in CLASSES
            assert 0 <= label.truncated <= 0.9
            assert label.occluded in (0, 1, 2)
            assert min(label.size_hwl) > 0.3
            assert 0 < label.location[2] < 90
            assert max(abs(label.alpha), abs(label.rotation_y)) <= 3.15
    assert {label.type for frame in frames for label in frame.labels} >= {"Car", "Pedestrian", "Truck", DONT_CARE}
    assert {label.occluded for frame in frames for label in frame.labels} == {-1, 0, 1, 2}


def test_only_what_the_image_shows_has_a_line(frames):
    for frame in frames:
        shown = np.unique(frame.picture.instance[frame.picture.instance > 0])
        assert len(frame.labels) == sum(kitti_type(frame.scene.agents[i - 1]) is not None for i in shown)
        for _, _, agent in frame.objects:
            assert agent.instance_id in shown


def test_boxes_have_the_class_and_size_of_their_objects(frames):
    checked = 0
    for frame in frames:
        for label, _, agent in frame.objects:
            assert label.type == kitti_type(agent)
            assert label.size_hwl == pytest.approx(np.array(agent.size_wlh)[[2, 0, 1]], abs=0.0051)
            checked += 1
    assert checked >= 30


def test_boxes_in_the_lidar_frame_hold_the_points_that_hit_their_objects(frames):
    checked = 0
    for frame in frames:
        for _, box, agent in frame.objects:
            own = frame.sweep.points[frame.sweep.instance_id == agent.instance_id, :3].astype(np.float64)
            assert len(own) >= 3
            shifted = own - box[:3] - [0.0, 0.0, box[5] / 2]
            cos, sin = np.cos(box[6]), np.sin(box[6])
            local = np.stack([shifted @ [cos, sin, 0], shifted @ [-sin, cos, 0], shifted[:, 2]], -1)
            beyond = (np.abs(local) - box[3:6] / 2).max()
            # Range noise of 2 cm, two decimals in the file, and boxes that are upright in a tilted frame.
            assert beyond < 0.11 + frame.tilt * np.linalg.norm(box[3:6]) / 2
            checked += len(own)
    assert checked > 3000


def test_boxes_project_onto_their_2d_boxes(frames):
    overlaps = []
    for frame in frames:
        for label, box, _ in frame.objects:
            cos, sin = np.cos(box[6]), np.sin(box[6])
            corners = CORNERS * box[3:6] @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + box[:3]
            pixels, depth = frame.calibration.project(corners)
            if depth.min() < 0.5 or label.truncated > 0:
                continue
            outer = np.concatenate([pixels.min(0), pixels.max(0)])
            slack = 1.0 + 0.34 * 721 * frame.tilt * np.linalg.norm(box[3:6]) / 2 / depth.min()
            assert (outer[:2] - slack < label.bbox[:2]).all()
            assert (outer[2:] + slack > label.bbox[2:]).all()
            overlaps.append(overlap(outer, np.array(label.bbox)))
    assert len(overlaps) >= 15
    assert np.median(overlaps) > 0.8


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes [4]."""
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    return sides.prod() / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - sides.prod())


def test_2d_boxes_are_tight_around_the_pixels_of_visible_objects(frames):
    checked = 0
    for frame in frames:
        for label, _, agent in frame.objects:
            rows, columns = np.nonzero(frame.picture.instance == agent.instance_id)
            extent = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
            assert (extent[:2] >= np.array(label.bbox[:2]) - 0.51).all()
            assert (extent[2:] <= np.array(label.bbox[2:]) + 0.51).all()
            if label.occluded == 0 and len(rows) > 200:
                assert np.abs(extent - label.bbox).max() < 6  # up to 15 % of it may be hidden
                checked += np.abs(extent - label.bbox).max() < 1.01
    assert checked >= 4


def test_truncated_objects_are_those_at_the_border(frames):
    truncated = 0
    for frame in frames:
        for label, _, _ in frame.objects:
            at_border = min(label.bbox[:2]) == 0 or label.bbox[2] == SIZE[0] - 1 or label.bbox[3] == SIZE[1] - 1
            assert at_border or label.truncated == 0
            truncated += label.truncated > 0.05
    assert truncated >= 1


def test_alpha_is_rotation_y_less_the_direction_from_the_lidar(frames):
    for frame in frames:
        for label, box, _ in frame.objects:
            difference = observation_angle(box, label.rotation_y) - label.alpha
            assert np.cos(difference) > np.cos(0.02)


def test_a_lost_info_file_is_made_again(tiny_kitti):
    path = tiny_kitti / "kitti_infos_val.pkl"
    content, changed = path.read_bytes(), (tiny_kitti / "world.json").stat().st_mtime_ns
    path.unlink()
    write_kitti_world(PLAN, tiny_kitti)
    assert path.read_bytes() == content
    assert (tiny_kitti / "world.json").stat().st_mtime_ns == changed


@pytest.mark.slow
def test_the_same_bytes_for_any_number_of_workers(tiny_kitti, tmp_path):
    write_kitti_world(PLAN, tmp_path / "kitti", workers=2)
    files = sorted(path.relative_to(tiny_kitti) for path in tiny_kitti.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "kitti") for path in (tmp_path / "kitti").rglob("*.*"))
    for name in files:
        assert (tmp_path / "kitti" / name).read_bytes() == (tiny_kitti / name).read_bytes()
