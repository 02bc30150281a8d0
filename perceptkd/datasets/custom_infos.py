"""A data set of your own, from a folder of clouds and box files to what :class:`CustomDataset` reads.

``ROOT/points/<frame>.bin`` holds x, y, z and intensity as float32, ``ROOT/custom_infos_<split>.pkl`` the records in
mmdet3d's info format 2: ``bbox_3d`` is ``[x, y, z, length, width, height, yaw]`` with the centre of the box as origin.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perceptkd.core.errors import InputError
from perceptkd.datasets.box_table import Box
from perceptkd.datasets.kitti_clouds import write_pickle, write_points
from perceptkd.datasets.point_files import NUM_FEATURES, SUFFIXES, read_cloud
from perceptkd.ops.points_in_boxes import points_in_boxes
from perceptkd.progress import progress_bar

#: float32 is exact to a millimetre up to here.
LARGEST_COORDINATE_M = 10_000.0


def info_path(root: str | Path, split: str) -> Path:
    """Where the info file of ``split`` lives.

    >>> info_path("data/mine", "train").as_posix()
    'data/mine/custom_infos_train.pkl'
    """
    return Path(root) / f"custom_infos_{split}.pkl"


def find_clouds(folder: str | Path) -> dict[str, Path]:
    """The clouds in a folder and below it, by frame: the path below the folder, without suffix."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    clouds: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            frame = path.relative_to(folder).with_suffix("").as_posix()
            if frame in clouds:
                raise InputError(f"the frame {frame} has two clouds: {clouds[frame]} and {path}")
            clouds[frame] = path
    if not clouds:
        raise InputError(f"{folder} holds no cloud: no file ends in {', '.join(SUFFIXES)}")
    return clouds


def split_frames(frames: Sequence[str], *, val_fraction: float, seed: int) -> dict[str, list[str]]:
    """Frames drawn at random for ``train`` and ``val``, each in order.

    Neighbours of one drive look alike: list the drives of each split in files instead where there are drives.

    >>> {name: len(part) for name, part in split_frames(list("abcde"), val_fraction=0.2, seed=0).items()}
    {'train': 4, 'val': 1}
    """
    count = round(val_fraction * len(frames))
    if not 0 < count < len(frames):
        raise InputError(f"a share of {val_fraction:g} of {len(frames)} frames leaves a split without any frame")
    chosen = set(np.random.default_rng(seed).permutation(len(frames))[:count].tolist())
    ordered = sorted(frames)
    return {
        "train": [frame for index, frame in enumerate(ordered) if index not in chosen],
        "val": [frame for index, frame in enumerate(ordered) if index in chosen],
    }


def read_splits(files: Mapping[str, str | Path], frames: Iterable[str]) -> dict[str, list[str]]:
    """Split name -> frames, from files with a frame per line; frames in no file are left out."""
    known, place_of = set(frames), {}
    splits: dict[str, list[str]] = {}
    for split, path in files.items():
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no split file {path}")
        splits[split] = []
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            frame, place = line.strip(), f"{path}, line {number}"
            if not frame:
                continue
            if frame not in known:
                raise InputError(f"{place}: there is no cloud of the frame {frame!r}{_hint(frame, known)}")
            if frame in place_of:
                raise InputError(f"{place}: the frame {frame!r} stands in {place_of[frame]} as well")
            place_of[frame] = place
            splits[split].append(frame)
        if not splits[split]:
            raise InputError(f"{path} names no frame")
    return splits


def _hint(frame: str, known: set[str]) -> str:
    """What is probably wrong with a frame that is not known."""
    bare = Path(frame).with_suffix("").as_posix()
    return f"; frames have no suffix: {bare}" if bare in known else f"; the first one is {min(known)!r}"


