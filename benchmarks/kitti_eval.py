#!/usr/bin/env python3
"""Times the KITTI evaluation on 8,000 seeded frames with 47,000 annotated and 80,000 predicted boxes.

The peer is mmdet3d's evaluation, which needs a CUDA device for rotated boxes: here it gets exact overlaps from our op,
on the CPU. All APs of the two are compared before anything is timed.

Examples:
    python benchmarks/kitti_eval.py
    python benchmarks/kitti_eval.py --frames 200    # a quick look, which writes nothing
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measure import Row, extra_memory_mib, in_new_process, paired_row, single_row, write_results

import perceptkd.compat  # noqa: F401  (mmdet3d must be importable)
from perceptkd.evaluation.kitti import DIFFICULTIES, EVALUATED, KINDS, LIMITS, Curve, ap11, ap40, evaluate
from perceptkd.evaluation.kitti_boxes import TYPES, KittiTable
from perceptkd.ops.box_iou_rotated import rotated_intersection

FRAMES, TRUTH, PREDICTIONS = 8_000, 47_000, 80_000
WARM_UP_FRAMES = 20
TARGET_MS = 3_000
TOLERANCE = 1e-9
FOCAL_PX, CENTRE_PX = 721.5, (609.6, 172.9)
#: Roughly how often a type occurs in KITTI, and its length, height and width [m].
TYPE_FREQUENCY_AND_SIZE_M = {
    "Car": (0.56, (3.9, 1.5, 1.6)),
    "Pedestrian": (0.09, (0.8, 1.8, 0.7)),
    "Cyclist": (0.03, (1.8, 1.7, 0.6)),
    "Van": (0.06, (5.1, 2.2, 1.9)),
    "Person_sitting": (0.01, (0.8, 1.3, 0.6)),
    "Truck": (0.02, (10.0, 3.3, 2.6)),
    "Tram": (0.01, (16.0, 3.5, 2.5)),
    "Misc": (0.02, (2.0, 1.9, 1.5)),
    "DontCare": (0.20, (-1.0, -1.0, -1.0)),
}


def make_boxes(frames: int, seed: int = 0) -> tuple[KittiTable, KittiTable]:
    """Predictions and annotations: most predictions lie about an annotated box, the better the higher scored."""
    rng = np.random.default_rng(seed)
    count, total = TRUTH * frames // FRAMES, PREDICTIONS * frames // FRAMES
    frequency, sizes_m = (np.array(column) for column in zip(*(TYPE_FREQUENCY_AND_SIZE_M[name] for name in TYPES)))
    label = rng.choice(len(TYPES), count, p=frequency)
    is_region = label == TYPES.index("DontCare")
    box = np.column_stack(
        [
            rng.uniform([-20, 1.4, 5], [20, 2, 60], (count, 3)),
            sizes_m[label] * rng.uniform(0.85, 1.15, (count, 3)),
            rng.uniform(-np.pi, np.pi, count),
        ]
    )
    bbox = image_boxes(box)
    box[is_region] = [-1000, -1000, -1000, -1, -1, -1, -10]
    truth = KittiTable(
        frame=np.sort(rng.integers(0, frames, count)),
        label=label,
        bbox=bbox,
        alpha=np.where(is_region, -10, box[:, 6] - np.arctan2(box[:, 0], box[:, 2])),
        box=box,
        truncation=np.where(is_region, -1, rng.uniform(-2, 0.8, count).clip(0)),
        occlusion=np.where(is_region, -1, rng.choice(4, count, p=[0.5, 0.25, 0.2, 0.05])),
        score=np.full(count, -1.0),
    )
    rows = np.sort(rng.choice(np.flatnonzero(~is_region), total))
    error = rng.exponential(0.06, total)
    noise = error[:, None] * rng.normal(size=(total, 7))
    box = truth.box[rows] + noise * [*sizes_m[TYPES.index("Car")], 0, 0, 0, 2]
    box[:, 3:6] *= np.exp(0.3 * noise[:, 3:6])
    box[:, 6] += np.pi * (rng.random(total) < 0.1)
    is_wrong = rng.random(total) < 0.3
    box[is_wrong, :3] = rng.uniform([-20, 1.4, 5], [20, 2, 60], (int(is_wrong.sum()), 3))
    predictions = KittiTable(
        frame=truth.frame[rows],
        label=np.where(rng.random(total) < 0.1, rng.integers(0, 3, total), truth.label[rows]),
        bbox=image_boxes(box),
        alpha=box[:, 6] - np.arctan2(box[:, 0], box[:, 2]),
        box=box,
        truncation=np.full(total, -1.0),
        occlusion=np.full(total, -1),
        score=1 / (1 + np.exp(8 * error + 2 * is_wrong - 2 + rng.normal(size=total))),
    )
    return predictions, truth


def image_boxes(box: np.ndarray) -> np.ndarray:
    """Image boxes [N, 4] of boxes in the camera frame, as if all faced the camera; regions are as high as a child."""
    x, y, z, length, height, width = np.maximum(box[:, :6], [-np.inf, -np.inf, 2, 1.2, 1.2, 1.2]).T
    half = np.maximum(length, width) / 2
    bounds = np.column_stack([x - half, y - height, x + half, y]) / z[:, None]
    return FOCAL_PX * bounds + np.tile(CENTRE_PX, 2)


def mmdet3d_annotations(boxes: KittiTable, frames: int) -> list[dict[str, np.ndarray]]:
    """The boxes in the form of mmdet3d's evaluation, frame by frame."""
    starts = np.searchsorted(boxes.frame, np.arange(frames + 1))
    parts = (boxes[start:end] for start, end in pairwise(starts))
    return [
        {
            "name": np.array(TYPES)[part.label],
            "bbox": part.bbox,
            "alpha": part.alpha,
            "location": part.box[:, :3],
            "dimensions": part.box[:, 3:6],
            "rotation_y": part.box[:, 6],
            "truncated": part.truncation,
            "occluded": part.occlusion,
            "score": part.score,
        }
        for part in parts
    ]


