"""KITTI's clouds: read, cut to the image, and cut out by object for the ground-truth database."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perceptkd.atomic import atomic_path
from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_files import (
    CAMERAS,
    CLASSES,
    COLOUR_CAMERA,
    IGNORED,
    Calibration,
    camera_boxes_to_lidar,
)
from perceptkd.ops.points_in_boxes import points_in_boxes

REDUCED = "velodyne_reduced"
DATABASE = "gt_database"
NUM_POINT_FEATURES = 4


def read_points(path: Path) -> np.ndarray:
    """A cloud [P, 4] float32 of x, y, z and intensity.

    Raises:
        InputError: The file is cut, or a number is not finite.
    """
    values = np.fromfile(path, np.float32)
    if values.size % NUM_POINT_FEATURES or not np.isfinite(values).all():
        raise InputError(f"{path} is no cloud of four finite float32 per point: unpack data_object_velodyne.zip again")
    return values.reshape(-1, NUM_POINT_FEATURES)


def cut_to_image(points: np.ndarray, calibration: Calibration, size: tuple[int, int]) -> np.ndarray:
    """The points [P, 4] that lie before camera 2 and within its image of (width, height) pixels."""
    pixels, depth = calibration.project(points)
    return points[(depth > 0) & (pixels >= 0).all(1) & (pixels < size).all(1)]


def points_in(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which of the points [P, 3+] lie in which of the boxes [N, 7] of the LiDAR frame, bool [P, N]."""
    return points_in_boxes(torch.from_numpy(points), torch.from_numpy(boxes.astype(np.float32))).numpy()


def database_path(root: str | Path) -> Path:
    """Where the index of the ground-truth database lives."""
    return Path(root) / "kitti_dbinfos_train.pkl"


class Database:
    """The points of every annotated object, for augmentation by ground-truth sampling (mmdet3d's ``ObjectSample``)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.infos: dict[str, list[dict[str, Any]]] = {}
        self.count = 0

    def add(self, number: str, record: Mapping[str, Any], points: np.ndarray) -> None:
        """Writes the points of a frame's objects, relative to the centre of the bottom of their boxes."""
        lidar2cam = np.array(record["images"][CAMERAS[COLOUR_CAMERA]]["lidar2cam"])
        objects = [instance for instance in record["instances"] if instance["bbox_label"] != IGNORED]
        boxes = np.array([instance["bbox_3d"] for instance in objects]).reshape(-1, 7)
        boxes = camera_boxes_to_lidar(boxes, lidar2cam).astype(np.float32)
        inside = points_in(points, boxes)
        for i, instance in enumerate(objects):
            name = CLASSES[instance["bbox_label"]]
            path = f"{DATABASE}/{number}_{name}_{i}.bin"
            chosen = points[inside[:, i]]
            chosen[:, :3] -= boxes[i, :3]
            write_points(self.root / path, chosen)
            self.infos.setdefault(name, []).append(
                {
                    "name": name,
                    "path": path,
                    "image_idx": int(number),
                    "gt_idx": i,
                    "box3d_lidar": boxes[i],
                    "num_points_in_gt": len(chosen),
                    "difficulty": instance["difficulty"],
                    "group_id": self.count,
                    "score": 0.0,
                }
            )
            self.count += 1

    def write(self) -> None:
        """Writes the index: the objects of every class that has some."""
        write_pickle(database_path(self.root), self.infos)


def write_points(path: Path, points: np.ndarray) -> None:
    """Writes a cloud, whole or not at all."""
    with atomic_path(path) as temporary:
        points.tofile(temporary)


def write_pickle(path: Path, content: Any) -> None:
    """Writes an info file, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(content, file)
