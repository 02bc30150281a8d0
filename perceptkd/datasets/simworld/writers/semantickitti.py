"""Writes scenes as SemanticKITTI: sequences of scans with a label and an object's number for every point.

==================  ==================================================================================================
SimWorld            SemanticKITTI's label (in brackets: where it moves)
==================  ==================================================================================================
road, sidewalk      40 road, 48 sidewalk
terrain             72 terrain
building            50 building
vegetation          70 vegetation; 71 trunk where it is wood
pole, sign          80 pole, 81 traffic-sign
wall, fence         51 fence, which has small walls in SemanticKITTI
void (rain)         1 outlier
car                 10 car (252)
truck               18 truck (258)
bus                 13 bus (257)
trailer             20 other-vehicle (259)
construction v.     20 other-vehicle (259)
bicycle             11 bicycle; with a rider 31 bicyclist (253)
motorcycle          15 motorcycle; with a rider 32 motorcyclist (255)
pedestrian          30 person (254)
traffic cone        99 other-object
barrier             51 fence, which has crash barriers in SemanticKITTI
==================  ==================================================================================================

``perceptkd.datasets.semantickitti.LEARNING_MAP`` takes the labels to the 19 classes that are learned, of which parking
and other-ground have no points here. Splits ``train``, ``tune`` and ``report`` are train, val and test of splits.json.
Unlike real ones, scans follow one another at 2 Hz (at 10 Hz with four sweeps between two key frames), and all have
labels.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perceptkd.atomic import write_text
from perceptkd.datasets.kitti_files import Calibration
from perceptkd.datasets.semantickitti import (
    MOVING,
    SPLITS_FILE,
    create_semantickitti_infos,
    info_path,
    pack_labels,
)
from perceptkd.datasets.simworld import LidarSweep, Scene, WorldSpec, build_scene, cast_lidar
from perceptkd.datasets.simworld.agents import STOPPED_MPS
from perceptkd.datasets.simworld.calibration import LIDAR
from perceptkd.datasets.simworld.kitti_rig import KITTI_RIG, NATIVE_SIZE, kitti_calibration
from perceptkd.datasets.simworld.materials import Material
from perceptkd.datasets.simworld.semantics import SEMANTICS, VEGETATION
from perceptkd.datasets.simworld.writers.base import write_file, write_world
from perceptkd.datasets.simworld.writers.plan import KITTI_SPLITS, WorldPlan, kitti_scenes

LABELS = {
    "void": 1, "road": 40, "sidewalk": 48, "terrain": 72, "building": 50, "vegetation": 70, "pole": 80, "sign": 81,
    "wall": 51, "fence": 51, "car": 10, "truck": 18, "trailer": 20, "bus": 13, "construction_vehicle": 20,
    "bicycle": 11, "motorcycle": 15, "pedestrian": 30, "traffic_cone": 99, "barrier": 51,
}  # fmt: skip
RIDDEN_LABELS = {"bicycle": 31, "motorcycle": 32}
TRUNK = 71
#: What the writer leaves in the data root, besides world.json.
OUTPUTS = ("sequences", SPLITS_FILE, "semantickitti_*.pkl")
#: Measured, with room.
BYTES_PER_SCAN = 125_000 * (16 + 4)


def write_semantickitti_world(
    plan: WorldPlan, root: Path, *, workers: int = 1, overwrite: bool = False
) -> dict[str, Any]:
    """Writes ``plan`` (of :func:`plan_kitti`) as a SemanticKITTI root with info files; see :func:`write_world`."""
    manifest = write_world(
        plan,
        root,
        write_scene=partial(write_semantickitti_scene, sequences_of(plan)),
        finish=finish_semantickitti,
        outputs=OUTPUTS,
        bytes_per_keyframe=(1 + plan.sweeps) * BYTES_PER_SCAN,
        workers=workers,
        overwrite=overwrite,
    )
    if not all(path.is_file() for path in info_files(plan, root)):
        create_semantickitti_infos(root)
    return manifest


def info_files(plan: WorldPlan, root: Path) -> list[Path]:
    """The info file of each split that has sequences."""
    return [info_path(root, split) for split in split_sequences(plan)]


def sequences_of(plan: WorldPlan) -> dict[str, str]:
    """The sequence of each scene by its name, numbered in the order of :func:`kitti_scenes`."""
    return {scene: f"{index:02d}" for index, scene in enumerate(kitti_scenes(plan))}


def split_sequences(plan: WorldPlan) -> dict[str, list[str]]:
    """The sequences of each split that has some, by SemanticKITTI's name for it."""
    sequences = sequences_of(plan)
    splits = {name: sorted(sequences[scene] for scene in plan.splits.get(split, ()))
              for name, split in KITTI_SPLITS.items()}  # fmt: skip
    return {name: chosen for name, chosen in splits.items() if chosen}


