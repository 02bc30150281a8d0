"""How much predicted and annotated boxes of the same frame overlap: in the image, on the ground, in space."""

from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from perceptkd.evaluation.kitti_boxes import KittiTable
from perceptkd.ops.box_iou_rotated import rotated_intersection

_PAIRS_AT_ONCE = 1 << 16


class Pairs(NamedTuple):
    """P pairs of an annotated and a predicted box that overlap, by annotated box, then by predicted box.

    Attributes:
        truth: Row of the annotated box, int64 [P].
        detection: Row of the predicted box, int64 [P].
        overlap: Intersection over union, [P].
    """

    truth: np.ndarray
    detection: np.ndarray
    overlap: np.ndarray

    def select(self, mask: np.ndarray) -> "Pairs":
        """The pairs of a mask."""
        return Pairs(*(column[mask] for column in self))


def find_pairs(predictions: KittiTable, truth: KittiTable) -> dict[str, Pairs]:
    """Overlapping pairs by 'bbox', 'bev' and '3d'; both tables are in the order of their frames."""
    rows, columns = _meeting(truth.bbox, truth.frame, _starts(predictions, truth), predictions.bbox)
    first, second = truth.bbox[rows], predictions.bbox[columns]
    shared = _image_intersection(first, second)
    image = Pairs(rows, columns, shared / (_image_area(second) + _image_area(first) - shared))

    rows, columns = _meeting(
        _ground_bounds(truth.box), truth.frame, _starts(predictions, truth), _ground_bounds(predictions.box)
    )
    first, second = truth.box[rows], predictions.box[columns]
    shared = _ground_intersection(first, second)
    union = first[:, 3] * first[:, 5] + second[:, 3] * second[:, 5] - shared
    ground = Pairs(rows, columns, np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0))

    top = np.maximum(first[:, 1] - first[:, 4], second[:, 1] - second[:, 4])  # y points down, from the bottom of a box
    shared = shared * np.maximum(np.minimum(first[:, 1], second[:, 1]) - top, 0)
    union = first[:, 3:6].prod(axis=1) + second[:, 3:6].prod(axis=1) - shared
    space = Pairs(rows, columns, np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0))
    return {name: pairs.select(pairs.overlap > 0) for name, pairs in (("bbox", image), ("bev", ground), ("3d", space))}


def shares_in_regions(predictions: KittiTable, regions: KittiTable) -> np.ndarray:
    """The largest share of each predicted image box that lies in one of the regions of its frame, [N]."""
    rows, columns = _meeting(regions.bbox, regions.frame, _starts(predictions, regions), predictions.bbox)
    boxes = predictions.bbox[columns]
    shares = np.zeros(len(predictions))
    np.maximum.at(shares, columns, _image_intersection(boxes, regions.bbox[rows]) / _image_area(boxes))
    return shares


def _starts(predictions: KittiTable, others: KittiTable) -> np.ndarray:
    """Where the predictions of each frame of ``others`` begin, [F + 1]."""
    return np.searchsorted(predictions.frame, np.arange(2 + others.frame.max(initial=-1)))


@njit(cache=True, nogil=True)
def _meeting(
    bounds: np.ndarray, frame: np.ndarray, start: np.ndarray, other_bounds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows whose bounds (left, top, right, bottom) share more than an edge; the others begin at ``start``."""
    rows = columns = np.empty(0, np.int64)
    for is_filling in (False, True):
        count = 0
        for i in range(len(bounds)):
            for j in range(start[frame[i]], start[frame[i] + 1]):
                if min(bounds[i, 2], other_bounds[j, 2]) > max(bounds[i, 0], other_bounds[j, 0]) and min(
                    bounds[i, 3], other_bounds[j, 3]
                ) > max(bounds[i, 1], other_bounds[j, 1]):
                    if is_filling:
                        rows[count], columns[count] = i, j
                    count += 1
        if not is_filling:
            rows, columns = np.empty(count, np.int64), np.empty(count, np.int64)
    return rows, columns


def _image_intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Shared areas [P] of boxes [P, 4] that meet."""
    extent = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    return extent[:, 0] * extent[:, 1]


def _image_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _ground_bounds(box: np.ndarray) -> np.ndarray:
    """Smallest and largest x and z of footprints: (x0, z0, x1, z1), [N, 4]."""
    cos, sin = np.abs(np.cos(box[:, 6])), np.abs(np.sin(box[:, 6]))
    reach = np.column_stack([cos * box[:, 3] + sin * box[:, 5], sin * box[:, 3] + cos * box[:, 5]]) / 2
    return np.concatenate([box[:, [0, 2]] - reach, box[:, [0, 2]] + reach], axis=1)


def _ground_intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Shared areas [P] of footprints of boxes [P, 7]."""
    # rotation_y turns from z towards x, the op's angle from its first axis, x, towards its second, z
    footprints = [torch.from_numpy(box[:, [0, 2, 3, 5, 6]] * [1, 1, 1, 1, -1]) for box in (first, second)]
    parts = zip(*(boxes.split(_PAIRS_AT_ONCE) for boxes in footprints))
    return torch.cat([rotated_intersection(*part, is_aligned=True) for part in parts]).numpy()