def ground_overlaps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shared areas and unions [M, N] of footprints (x, z, length, width, rotation_y), all with all."""
    shared = rotated_intersection(*(torch.from_numpy(boxes * [1, 1, 1, 1, -1]) for boxes in (first, second))).numpy()
    areas = [boxes[:, 2] * boxes[:, 3] for boxes in (first, second)]
    return shared, areas[0][:, None] + areas[1][None] - shared


def exact_bev(boxes: np.ndarray, others: np.ndarray, criterion: int = -1) -> np.ndarray:
    """Stands for mmdet3d's ``bev_box_overlap``."""
    shared, union = ground_overlaps(boxes, others)
    return shared / union


def exact_3d(boxes: np.ndarray, others: np.ndarray, criterion: int = -1) -> np.ndarray:
    """Stands for mmdet3d's ``d3_box_overlap``."""
    shared, _ = ground_overlaps(boxes[:, [0, 2, 3, 5, 6]], others[:, [0, 2, 3, 5, 6]])
    low = np.minimum(boxes[:, None, 1], others[None, :, 1])
    top = np.maximum((boxes[:, 1] - boxes[:, 4])[:, None], (others[:, 1] - others[:, 4])[None])
    shared *= np.maximum(low - top, 0)
    return shared / (boxes[:, 3:6].prod(1)[:, None] + others[:, 3:6].prod(1)[None] - shared)


def mmdet3d_aps(truth: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> list[np.ndarray]:
    """mmdet3d's AP11 of bbox, bev, 3d and aos, then their AP40; each [class, difficulty, limits]."""
    from mmdet3d.evaluation.functional.kitti_utils import eval as peer

    limits = np.array([[[limits[kind][name] for name in EVALUATED] for kind in KINDS] for limits in LIMITS.values()])
    with patch.object(peer, "bev_box_overlap", exact_bev), patch.object(peer, "d3_box_overlap", exact_3d):
        return list(peer.do_eval(truth, predictions, list(range(len(EVALUATED))), limits, [*KINDS, "aos"]))


def our_aps(curves: dict[tuple[str, str, str, str], Curve]) -> list[np.ndarray]:
    """Ours in the form of :func:`mmdet3d_aps`."""

    def collect(value: Callable[[Curve], float], kind: str) -> np.ndarray:
        return np.array(
            [[[value(curves[s, name, d, kind]) for s in LIMITS] for d in DIFFICULTIES] for name in EVALUATED]
        )

    aps = []
    for mean in (ap11, ap40):
        aps += [collect(lambda curve, mean=mean: mean(curve.precision), kind) for kind in KINDS]
        aps.append(collect(lambda curve, mean=mean: mean(curve.similarity), "bbox"))
    return aps


def memory_of(frames: int) -> float:
    """MiB of our evaluation beyond its boxes; to be called in a process that has done nothing yet.

    A few frames are evaluated before, because the first evaluation loads and compiles what all use.
    """
    torch.set_num_threads(1)  # a process that is forked must not wait for the threads of its parent
    evaluate(*make_boxes(WARM_UP_FRAMES))
    return extra_memory_mib(partial(evaluate, *make_boxes(frames)))


def measure(frames: int, pairs: int) -> list[Row]:
    predictions, truth = make_boxes(frames)
    peer_boxes = [mmdet3d_annotations(boxes, frames) for boxes in (truth, predictions)]

    def ours() -> list[np.ndarray]:
        return our_aps(evaluate(predictions, truth))

    def theirs() -> list[np.ndarray]:
        return mmdet3d_aps(*peer_boxes)

    difference = max(float(np.abs(mine - other).max()) for mine, other in zip(ours(), theirs(), strict=True))
    if difference > TOLERANCE:
        raise RuntimeError(f"an AP differs from mmdet3d's by {difference}: their times cannot be compared")
    row = paired_row(
        "evaluation",
        ours,
        theirs,
        peer_name="mmdet3d 1.4 with our overlaps",
        target=None,
        pairs=pairs,
        warm_up=0,  # both have run
        note=f"{pairs} alternating pairs",
    )
    what = f"{frames} frames, {len(truth)} annotated and {len(predictions)} predicted boxes, {2 * 3 * 3 * 3} curves"
    return [
        row,
        single_row("time of one evaluation", row["ours"], unit="ms", target=TARGET_MS, note=what),
        single_row("largest difference from mmdet3d", difference, unit="of any AP", target=TOLERANCE, note="144 APs"),
        single_row("memory beyond the boxes", in_new_process(memory_of, frames), unit="MiB", note="peak"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=FRAMES, help="other than %(default)s writes nothing")
    parser.add_argument("--pairs", type=int, default=3, help="the peer takes minutes for one")
    arguments = parser.parse_args()
    rows = measure(arguments.frames, arguments.pairs)
    if arguments.frames == FRAMES:
        write_results("kitti_eval", rows, backends={"evaluator": "numba"})
    else:
        print(*rows, sep="\n")


if __name__ == "__main__":
    main()