def finish_semantickitti(plan: WorldPlan, root: Path, rows: Mapping[str, Any]) -> None:
    """The splits and the info files."""
    write_text(root / SPLITS_FILE, json.dumps(split_sequences(plan), indent=2))
    create_semantickitti_infos(root)


def write_semantickitti_scene(
    sequences: Mapping[str, str], spec: WorldSpec, folder: Path, count_frame: Callable[[], None]
) -> dict[str, Any]:
    """Writes one scene's sequence under ``folder``; there are no table rows."""
    scene, calibration = build_scene(spec), kitti_calibration(NATIVE_SIZE)
    place = folder / "sequences" / sequences[spec.scene_name]
    for number, t in enumerate(scene.lidar_times.tolist()):
        sweep = cast_lidar(scene, t, rig=KITTI_RIG)
        write_file(place / "velodyne" / f"{number:06d}.bin", sweep.points[:, :4].tobytes())
        labels = pack_labels(label_points(scene, sweep, t), sweep.instance_id)
        write_file(place / "labels" / f"{number:06d}.label", labels.tobytes())
        if number % (spec.sweeps_between + 1) == 0:
            count_frame()
    write_file(place / "calib.txt", format_calibration(calibration).encode())
    write_file(place / "poses.txt", format_rows(camera_poses(scene, calibration)[:, :3].reshape(-1, 12)).encode())
    write_file(place / "times.txt", format_rows((scene.lidar_times - scene.lidar_times[0])[:, None]).encode())
    return {}


def label_points(scene: Scene, sweep: LidarSweep, t: float) -> np.ndarray:
    """SemanticKITTI's label [N] of every point of a sweep at ``t`` seconds, without the object's number."""
    of_semantic = np.array([LABELS.get(name, 0) for name in SEMANTICS])  # no pulse comes back from the sky
    speeds = np.linalg.norm(scene.agent_velocities(t), axis=1)
    of_agent = [0]
    for agent, speed in zip(scene.agents, speeds):
        label = RIDDEN_LABELS[agent.class_name] if agent.rider else LABELS[agent.class_name]
        of_agent.append(MOVING.get(label, label) if speed > STOPPED_MPS else label)
    labels = np.where(sweep.instance_id > 0, np.array(of_agent)[sweep.instance_id], of_semantic[sweep.semantic])
    return np.where((sweep.semantic == VEGETATION) & (sweep.material == Material.WOOD), TRUNK, labels)


def camera_poses(scene: Scene, calibration: Calibration) -> np.ndarray:
    """Pose [L, 4, 4] of the rectified camera 0 at every scan, in the frame of the first one's."""
    ego_from_camera = KITTI_RIG[LIDAR].ego_from_sensor @ np.linalg.inv(calibration.lidar2cam)
    poses = np.stack([scene.ego_pose(t) @ ego_from_camera for t in scene.lidar_times])
    return np.linalg.inv(poses[0]) @ poses


def format_calibration(calibration: Calibration) -> str:
    """The content of a sequence's calib.txt: P0 to P3, and Tr from the LiDAR to the rectified camera 0."""
    names = ("P0", "P1", "P2", "P3", "Tr")
    matrices = [*calibration.projections, calibration.lidar2cam[:3]]
    return "".join(f"{name}: {format_rows(matrix.reshape(1, -1))}" for name, matrix in zip(names, matrices))


def format_rows(rows: np.ndarray) -> str:
    """Numbers [R, C] as KITTI writes them, one row in each line.

    >>> format_rows(np.array([[0.5, 2.0]]))
    '5.000000000000e-01 2.000000000000e+00\\n'
    """
    return "".join(" ".join(f"{number:.12e}" for number in row) + "\n" for row in rows)
