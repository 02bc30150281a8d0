"""SemanticKITTI: its labels, the 19 classes that are learned, and info files as mmdet3d 1.4 reads them.

A ``.label`` file has one uint32 per point: the label in the lower 16 bits, the object's number in the upper ones.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_clouds import NUM_POINT_FEATURES, write_pickle

#: The 19 classes of the single-scan benchmark in mmdet3d's order, by SemanticKITTI's names.
CLASSES = (
    "car",
    "bicycle",
    "motorcycle",
    "truck",
    "other-vehicle",
    "person",
    "bicyclist",
    "motorcyclist",
    "road",
    "parking",
    "sidewalk",
    "other-ground",
    "building",
    "fence",
    "vegetation",
    "trunk",
    "terrain",
    "pole",
    "traffic-sign",
)
#: What is not learned, and ignored by metrics: mmdet3d's ``ignore_index``.
IGNORED = len(CLASSES)
#: Labels that have a class of the same name.
_NAMED = {
    10: "car", 11: "bicycle", 15: "motorcycle", 18: "truck", 20: "other-vehicle", 30: "person", 31: "bicyclist",
    32: "motorcyclist", 40: "road", 44: "parking", 48: "sidewalk", 49: "other-ground", 50: "building", 51: "fence",
    70: "vegetation", 71: "trunk", 72: "terrain", 80: "pole", 81: "traffic-sign",
}  # fmt: skip
#: Bus, on-rails, lane-marking, and what moves: they are learned as another class.
_MERGED = {
    13: "other-vehicle", 16: "other-vehicle", 60: "road", 252: "car", 253: "bicyclist", 254: "person",
    255: "motorcyclist", 256: "other-vehicle", 257: "other-vehicle", 258: "truck", 259: "other-vehicle",
}  # fmt: skip
#: Unlabeled, outlier, other-structure, other-object.
_NOT_LEARNED = (0, 1, 52, 99)
#: Label of a file -> index into ``CLASSES`` or ``IGNORED``.
LEARNING_MAP = {label: CLASSES.index(name) for label, name in sorted((_NAMED | _MERGED).items())} | dict.fromkeys(
    _NOT_LEARNED, IGNORED
)
#: Label of a thing that stands -> that of one that moves.
MOVING = {10: 252, 31: 253, 30: 254, 32: 255, 16: 256, 13: 257, 18: 258, 20: 259}
INSTANCE_SHIFT = 16
SPLITS_FILE = "splits.json"
OFFICIAL_SPLITS = {
    "train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"),
    "val": ("08",),
    "test": tuple(str(sequence) for sequence in range(11, 22)),
}


def info_path(root: str | Path, split: str) -> Path:
    """Where the info file of ``split`` lives.

    >>> info_path("data/semantickitti", "val").as_posix()
    'data/semantickitti/semantickitti_infos_val.pkl'
    """
    return Path(root) / f"semantickitti_infos_{split}.pkl"


def pack_labels(semantic: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Labels [N] and objects' numbers [N] as a file stores them, uint32 [N].

    >>> pack_labels(np.array([252]), np.array([3])).tolist() == [3 * 65536 + 252]
    True
    """
    return semantic.astype(np.uint32) | instance.astype(np.uint32) << INSTANCE_SHIFT


def create_semantickitti_infos(
    root: str | Path, *, splits: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Path]:
    """Writes ``semantickitti_infos_<split>.pkl`` for each split.

    Args:
        root: Folder with ``sequences/``.
        splits: Sequences by split; by default those of the data root's splits.json, or the official ones.

    Returns:
        The path of each split's file.

    Raises:
        FileNotFoundError: A sequence or a label file is missing.
        InputError: A cloud and its labels differ in length.
    """
    root = Path(root)
    if splits is None:
        custom = root / SPLITS_FILE
        splits = json.loads(custom.read_text()) if custom.is_file() else OFFICIAL_SPLITS
    infos = {
        split: [record for sequence in sequences for record in _collect_sequence(root, split, sequence)]
        for split, sequences in splits.items()
    }
    for split, records in infos.items():
        metainfo = {"dataset": "SemanticKITTI", "split": split, "info_version": "1.1"}
        write_pickle(info_path(root, split), {"metainfo": metainfo, "data_list": records})
    return {split: info_path(root, split) for split in infos}


def _collect_sequence(root: Path, split: str, sequence: str) -> list[dict[str, Any]]:
    folder = root / "sequences" / sequence
    clouds = sorted((folder / "velodyne").glob("*.bin"))
    if not clouds:
        raise FileNotFoundError(
            f"{folder / 'velodyne'} has no clouds: unpack data_odometry_velodyne.zip and data_odometry_labels.zip in "
            f"{root}, or write simulated ones with "
            "`python tools/create_data.py simworld --format semantickitti --out data/simworld`"
        )
    has_labels = split != "test" or (folder / "labels").is_dir()
    return [_collect_scan(folder, cloud, has_labels=has_labels) for cloud in clouds]


def _collect_scan(folder: Path, cloud: Path, *, has_labels: bool) -> dict[str, Any]:
    """The record of one scan, with paths relative to the data root as mmdet3d joins them."""
    place = f"sequences/{folder.name}"
    record = {
        "sample_idx": folder.name + cloud.stem,
        "lidar_points": {"lidar_path": f"{place}/velodyne/{cloud.name}", "num_pts_feats": NUM_POINT_FEATURES},
    }
    if not has_labels:
        return record
    labels = folder / "labels" / f"{cloud.stem}.label"
    if not labels.is_file():
        raise FileNotFoundError(f"{labels} is missing: unpack data_odometry_labels.zip again")
    point_bytes, label_bytes = 4 * NUM_POINT_FEATURES, 4
    if cloud.stat().st_size * label_bytes != labels.stat().st_size * point_bytes:
        raise InputError(f"{labels} does not have one label for every point of {cloud}: unpack both again")
    return record | {"pts_semantic_mask_path": f"{place}/labels/{labels.name}"}
