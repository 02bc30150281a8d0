"""Info files: the nuScenes tables flattened to one record per key frame, in mmdet3d's info format 2.

Conventions, all as in mmdet3d 1.4: boxes are ``[x, y, z, dx, dy, dz, yaw]`` in the LiDAR frame of the key frame with
the centre of gravity as origin (the dataset moves it to the bottom) and dx the length; velocities are m/s in the same
frame; timestamps are seconds; ``lidar2cam`` goes through the global frame, so that it accounts for the ego motion
between the two exposures; ``lidar2sensor`` of a sweep maps the key frame's LiDAR frame to the sweep's.
"""

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.geometry_utils import transform_matrix
from nuscenes.utils.splits import get_scenes_of_split
from pyquaternion import Quaternion

from perceptkd.atomic import atomic_path
from perceptkd.core.errors import InputError
from perceptkd.progress import progress_bar

#: nuScenes' ten detection classes; a label is an index into this tuple.
CLASSES = (
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
)
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
LIDAR = "LIDAR_TOP"
NUM_POINT_FEATURES = 5
IGNORED = -1
DEFAULT_SPLITS = {
    "v1.0-mini": ("mini_train", "mini_val"),
    "v1.0-trainval": ("train", "val"),
    "v1.0-test": ("test",),
}
MICROSECONDS = 1e-6


def info_path(dataroot: str | Path, split: str) -> Path:
    """Where the info file of ``split`` lives.

    >>> info_path("data/nuscenes", "mini_val").as_posix()
    'data/nuscenes/nuscenes_infos_mini_val.pkl'
    """
    return Path(dataroot) / f"nuscenes_infos_{split}.pkl"


def load_tables(dataroot: str | Path, version: str) -> NuScenes:
    """Loads the tables with the official devkit; a missing or cut one ends in an error that names the path."""
    folder = Path(dataroot) / version
    if not (folder / "sample_data.json").is_file():
        raise FileNotFoundError(
            f"no nuScenes tables in {folder}: unpack {version} of nuScenes there, or write a simulated one with "
            "`python tools/create_data.py simworld --out data/simworld`"
        )
    try:
        return NuScenes(version=version, dataroot=str(dataroot), verbose=False)
    except json.JSONDecodeError as error:
        raise InputError(f"a table in {folder} is truncated or no JSON ({error}): unpack {version} again") from error


def create_nuscenes_infos(
    dataroot: str | Path,
    version: str,
    *,
    splits: Iterable[str] | None = None,
    max_sweeps: int = 10,
) -> dict[str, Path]:
    """Writes ``nuscenes_infos_<split>.pkl`` for each split, whole or not at all.

    Args:
        dataroot: Folder with ``<version>/``, ``samples/`` and ``sweeps/``.
        version: 'v1.0-mini', 'v1.0-trainval' or 'v1.0-test'.
        splits: Split names; by default those of the data root's splits.json, or the official ones of the version.
        max_sweeps: How many earlier LiDAR sweeps are listed for each key frame, newest first.

    Returns:
        The path of each split's file.
    """
    tables = load_tables(dataroot, version)
    if splits is None:
        splits = _splits_of(tables)
    samples_by_scene: dict[str, list[dict]] = {}
    for sample in tables.sample:
        name = tables.get("scene", sample["scene_token"])["name"]
        samples_by_scene.setdefault(name, []).append(sample)
    _check_files(tables)
    paths = {}
    for split in splits:
        samples = [s for scene in sorted(get_scenes_of_split(split, tables)) for s in samples_by_scene.get(scene, [])]
        if not samples:
            raise InputError(f"split {split!r} has no sample in {tables.dataroot} ({version})")
        records = [
            collect_info(tables, sample, index=index, max_sweeps=max_sweeps)
            for index, sample in enumerate(progress_bar(samples, desc=f"infos of {split}", unit="frame"))
        ]
        paths[split] = info_path(dataroot, split)
        _write_infos(paths[split], records, version=version, split=split)
    return paths


def collect_info(tables: NuScenes, sample: Mapping[str, Any], *, index: int, max_sweeps: int) -> dict[str, Any]:
    """The record of one key frame.

    Returns:
        Dict with sample_idx, token, timestamp [s], ego2global [4x4], ``images`` per camera, ``lidar_points``,
        ``lidar_sweeps`` (newest first) and ``instances``.
    """
    lidar = tables.get("sample_data", sample["data"][LIDAR])
    lidar2ego, ego2global = _poses(tables, lidar)
    lidar2global = ego2global @ lidar2ego
    return {
        "sample_idx": index,
        "token": sample["token"],
        "timestamp": sample["timestamp"] * MICROSECONDS,
        "ego2global": ego2global.tolist(),
        "images": {
            camera: _collect_image(tables, tables.get("sample_data", sample["data"][camera]), lidar2global)
            for camera in CAMERAS
        },
        "lidar_points": {
            "num_pts_feats": NUM_POINT_FEATURES,
            "lidar_path": Path(lidar["filename"]).name,
            "lidar2ego": lidar2ego.tolist(),
        },
        "lidar_sweeps": _collect_sweeps(tables, lidar, lidar2global, max_sweeps=max_sweeps),
        "instances": _collect_instances(tables, sample, lidar2global),
    }


