"""The SemanticKITTI writer: a label for every point, and poses that bring scans together."""

import json
from pathlib import Path

import numpy as np
import pytest

from perceptkd.datasets.semantickitti import LEARNING_MAP
from perceptkd.datasets.simworld import LidarSweep, Scene, build_scene, cast_lidar
from perceptkd.datasets.simworld.kitti_rig import EGO_FROM_VELO, KITTI_RIG
from perceptkd.datasets.simworld.semantics import SEMANTICS
from perceptkd.datasets.simworld.writers.plan import plan_kitti
from perceptkd.datasets.simworld.writers.semantickitti import (
    LABELS,
    RIDDEN_LABELS,
    TRUNK,
    label_points,
    sequences_of,
    split_sequences,
)

PLAN = plan_kitti("semantickitti", {"train": 1, "tune": 1}, num_keyframes=2, sweeps=0, image_size=(1242, 375))


@pytest.fixture(scope="module")
def first() -> tuple[Scene, LidarSweep]:
    """Sequence 00 and its first sweep."""
    scene = build_scene(PLAN.scenes()["train-0000"])
    return scene, cast_lidar(scene, float(scene.lidar_times[0]), rig=KITTI_RIG)


def read_scan(root: Path, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [N, 4], labels [N] and objects' numbers [N] of a scan of sequence 00."""
    folder = root / "sequences/00"
    packed = np.fromfile(folder / f"labels/{number:06d}.label", np.uint32)
    points = np.fromfile(folder / f"velodyne/{number:06d}.bin", np.float32).reshape(-1, 4)
    return points, packed & 0xFFFF, packed >> 16


def read_matrices(path: Path) -> np.ndarray:
    """Rows of 12 numbers as transforms [R, 4, 4]."""
    rows = [[float(number) for number in line.split()[-12:]] for line in path.read_text().splitlines()]
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, :3] = np.array(rows).reshape(-1, 3, 4)
    return matrices


def test_folders_are_semantickitti_s(tiny_semantickitti):
    assert sorted(path.name for path in tiny_semantickitti.iterdir()) == [
        "semantickitti_infos_train.pkl",
        "semantickitti_infos_val.pkl",
        "sequences",
        "splits.json",
        "world.json",
    ]
    for sequence in ("00", "01"):
        folder = tiny_semantickitti / "sequences" / sequence
        names = ["calib.txt", "labels", "poses.txt", "times.txt", "velodyne"]
        assert sorted(path.name for path in folder.iterdir()) == names
        assert sorted(path.name for path in (folder / "labels").iterdir()) == ["000000.label", "000001.label"]
    assert json.loads((tiny_semantickitti / "splits.json").read_text()) == {"train": ["00"], "val": ["01"]}


def test_sequences_are_numbered_over_all_splits():
    plan = plan_kitti("semantickitti", {"train": 2, "tune": 1, "report": 1}, num_keyframes=1)
    assert sorted(sequences_of(plan).values()) == ["00", "01", "02", "03"]
    splits = split_sequences(plan)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [2, 1, 1]
    assert sorted(sequence for split in splits.values() for sequence in split) == ["00", "01", "02", "03"]


def test_every_point_has_the_label_of_what_it_hit(tiny_semantickitti, first):
    scene, sweep = first
    points, labels, numbers = read_scan(tiny_semantickitti, 0)
    assert (points == sweep.points[:, :4]).all()
    assert (numbers == sweep.instance_id).all()
    assert set(labels.tolist()) <= set(LEARNING_MAP)
    for name in ("road", "sidewalk", "building", "pole", "terrain"):
        of_name = (sweep.semantic == SEMANTICS.index(name)) & (sweep.instance_id == 0)
        assert of_name.sum() > 50
        assert (labels[of_name] == LABELS[name]).all()
    speeds = np.linalg.norm(scene.agent_velocities(scene.lidar_times[0]), axis=1)
    moving = {10: 252, 30: 254, 31: 253, 32: 255, 13: 257, 18: 258, 20: 259}
    for agent, speed in zip(scene.agents, speeds):
        own = labels[numbers == agent.instance_id]
        still = RIDDEN_LABELS[agent.class_name] if agent.rider else LABELS[agent.class_name]
        assert set(own.tolist()) <= {moving[still] if speed > 0.2 else still}
    assert len({label for label in labels.tolist() if label > 250}) >= 2  # some of them move


def test_trunks_are_the_wood_of_trees(tiny_semantickitti):
    """A tree's crown is above 1.8 m, so that what is lower is its trunk, or a hedge or a bush."""
    points, labels, _ = read_scan(tiny_semantickitti, 0)
    trunk = points[labels == TRUNK]
    assert len(trunk) > 100
    assert np.median(trunk[:, 2]) < 1.0
    assert (labels == LABELS["vegetation"]).sum() > 100


def test_riders_are_no_bicycles(first):
    scene, _ = first
    rider = next(agent for agent in scene.agents if agent.rider)
    ids = np.full(3, rider.instance_id, np.int32)
    hit = LidarSweep(np.zeros((3, 5)), ids, np.full(3, rider.semantic, np.uint8), np.zeros(3, np.uint8))
    t = float(scene.lidar_times[0])
    assert set(label_points(scene, hit, t).tolist()) <= {31, 32, 253, 255}


def test_rain_is_an_outlier(first):
    scene, _ = first
    rain = LidarSweep(np.zeros((1, 5)), np.zeros(1, np.int32), np.zeros(1, np.uint8), np.zeros(1, np.uint8))
    assert label_points(scene, rain, 0.5).tolist() == [1]
    assert LEARNING_MAP[1] == 19


def test_poses_bring_static_points_together(tiny_semantickitti, first):
    """The same facades and poles in both scans: through Tr and the poses they lie on each other."""
    scene, _ = first
    folder = tiny_semantickitti / "sequences/00"
    poses = read_matrices(folder / "poses.txt")
    velo_to_cam = read_matrices(folder / "calib.txt")[4]
    assert (folder / "calib.txt").read_text().splitlines()[4].startswith("Tr:")
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-9)
    for index, t in enumerate(scene.lidar_times):
        from_first = np.linalg.inv(scene.ego_pose(scene.lidar_times[0]) @ EGO_FROM_VELO) @ scene.ego_pose(t)
        expected = from_first @ EGO_FROM_VELO
        found = np.linalg.inv(velo_to_cam) @ poses[index] @ velo_to_cam
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.linalg.norm(poses[1][:3, 3]) > 0.5
    assert abs(poses[1][2, 3]) > 0.9 * np.linalg.norm(poses[1][:3, 3])  # forward is the camera's z


def test_times_are_those_of_the_scans(tiny_semantickitti):
    times = (tiny_semantickitti / "sequences/00/times.txt").read_text().split()
    assert [float(time) for time in times] == pytest.approx([0.0, 0.5])