@dataclass
class Summary:
    """What was written, for a look at it before the training.

    Attributes:
        paths: Info files by split.
        frames: Frames by split.
        sizes: Class -> length, width and height of its boxes [m].
        empty: Class -> boxes without a point.
        dropped: Points that were NaN or infinite.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, list[tuple[float, ...]]] = field(default_factory=lambda: defaultdict(list))
    empty: Counter[str] = field(default_factory=Counter)
    dropped: int = 0


def create_custom_infos(
    clouds: Mapping[str, Path],
    boxes: Iterable[Box],
    splits: Mapping[str, Sequence[str]],
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    bin_columns: int = 4,
) -> Summary:
    """Converts the clouds of all splits, then writes the info files, each whole or not at all.

    Args:
        clouds: Frame -> file (see :func:`find_clouds`).
        boxes: Of all frames (see :func:`perceptkd.datasets.box_table.read_boxes`).
        splits: Split -> frames.
        root: Folder to write to.
        classes: Class names in the order of the labels; those of the boxes in alphabetical order if None.
        origin: x, y and z that are subtracted from clouds and boxes [m].
        bin_columns: Values to a point in .bin files.

    Raises:
        InputError: A box belongs to no cloud, a cloud cannot be used or lies where clouds are written to, or no box
            holds a point.
    """
    _check_sources(clouds, Path(root))
    by_frame: dict[str, list[Box]] = defaultdict(list)
    for box in boxes:
        if box.frame not in clouds:
            raise InputError(f"there is no cloud of the frame {box.frame!r}{_hint(box.frame, set(clouds))}")
        by_frame[box.frame].append(box)
    names = (
        list(classes)
        if classes is not None
        else sorted({box.name for of_frame in by_frame.values() for box in of_frame})
    )
    if not names:
        raise InputError("there is no box: the box files hold a header alone")
    summary, records = Summary(), {}
    for split, frames in splits.items():
        records[split] = []
        for frame in progress_bar(frames, desc=f"clouds of {split}", unit="frame"):
            points = _load(clouds[frame], origin, bin_columns, summary)
            write_points(Path(root) / "points" / f"{frame}.bin", points)
            instances = _instances(by_frame[frame], points, names, origin, summary)
            records[split].append(_record(len(records[split]), frame, instances))
    if not summary.sizes:
        raise InputError("the frames of the splits have no box")
    if sum(summary.empty.values()) == sum(map(len, summary.sizes.values())):
        raise InputError(
            "no box holds a point of its cloud: boxes and clouds must be in one frame, metres, with the centre of the "
            "box as x, y, z and yaw in radians"
        )
    for split, data_list in records.items():
        summary.paths[split], summary.frames[split] = info_path(root, split), len(data_list)
        metainfo = {"categories": {name: label for label, name in enumerate(names)}, "dataset": "custom"}
        content = {"metainfo": {**metainfo, "info_version": "1.1"}, "data_list": data_list}
        write_pickle(summary.paths[split], content)
    return summary


def _check_sources(clouds: Mapping[str, Path], root: Path) -> None:
    """Refuse clouds that would be written over, or that an earlier run wrote."""
    written = root.resolve() / "points"
    for path in clouds.values():
        if path.resolve().is_relative_to(written):
            raise InputError(f"{path} lies in {written}, where the clouds are written to: write to another folder")


def _load(path: Path, origin: Sequence[float], bin_columns: int, summary: Summary) -> np.ndarray:
    """float32 [N, 4], N > 0, all finite."""
    points = read_cloud(path, bin_columns=bin_columns)
    finite = np.isfinite(points).all(axis=1)
    summary.dropped += int((~finite).sum())
    points = points[finite] - (*origin, 0.0)
    if not len(points):
        raise InputError(f"{path} holds no point{' that is not NaN' if len(finite) else ''}: leave this frame out")
    reach = np.abs(points[:, :3]).max()
    if reach > LARGEST_COORDINATE_M:
        near = " ".join(f"{value:.0f}" for value in points[:, :3].mean(axis=0))
        raise InputError(
            f"{path}: points lie up to {reach:.0f} m from the origin, where float32 is exact to "
            f"{np.spacing(np.float32(reach)):.2g} m only; move the origin, for example --origin {near}"
        )
    return points.astype(np.float32)


def _instances(
    boxes: Sequence[Box], points: np.ndarray, names: Sequence[str], origin: Sequence[float], summary: Summary
) -> list[dict[str, Any]]:
    """The boxes of a frame as mmdet3d's instances, with the number of points in each."""
    values = np.array([box.values for box in boxes], dtype=np.float64).reshape(-1, 7)
    values[:, :3] -= origin
    on_bottom = values.copy()
    on_bottom[:, 2] -= values[:, 5] / 2
    counts = (
        points_in_boxes(torch.from_numpy(points), torch.from_numpy(on_bottom.astype(np.float32))).sum(dim=0).tolist()
    )
    for box, count in zip(boxes, counts):
        summary.sizes[box.name].append(box.values[3:6])
        summary.empty[box.name] += count == 0
    return [
        {
            "bbox_label": names.index(box.name),
            "bbox_label_3d": names.index(box.name),
            "bbox_3d": value.tolist(),
            "num_lidar_pts": count,
        }
        for box, value, count in zip(boxes, values, counts)
    ]


def _record(index: int, frame: str, instances: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "sample_idx": index,
        "token": frame,
        "lidar_points": {"num_pts_feats": NUM_FEATURES, "lidar_path": f"points/{frame}.bin"},
        "instances": instances,
    }