def _poses(tables: NuScenes, sample_data: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """ego_from_sensor and global_from_ego [4x4] at the sensor's own timestamp."""
    calibration = tables.get("calibrated_sensor", sample_data["calibrated_sensor_token"])
    pose = tables.get("ego_pose", sample_data["ego_pose_token"])
    return (
        transform_matrix(calibration["translation"], Quaternion(calibration["rotation"])),
        transform_matrix(pose["translation"], Quaternion(pose["rotation"])),
    )


def _collect_image(tables: NuScenes, sample_data: Mapping[str, Any], lidar2global: np.ndarray) -> dict[str, Any]:
    cam2ego, ego2global = _poses(tables, sample_data)
    calibration = tables.get("calibrated_sensor", sample_data["calibrated_sensor_token"])
    return {
        "img_path": Path(sample_data["filename"]).name,
        "cam2img": calibration["camera_intrinsic"],
        "cam2ego": cam2ego.tolist(),
        "sample_data_token": sample_data["token"],
        "timestamp": sample_data["timestamp"] * MICROSECONDS,
        "lidar2cam": (np.linalg.inv(ego2global @ cam2ego) @ lidar2global).tolist(),
    }


def _collect_sweeps(
    tables: NuScenes, sample_data: Mapping[str, Any], lidar2global: np.ndarray, *, max_sweeps: int
) -> list[dict[str, Any]]:
    sweeps: list[dict[str, Any]] = []
    while len(sweeps) < max_sweeps and sample_data["prev"]:
        sample_data = tables.get("sample_data", sample_data["prev"])
        sweep2ego, ego2global = _poses(tables, sample_data)
        sweeps.append(
            {
                "timestamp": sample_data["timestamp"] * MICROSECONDS,
                "sample_data_token": sample_data["token"],
                "ego2global": ego2global.tolist(),
                "lidar_points": {
                    "lidar_path": sample_data["filename"],
                    "lidar2ego": sweep2ego.tolist(),
                    "lidar2sensor": (np.linalg.inv(ego2global @ sweep2ego) @ lidar2global).tolist(),
                },
            }
        )
    return sweeps


def _collect_instances(tables: NuScenes, sample: Mapping[str, Any], lidar2global: np.ndarray) -> list[dict[str, Any]]:
    _, boxes, _ = tables.get_sample_data(sample["data"][LIDAR])
    global2lidar = lidar2global[:3, :3].T
    instances = []
    for box in boxes:
        annotation = tables.get("sample_annotation", box.token)
        name = category_to_detection_name(box.name)
        label = IGNORED if name is None else CLASSES.index(name)
        # The vertical part is dropped before the rotation, as mmdet3d does; both ends of a model see the same velocity.
        velocity = global2lidar @ np.array([*tables.box_velocity(box.token)[:2], 0.0])
        width, length, height = box.wlh
        instances.append(
            {
                "bbox_label": label,
                "bbox_label_3d": label,
                "bbox_3d": [*box.center.tolist(), length, width, height, box.orientation.yaw_pitch_roll[0]],
                "bbox_3d_isvalid": annotation["num_lidar_pts"] + annotation["num_radar_pts"] > 0,
                "num_lidar_pts": annotation["num_lidar_pts"],
                "num_radar_pts": annotation["num_radar_pts"],
                "velocity": velocity[:2].tolist(),
            }
        )
    return instances


def _splits_of(tables: NuScenes) -> tuple[str, ...]:
    custom = Path(tables.dataroot) / tables.version / "splits.json"
    if custom.is_file():
        return tuple(json.loads(custom.read_text()))
    if tables.version not in DEFAULT_SPLITS:
        raise InputError(f"unknown version {tables.version!r}: use one of {', '.join(DEFAULT_SPLITS)}")
    return DEFAULT_SPLITS[tables.version]


def _check_files(tables: NuScenes) -> None:
    """A key frame whose sensor file is missing would fail hours later, in the middle of a training."""
    files = [sd["filename"] for sd in tables.sample_data if sd["is_key_frame"] and sd["channel"] in (LIDAR, *CAMERAS)]
    missing = [name for name in files if not (Path(tables.dataroot) / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} key frame files are missing under {tables.dataroot}, first {missing[0]}: "
            "unpack all the archives of this version there"
        )


def _write_infos(path: Path, records: list[dict[str, Any]], *, version: str, split: str) -> None:
    metainfo = {
        "categories": {name: label for label, name in enumerate(CLASSES)},
        "dataset": "nuscenes",
        "version": version,
        "split": split,
        "info_version": "1.1",
    }
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump({"metainfo": metainfo, "data_list": records}, file)
