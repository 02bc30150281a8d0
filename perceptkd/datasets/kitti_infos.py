"""KITTI's info files as mmdet3d 1.4 reads them, and the order in which all that is made from its frames is written.

Conventions, all as in mmdet3d 1.4 (info format 2): ``bbox_3d`` is ``[x, y, z, length, height, width, rotation_y]`` in
the camera frame with the centre of the bottom as origin (the dataset turns it into the LiDAR frame); ``lidar2cam`` is
R0_rect times Tr_velo_to_cam; points are counted within the image. Where there is a ``planes`` folder, records have a
``plane``, on which mmdet3d's PointPillars puts sampled objects. Boxes per camera (``cam_instances``), which only
monocular detectors read, are not made.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_clouds import (
    NUM_POINT_FEATURES,
    REDUCED,
    Database,
    cut_to_image,
    points_in,
    read_points,
    write_pickle,
    write_points,
)
from perceptkd.datasets.kitti_files import (
    CAMERAS,
    CLASSES,
    COLOUR_CAMERA,
    DONT_CARE,
    IGNORED,
    Calibration,
    ObjectLabel,
    camera_boxes_to_lidar,
    read_calibration,
    read_labels,
    read_plane,
    to_square,
)
from perceptkd.progress import progress_bar

SPLITS = ("train", "val", "trainval", "test")
TRAINING, TESTING = "training", "testing"
#: Of the levels easy, moderate and hard: the box must be higher, occlusion and truncation at most this.
MIN_HEIGHTS_PX, MAX_OCCLUSIONS, MAX_TRUNCATIONS = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)


def info_path(root: str | Path, split: str) -> Path:
    """Where the info file of ``split`` lives.

    >>> info_path("data/kitti", "val").as_posix()
    'data/kitti/kitti_infos_val.pkl'
    """
    return Path(root) / f"kitti_infos_{split}.pkl"


def image_set_path(root: str | Path, split: str) -> Path:
    """Where the frames of ``split`` are listed."""
    return Path(root) / "ImageSets" / f"{split}.txt"


def folder_of(split: str) -> str:
    """The folder with the frames of a split.

    >>> folder_of("trainval"), folder_of("test")
    ('training', 'testing')
    """
    return TESTING if split == "test" else TRAINING


def create_kitti_infos(root: str | Path, *, splits: Iterable[str] | None = None) -> dict[str, Path]:
    """Writes ``kitti_infos_<split>.pkl`` for each split, and what mmdet3d's configs read beside it.

    That is ``velodyne_reduced`` of every frame and, with split 'train', ``gt_database`` and
    ``kitti_dbinfos_train.pkl``. Frames of ``testing`` without a ``label_2`` folder have no instances.

    Args:
        root: Folder with ``training/``, ``testing/`` and ``ImageSets/``.
        splits: Split names; by default those that ``ImageSets`` has a file for.

    Returns:
        The path of each split's file.

    Raises:
        FileNotFoundError: A folder or file is missing.
        InputError: A file is damaged or not KITTI's.
    """
    root = Path(root)
    numbers = {split: read_image_set(root, split) for split in _find_splits(root, splits)}
    frames = {(folder_of(split), number): None for split in numbers for number in numbers[split]}
    _check_files(root, frames)
    train = set(numbers.get("train", ()))
    records, database = {}, Database(root)
    for folder, number in progress_bar(sorted(frames), desc="frames of KITTI", unit="frame"):
        record, points = process_frame(root / folder, number)
        records[folder, number] = record
        if folder == TRAINING and number in train:
            database.add(number, record, points)
    if "train" in numbers:
        database.write()
    for split in numbers:
        chosen = [records[folder_of(split), number] for number in numbers[split]]
        write_pickle(info_path(root, split), {"metainfo": _metainfo(split), "data_list": chosen})
    return {split: info_path(root, split) for split in numbers}


def _find_splits(root: Path, splits: Iterable[str] | None) -> list[str]:
    if not any((root / folder / "velodyne").is_dir() for folder in (TRAINING, TESTING)):
        raise FileNotFoundError(
            f"no KITTI in {root}: unpack data_object_velodyne, _calib, _label_2 and _image_2 there, so that "
            f"{root / TRAINING / 'velodyne'} exists, or write a simulated one with "
            "`python tools/create_data.py simworld --format kitti --out data/simworld`"
        )
    found = [split for split in SPLITS if image_set_path(root, split).is_file()]
    chosen = found if splits is None else list(splits)
    unknown = [split for split in chosen if split not in SPLITS]
    if unknown:
        raise InputError(f"KITTI has no split {', '.join(unknown)}: choose of {', '.join(SPLITS)}")
    missing = [image_set_path(root, split) for split in chosen if split not in found]
    if missing or not chosen:
        raise FileNotFoundError(
            f"{missing[0] if missing else image_set_path(root, 'train')} is missing: KITTI comes without splits; put "
            "the usual lists of frames there (train.txt with 3,712 and val.txt with 3,769 of them, trainval.txt and "
            "test.txt), to which mmdet3d's documentation on KITTI links"
        )
    return chosen


def read_image_set(root: Path, split: str) -> list[str]:
    """The frames of a split, as their files are named.

    Raises:
        InputError: The file is empty, or a line is no number of six digits or occurs twice.
    """
    path = image_set_path(root, split)
    numbers = path.read_text().split()
    wrong = [number for number in numbers if len(number) != 6 or not number.isdigit()]
    if wrong or not numbers:
        raise InputError(f"{path} must have one number such as 000008 in each line, got {(wrong or ['nothing'])[0]!r}")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{path} has a frame twice: {next(n for n in numbers if numbers.count(n) > 1)}")
    return numbers


def _check_files(root: Path, frames: Iterable[tuple[str, str]]) -> None:
    """A frame whose file is missing would end the command after minutes."""
    suffixes = {"velodyne": "bin", "calib": "txt", "image_2": "png"}
    wanted = [root / folder / name / f"{number}.{suffixes[name]}" for folder, number in frames for name in suffixes]
    wanted += [
        root / folder / name / f"{number}.txt"
        for folder, number in frames
        for name in ("label_2", "planes")
        if (folder, name) == (TRAINING, "label_2") or (root / folder / name).is_dir()
    ]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(wanted)} files that ImageSets names are missing, first {missing[0]}: unpack all "
            "archives of KITTI's object data there, or leave a split out with --splits"
        )


def process_frame(folder: Path, number: str) -> tuple[dict[str, Any], np.ndarray]:
    """Cuts one frame's cloud to the image and collects its record.

    Args:
        folder: 'training' or 'testing' of the data root.
        number: As the frame's files are named.

    Returns:
        The record and the points [P, 4] in the image, which are written to ``velodyne_reduced``.
    """
    calibration = read_calibration(folder / "calib" / f"{number}.txt")
    with Image.open(folder / "image_2" / f"{number}.png") as image:
        size = image.size
    points = cut_to_image(read_points(folder / "velodyne" / f"{number}.bin"), calibration, size)
    write_points(folder / REDUCED / f"{number}.bin", points)
    label_path = folder / "label_2" / f"{number}.txt"
    labels = read_labels(label_path) if label_path.is_file() else []
    record = {
        "sample_idx": int(number),
        "images": _collect_images(calibration, number, size),
        "lidar_points": {
            "num_pts_feats": NUM_POINT_FEATURES,
            "lidar_path": f"{number}.bin",
            "Tr_velo_to_cam": to_square(calibration.velo_to_cam).tolist(),
            "Tr_imu_to_velo": to_square(calibration.imu_to_velo).tolist(),
        },
        "instances": _collect_instances(labels, calibration, points),
    }
    plane_path = folder / "planes" / f"{number}.txt"
    if plane_path.is_file():
        record["plane"] = read_plane(plane_path)
    return record, points


def _collect_images(calibration: Calibration, number: str, size: tuple[int, int]) -> dict[str, Any]:
    images: dict[str, Any] = {}
    for camera, projection in zip(CAMERAS, calibration.projections):
        cam2img = to_square(projection)
        images[camera] = {"cam2img": cam2img.tolist(), "lidar2img": (cam2img @ calibration.lidar2cam).tolist()}
    images[CAMERAS[COLOUR_CAMERA]] |= {
        "img_path": f"{number}.png",
        "width": size[0],
        "height": size[1],
        "lidar2cam": calibration.lidar2cam.tolist(),
    }
    return images | {"R0_rect": to_square(calibration.rect).tolist()}


def _collect_instances(labels: list[ObjectLabel], calibration: Calibration, points: np.ndarray) -> list[dict[str, Any]]:
    """The annotations of one frame, of which those of DontCare have label -1; points [P, 4] are those in the image."""
    boxes = np.array([(*label.location, *np.array(label.size_hwl)[[2, 0, 1]], label.rotation_y) for label in labels])
    boxes = boxes.reshape(-1, 7)
    counts = points_in(points, camera_boxes_to_lidar(boxes, calibration.lidar2cam)).sum(0)
    middle = boxes[:, :3] - boxes[:, 4:5] * [0.0, 0.5, 0.0]
    projection = calibration.projections[COLOUR_CAMERA]
    homogeneous = middle @ projection[:, :3].T + projection[:, 3]
    instances, index = [], 0
    for i, label in enumerate(labels):
        is_object = label.type != DONT_CARE
        class_index = CLASSES.index(label.type) if is_object else IGNORED
        instances.append(
            {
                "bbox": list(label.bbox),
                "bbox_label": class_index,
                "bbox_3d": boxes[i].tolist(),
                "bbox_label_3d": class_index,
                "depth": float(homogeneous[i, 2]),
                "center_2d": (homogeneous[i, :2] / homogeneous[i, 2]).tolist(),
                "num_lidar_pts": int(counts[i]) if is_object else IGNORED,
                "difficulty": difficulty(label),
                "truncated": label.truncated,
                "occluded": label.occluded,
                "alpha": label.alpha,
                "score": 0.0,
                "index": index if is_object else IGNORED,
                "group_id": i,
            }
        )
        index += is_object
    return instances


def difficulty(label: ObjectLabel) -> int:
    """0 easy, 1 moderate, 2 hard, -1 none of them, as mmdet3d's sampling takes it."""
    height = label.bbox[3] - label.bbox[1]
    levels = zip(MIN_HEIGHTS_PX, MAX_OCCLUSIONS, MAX_TRUNCATIONS)
    for level, (least, occluded, truncated) in enumerate(levels):
        if label.type != DONT_CARE and height > least and label.occluded <= occluded and label.truncated <= truncated:
            return level
    return IGNORED


def _metainfo(split: str) -> dict[str, Any]:
    categories = {name: label for label, name in enumerate(CLASSES)} | {DONT_CARE: IGNORED}
    return {"categories": categories, "dataset": "kitti", "split": split, "info_version": "1.1"}
