"""Writes scenes as nuScenes v1.0: files of key frames and LiDAR sweeps, and the rows of the tables.

As in the real data set: 2 Hz key frames, a LiDAR sweep every 50 ms, an ego pose for every file at its own timestamp,
annotations within 80 m of the car, and camera images at the moment when the LiDAR passes them. Unlike it, there are no
radars and no camera sweeps, and every scene has a log and a map mask of its own.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from perceptkd.atomic import write_text
from perceptkd.datasets.nuscenes_infos import create_nuscenes_infos, info_path
from perceptkd.datasets.simworld import RIG, Scene, WorldSpec, build_scene, cast_lidar, render_camera
from perceptkd.datasets.simworld.calibration import CAMERAS, LIDAR
from perceptkd.datasets.simworld.writers.base import write_file, write_world
from perceptkd.datasets.simworld.writers.nuscenes_map import draw_map, map_origin
from perceptkd.datasets.simworld.writers.nuscenes_tables import (
    SCENE_TABLES,
    Row,
    make_token,
    visibility_token,
    write_tables,
)
from perceptkd.datasets.simworld.writers.plan import MINI, TRAINVAL, WorldPlan
from perceptkd.datasets.simworld.writers.visibility import AgentShapes, seen_pixels, visible_shares

ANNOTATION_RANGE_M = 80.0
SLACK_M = 0.1
JPEG_QUALITY = 90
START_US = 1_532_402_900_000_000
US_PER_SCENE_NUMBER = 100_000_000
#: What the writer leaves in the data root, besides world.json.
OUTPUTS = ("samples", "sweeps", "maps", MINI, TRAINVAL, "nuscenes_infos_*.pkl")
#: Measured, with room: JPEG bytes per pixel, and points of a sweep.
BYTES_PER_PIXEL = 0.35
BYTES_PER_SWEEP = 32_000 * 5 * 4


def write_nuscenes_world(plan: WorldPlan, root: Path, *, workers: int = 1, overwrite: bool = False) -> dict[str, Any]:
    """Writes ``plan`` as a nuScenes data root with info files; see :func:`write_world`."""
    width, height = plan.image_size
    manifest = write_world(
        plan,
        root,
        write_scene=write_nuscenes_scene,
        finish=finish_nuscenes,
        outputs=OUTPUTS,
        bytes_per_keyframe=round(len(CAMERAS) * width * height * BYTES_PER_PIXEL + (1 + plan.sweeps) * BYTES_PER_SWEEP),
        workers=workers,
        overwrite=overwrite,
    )
    if not all(path.is_file() for path in info_files(plan, root)):
        create_nuscenes_infos(root, plan.version, splits=_nonempty_splits(plan))
    return manifest


def _nonempty_splits(plan: WorldPlan) -> list[str]:
    return [split for split, names in plan.splits.items() if names]


def info_files(plan: WorldPlan, root: Path) -> list[Path]:
    """The info file of each split that has scenes."""
    return [info_path(root, split) for split in _nonempty_splits(plan)]


def finish_nuscenes(plan: WorldPlan, root: Path, rows: dict[str, dict[str, Any]]) -> None:
    """The tables of all scenes, splits.json where the splits are not the official ones, and the info files."""
    write_tables(root / plan.version, rows.values())
    if plan.version != MINI:
        splits = {split: list(names) for split, names in plan.splits.items()}
        write_text(root / plan.version / "splits.json", json.dumps(splits, indent=2))
    create_nuscenes_infos(root, plan.version, splits=_nonempty_splits(plan))


def write_nuscenes_scene(spec: WorldSpec, folder: Path, count_frame: Callable[[], None]) -> dict[str, Any]:
    """Writes one scene's files under ``folder`` and returns its table rows."""
    writer = _SceneWriter(spec, folder)
    for keyframe in range(spec.num_keyframes):
        writer.write_keyframe(keyframe)
        count_frame()
    return writer.finish()


