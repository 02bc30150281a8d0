"""Boxes as the KITTI object evaluation takes them: many as columns, or as the lines of a label file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_files import CLASSES, DONT_CARE

#: All types of a label file.
TYPES = (*CLASSES, DONT_CARE)
HOW_TO_MAKE_INFOS = "make the info files again with tools/create_data.py"


@dataclass(frozen=True)
class KittiTable:
    """N boxes of any number of frames, as columns.

    Attributes:
        frame: Which frame a box is of, int64 [N].
        label: Index into :data:`TYPES`, int64 [N].
        bbox: Left, top, right, bottom [px], [N, 4].
        alpha: Observation angle [rad], -10 where there is none, [N].
        box: In the camera frame: x, y, z of the centre of the bottom [m], length, height, width [m], rotation_y [rad],
            [N, 7].
        truncation: Share of the object outside of the image, -1 where unknown, [N].
        occlusion: 0 visible, 1 partly, 2 largely occluded, 3 unknown; -1 for predictions and DontCare, int64 [N].
        score: Confidence, [N].
    """

    frame: np.ndarray
    label: np.ndarray
    bbox: np.ndarray
    alpha: np.ndarray
    box: np.ndarray
    truncation: np.ndarray
    occlusion: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows: Any) -> "KittiTable":
        """The boxes of a mask, a slice or an array of indices."""
        return KittiTable(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})


def read_truth(infos: Sequence[Mapping[str, Any]], categories: Mapping[str, int]) -> KittiTable:
    """The annotations of info records (mmdet3d's format 2), DontCare regions included; ``frame`` counts the records.

    Args:
        infos: Records with ``sample_idx`` and ``instances``.
        categories: The info file's class names and their labels; label -1 is DontCare, whatever name it has there.

    Raises:
        InputError: A field is missing, a type is none of KITTI's, or a number is not finite.
    """
    type_of = {label: name for name, label in categories.items() if label >= 0} | {-1: DONT_CARE}
    unknown = [name for name in type_of.values() if name not in TYPES]
    if unknown:
        raise InputError(f"categories {', '.join(unknown)} are no KITTI types; those are {', '.join(TYPES)}")
    index_of = {label: TYPES.index(name) for label, name in type_of.items()}
    rows, bboxes, boxes = [], [], []
    for frame, info in enumerate(infos):
        try:
            for one in info["instances"]:
                label = index_of[one["bbox_label"]]
                rows.append((frame, label, one["alpha"], one["truncated"], one["occluded"]))
                bboxes.append(one["bbox"])
                boxes.append(one["bbox_3d"])
        except KeyError as error:
            raise InputError(
                f"sample {info['sample_idx']} has no annotation {error}, or a label that the info file's categories "
                f"do not name: {HOW_TO_MAKE_INFOS}"
            ) from error
    columns = np.array(rows, np.float64).reshape(-1, 5)
    table = KittiTable(
        frame=columns[:, 0].astype(np.int64),
        label=columns[:, 1].astype(np.int64),
        bbox=np.array(bboxes, np.float64).reshape(-1, 4),
        alpha=columns[:, 2],
        box=np.array(boxes, np.float64).reshape(-1, 7),
        truncation=columns[:, 3],
        occlusion=columns[:, 4].astype(np.int64),
        score=np.full(len(columns), -1.0),
    )
    numbers = np.concatenate([table.bbox, table.box, columns], axis=1)
    bad = table.frame[~np.isfinite(numbers).all(axis=1)]
    if len(bad):
        raise InputError(f"sample {infos[bad[0]]['sample_idx']}: an annotated box is not finite; {HOW_TO_MAKE_INFOS}")
    return table


def to_lines(boxes: KittiTable) -> str:
    """The boxes of one frame as a result file of the official evaluator: 16 columns a line."""
    lines = []
    for row in range(len(boxes)):
        x, y, z, length, height, width, rotation_y = boxes.box[row]
        numbers = [boxes.alpha[row], *boxes.bbox[row], height, width, length, x, y, z, rotation_y]
        text = " ".join(f"{number:.4f}" for number in numbers)
        lines.append(f"{TYPES[boxes.label[row]]} -1 -1 {text} {boxes.score[row]:.9g}\n")
    return "".join(lines)
