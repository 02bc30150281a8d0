"""Writes scenes as KITTI's object detection data set: clouds, left colour images, calibration and labels.

As in the real one: frames numbered throughout, LiDAR and camera read at the same moment, only what the image shows is
labelled, and the splits are files of ``ImageSets``: split ``train`` is train.txt, ``tune`` is val.txt, both are
trainval.txt and ``report`` is test.txt, whose frames are in ``testing``. Unlike it, frames follow one another at 2 Hz,
``testing`` has labels, occlusion is never unknown, and there are rain, fog and night.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from perceptkd.atomic import write_text
from perceptkd.datasets.kitti_files import Calibration, format_calibration, format_label, format_plane
from perceptkd.datasets.kitti_infos import create_kitti_infos, folder_of, image_set_path, info_path
from perceptkd.datasets.simworld import LidarSweep, WorldSpec, build_scene, cast_lidar, render_camera
from perceptkd.datasets.simworld.kitti_rig import CAMERA, KITTI_RIG, kitti_calibration
from perceptkd.datasets.simworld.semantics import ROAD, SIDEWALK
from perceptkd.datasets.simworld.writers.base import write_file, write_world
from perceptkd.datasets.simworld.writers.kitti_labels import KittiLabeller
from perceptkd.datasets.simworld.writers.plan import KITTI_SPLITS, WorldPlan, kitti_scenes

#: The ground is fitted to what lies ahead as far as this.
GROUND_M = 40.0
#: What the writer leaves in the data root, besides world.json.
OUTPUTS = ("training", "testing", "ImageSets", "gt_database", "kitti_*.pkl")
#: Measured, with room: PNG bytes per pixel, a cloud with its part in the image, and its objects in the database.
BYTES_PER_PIXEL = 2.2
BYTES_PER_CLOUD = 125_000 * 16 * 1.3


class Place(NamedTuple):
    """Where the frames of a scene go: 'training' or 'testing', and the number of the first."""

    folder: str
    first: int


def write_kitti_world(plan: WorldPlan, root: Path, *, workers: int = 1, overwrite: bool = False) -> dict[str, Any]:
    """Writes ``plan`` (of :func:`plan_kitti`) as a KITTI data root with info files; see :func:`write_world`."""
    width, height = plan.image_size
    manifest = write_world(
        plan,
        root,
        write_scene=partial(write_kitti_scene, places_of(plan)),
        finish=finish_kitti,
        outputs=OUTPUTS,
        bytes_per_keyframe=round(width * height * BYTES_PER_PIXEL + BYTES_PER_CLOUD),
        workers=workers,
        overwrite=overwrite,
    )
    if not all(path.is_file() for path in info_files(plan, root)):
        create_kitti_infos(root)
    return manifest


def info_files(plan: WorldPlan, root: Path) -> list[Path]:
    """The info file of each split that has frames."""
    return [info_path(root, split) for split in image_sets(plan)]


def places_of(plan: WorldPlan) -> dict[str, Place]:
    """The place of each scene by its name; frames are numbered in the order of :func:`kitti_scenes`."""
    folders = {scene: folder_of(name) for name, split in KITTI_SPLITS.items() for scene in plan.splits.get(split, ())}
    return {scene: Place(folders[scene], index * plan.num_keyframes) for index, scene in enumerate(kitti_scenes(plan))}


def image_sets(plan: WorldPlan) -> dict[str, list[str]]:
    """The frames of each ``ImageSets`` file by its name, those without frames left out."""
    places = places_of(plan)

    def frames(*splits: str) -> list[str]:
        firsts = sorted(places[scene].first for split in splits for scene in plan.splits.get(split, ()))
        return [frame_name(first + index) for first in firsts for index in range(plan.num_keyframes)]

    sets = {name: frames(split) for name, split in KITTI_SPLITS.items()}
    sets["trainval"] = frames(KITTI_SPLITS["train"], KITTI_SPLITS["val"])
    return {name: numbers for name, numbers in sets.items() if numbers}


def frame_name(number: int) -> str:
    """A frame's number as its files are named.

    >>> frame_name(8)
    '000008'
    """
    return f"{number:06d}"


def finish_kitti(plan: WorldPlan, root: Path, rows: Mapping[str, Any]) -> None:
    """The splits and all that is made from the frames: info files, reduced clouds, ground-truth database."""
    for name, numbers in image_sets(plan).items():
        write_text(image_set_path(root, name), "".join(f"{number}\n" for number in numbers))
    create_kitti_infos(root)


def write_kitti_scene(
    places: Mapping[str, Place], spec: WorldSpec, folder: Path, count_frame: Callable[[], None]
) -> dict[str, Any]:
    """Writes one scene's files under ``folder``; there are no table rows."""
    scene, calibration = build_scene(spec), kitti_calibration(spec.image_size)
    labeller = KittiLabeller(scene, calibration, spec.image_size)
    place = places[spec.scene_name]
    for number, t in enumerate(scene.keyframe_times.tolist(), place.first):
        frame = render_camera(scene, CAMERA, t, rig=KITTI_RIG)
        sweep = cast_lidar(scene, t, rig=KITTI_RIG)
        labels = "".join(f"{format_label(label)}\n" for label in labeller.labels(t, frame, sweep))
        for name, content in {
            "velodyne/{}.bin": sweep.points[:, :4].tobytes(),
            "image_2/{}.png": cv2.imencode(".png", frame.rgb[:, :, ::-1])[1].tobytes(),
            "calib/{}.txt": format_calibration(calibration).encode(),
            "label_2/{}.txt": labels.encode(),
            "planes/{}.txt": format_plane(fit_ground(sweep, calibration)).encode(),
        }.items():
            write_file(folder / place.folder / name.format(frame_name(number)), content)
        count_frame()
    return {}


def fit_ground(sweep: LidarSweep, calibration: Calibration) -> np.ndarray:
    """The plane [4] in the camera frame, its normal up, that is nearest to the street ahead (least squares in height).

    Sums are numpy's own: those of a BLAS library depend on its number of threads.
    """
    points = sweep.points[:, :3].astype(np.float64)
    is_ground = np.isin(sweep.semantic, (ROAD, SIDEWALK)) & (points[:, 0] > 0) & (points[:, 0] < GROUND_M)
    terms = np.column_stack([points[is_ground, :2], np.ones(is_ground.sum())])
    left, right = np.einsum("pi,pj->ij", terms, terms), np.einsum("pi,p->i", terms, points[is_ground, 2])
    slope_x, slope_y, height = np.linalg.solve(left, right)
    normal = np.array([-slope_x, -slope_y, 1.0]) / np.linalg.norm([slope_x, slope_y, 1.0])
    up = calibration.lidar2cam[:3, :3] @ normal
    on_plane = calibration.lidar2cam @ [0.0, 0.0, height, 1.0]
    return np.append(up, -up @ on_plane[:3])