class _SceneWriter:
    """Collects the rows of one scene while its files are written."""

    def __init__(self, spec: WorldSpec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.scene: Scene = build_scene(spec)
        self.sizes_wlh = np.array([agent.size_wlh for agent in self.scene.agents]).reshape(-1, 3)
        self.shapes = AgentShapes(self.scene.agents)
        self.origin = np.append(map_origin(self.scene.road), 0.0)
        self.rows: dict[str, list[Row]] = {name: [] for name in SCENE_TABLES}
        self.start_us = START_US + int(spec.scene_name.rpartition("-")[2]) * US_PER_SCENE_NUMBER
        self.logfile = f"simworld-{spec.seed}-{spec.scene_name}"
        self._write_log()
        self._write_calibration()

    def token(self, kind: str, *name: object) -> str:
        """A token that belongs to this scene."""
        return make_token(self.spec.seed, self.spec.scene_name, kind, *name)

    def timestamp(self, t: float) -> int:
        """Microseconds of scene time ``t`` in seconds."""
        return self.start_us + round(t * 1e6)

    def ego_pose(self, t: float) -> np.ndarray:
        """global_from_ego [4, 4]."""
        pose = self.scene.ego_pose(t).copy()
        pose[:3, 3] -= self.origin
        return pose

    def agent_poses(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Global box centres [N, 3] and headings [N] of all agents."""
        centers, yaws = self.scene.agent_poses(t)
        return centers - self.origin, yaws

    def _write_log(self) -> None:
        log, mask = self.token("log"), self.token("map")
        filename = f"maps/{mask}.png"
        write_file(self.folder / filename, cv2.imencode(".png", draw_map(self.scene.road))[1].tobytes())
        self.rows["map"].append(
            {"token": mask, "category": "semantic_prior", "filename": filename, "log_tokens": [log]}
        )
        self.rows["log"].append(
            {
                "token": log,
                "logfile": self.logfile,
                "vehicle": "simworld",
                "date_captured": "2018-07-24",
                "location": "simworld",
            }
        )

    def _write_calibration(self) -> None:
        for channel in (LIDAR, *CAMERAS):
            sensor = RIG[channel]
            self.rows["calibrated_sensor"].append(
                {
                    "token": self.token("calibrated_sensor", channel),
                    "sensor_token": make_token("sensor", channel),
                    **pose_fields(sensor.ego_from_sensor),
                    "camera_intrinsic": [] if channel == LIDAR else self._intrinsics(channel).tolist(),
                }
            )

    def _intrinsics(self, camera: str) -> np.ndarray:
        return RIG[camera].intrinsics_at(self.spec.image_size)

    def write_keyframe(self, keyframe: int) -> None:
        """The sweeps since the key frame before, this key frame's files and its annotations."""
        scene, sample = self.scene, self.token("sample", keyframe)
        sweeps_per_keyframe = self.spec.sweeps_between + 1
        last = keyframe * sweeps_per_keyframe
        for index in range(max(0, last - self.spec.sweeps_between), last):
            self._write_sweep(scene.lidar_times[index], sample, key_frame=False)
        t = scene.keyframe_times[keyframe]
        self.rows["sample"].append(
            {"token": sample, "timestamp": self.timestamp(t), "scene_token": self.token("scene")}
        )
        points = self._write_sweep(t, sample, key_frame=True)
        seen = [self._write_image(camera, scene.camera_times(camera, keyframe), sample) for camera in CAMERAS]
        self._annotate(t, sample, points, visible_shares(*np.sum(seen, axis=0)))

    def _write_sweep(self, t: float, sample: str, *, key_frame: bool) -> np.ndarray:
        points = cast_lidar(self.scene, t).points
        self._add_data(LIDAR, t, sample, points, key_frame=key_frame)
        return points

    def _write_image(self, camera: str, t: float, sample: str) -> tuple[np.ndarray, np.ndarray]:
        """Renders one camera; returns every agent's pixels [N] as seen and without anything before it."""
        frame = render_camera(self.scene, camera, t, self.spec.image_size)
        jpeg = cv2.imencode(".jpg", frame.rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        self._add_data(camera, t, sample, jpeg, key_frame=True)
        unoccluded = self.shapes.silhouettes(
            self.scene.agent_poses(t),
            camera=self.scene.ego_pose(t) @ RIG[camera].ego_from_sensor,
            intrinsics=self._intrinsics(camera),
            size=self.spec.image_size,
        ).pixels
        return seen_pixels(frame.instance, len(self.sizes_wlh)), unoccluded

    def _add_data(self, channel: str, t: float, sample: str, content: np.ndarray, *, key_frame: bool) -> None:
        """Stores one file with its rows: the file and the ego pose at its own time."""
        timestamp = self.timestamp(t)
        token = self.token("sample_data", channel, timestamp)
        suffix, (width, height) = (".pcd.bin", (0, 0)) if channel == LIDAR else (".jpg", self.spec.image_size)
        place = "samples" if key_frame else "sweeps"
        filename = f"{place}/{channel}/{self.logfile}__{channel}__{timestamp}{suffix}"
        write_file(self.folder / filename, content.tobytes())
        self.rows["ego_pose"].append({"token": token, "timestamp": timestamp, **pose_fields(self.ego_pose(t))})
        self.rows["sample_data"].append(
            {
                "token": token,
                "sample_token": sample,
                "ego_pose_token": token,
                "calibrated_sensor_token": self.token("calibrated_sensor", channel),
                "timestamp": timestamp,
                "fileformat": suffix.split(".")[1],
                "is_key_frame": key_frame,
                "height": height,
                "width": width,
                "filename": filename,
            }
        )

    def _annotate(self, t: float, sample: str, points: np.ndarray, shares: np.ndarray) -> None:
        """Rows of the agents within range at time ``t``; points [P, 5] of the key frame's sweep."""
        ego = self.ego_pose(t)
        centers, yaws = self.agent_poses(t)
        near = np.linalg.norm(centers[:, :2] - ego[:2, 3], axis=1) <= ANNOTATION_RANGE_M
        for i in np.flatnonzero(near):
            agent = self.scene.agents[i]
            attribute = agent.attribute(t)
            box = Box(centers[i].tolist(), self.sizes_wlh[i].tolist(), Quaternion(axis=(0, 0, 1), radians=yaws[i]))
            row = {
                "token": self.token("sample_annotation", agent.instance_id, sample),
                "sample_token": sample,
                "instance_token": self.token("instance", agent.instance_id),
                "visibility_token": visibility_token(shares[i]),
                "attribute_tokens": [make_token("attribute", attribute)] if attribute else [],
                "translation": box.center.tolist(),
                "size": box.wlh.tolist(),
                "rotation": box.orientation.elements.tolist(),
                "num_radar_pts": 0,
            }
            # Through the stored poses in the order of the devkit's get_sample_data: it counts the same points.
            for pose in (pose_fields(ego), pose_fields(RIG[LIDAR].ego_from_sensor)):
                box.translate(-np.array(pose["translation"]))
                box.rotate(Quaternion(pose["rotation"]).inverse)
            self.rows["sample_annotation"].append({**row, "num_lidar_pts": count_points(box, points)})

    def finish(self) -> dict[str, Any]:
        """Links the rows to chains and adds those that sum up the scene."""
        rows = self.rows
        link(rows["sample"])
        for chain in _grouped(rows["sample_data"], "calibrated_sensor_token").values():
            link(chain)
        annotations = _grouped(rows["sample_annotation"], "instance_token")
        for agent in self.scene.agents:
            instance = self.token("instance", agent.instance_id)
            if instance in annotations:
                chain = annotations[instance]
                link(chain)
                rows["instance"].append(
                    {
                        "token": instance,
                        "category_token": make_token("category", agent.category),
                        "nbr_annotations": len(chain),
                        "first_annotation_token": chain[0]["token"],
                        "last_annotation_token": chain[-1]["token"],
                    }
                )
        rows["scene"].append(
            {
                "token": self.token("scene"),
                "log_token": self.token("log"),
                "nbr_samples": len(rows["sample"]),
                "first_sample_token": rows["sample"][0]["token"],
                "last_sample_token": rows["sample"][-1]["token"],
                "name": self.spec.scene_name,
                "description": self.scene.description,
            }
        )
        return rows


def count_points(box: Box, points: np.ndarray) -> int:
    """How many points [P, 3+] lie inside ``box`` (same frame), by the devkit's own test.

    >>> count_points(Box([0, 0, 0], [2, 4, 2], Quaternion()), np.array([[1.9, 0.9, 0.0], [0.0, 1.9, 0.0]]))
    1
    """
    reach = np.linalg.norm(box.wlh) / 2 + SLACK_M
    near = points[(np.abs(points[:, :3] - box.center) <= reach).all(axis=1), :3]
    return int(points_in_box(box, near.T).sum())


def pose_fields(pose: np.ndarray) -> dict[str, list[float]]:
    """A transform [4, 4] as nuScenes stores it.

    >>> pose_fields(np.eye(4))
    {'translation': [0.0, 0.0, 0.0], 'rotation': [1.0, 0.0, 0.0, 0.0]}
    """
    return {"translation": pose[:3, 3].tolist(), "rotation": Quaternion(matrix=pose[:3, :3]).elements.tolist()}


def link(rows: list[Row]) -> None:
    """Sets ``prev`` and ``next`` of rows that follow one another in time.

    >>> chain = [{"token": "a"}, {"token": "b"}]
    >>> link(chain)
    >>> chain
    [{'token': 'a', 'prev': '', 'next': 'b'}, {'token': 'b', 'prev': 'a', 'next': ''}]
    """
    for i, row in enumerate(rows):
        row["prev"] = rows[i - 1]["token"] if i else ""
        row["next"] = rows[i + 1]["token"] if i + 1 < len(rows) else ""


def _grouped(rows: list[Row], key: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups
