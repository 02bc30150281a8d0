#!/usr/bin/env python3
"""Times our nuScenes evaluation against the official devkit's, on 6,000 seeded frames with 700,000 predictions.

Both score the same boxes, already filtered and each in its own form: columns for us, objects for the devkit. What the
devkit needs to come that far (a JSON file, its parsing, filters in Python) is left out of its time. Every figure and
curve of the two is compared before anything is timed. Memory is measured in a process of its own for each.

Examples:
    python benchmarks/nuscenes_eval.py
    python benchmarks/nuscenes_eval.py --frames 300 --pairs 3    # a quick look, which writes nothing
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from measure import Row, extra_memory_mib, in_new_process, paired_row, single_row, write_results
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES, TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.evaluate import NuScenesEval

from perceptkd.evaluation.nuscenes import evaluate
from perceptkd.evaluation.nuscenes_boxes import BoxTable, to_records

OURS, DEVKIT = "ours", "nuscenes-devkit"
FRAMES, TRUTH_PER_FRAME, PREDICTIONS = 6_000, 30, 700_000
WARM_UP_FRAMES = 20
TARGET_RATIO = 1 / 20
TOLERANCE = 1e-9
#: Roughly how often each class occurs on the roads of nuScenes, in the devkit's order.
FREQUENCY = np.array([0.43, 0.08, 0.015, 0.02, 0.012, 0.2, 0.012, 0.012, 0.085, 0.134])
CONFIG = config_factory("detection_cvpr_2019")


def make_boxes(frames: int) -> tuple[BoxTable, BoxTable]:
    """Predictions and annotations: half of the predictions lie about an annotated box, the better the higher scored."""
    rng = np.random.default_rng(0)
    count = frames * TRUTH_PER_FRAME
    frame = np.sort(rng.integers(0, frames, count))
    truth = BoxTable(
        frame=frame,
        label=rng.choice(len(DETECTION_NAMES), count, p=FREQUENCY / FREQUENCY.sum()),
        translation=rng.uniform(-40, 40, (count, 3)),
        size=rng.uniform(0.4, 5, (count, 3)),
        rotation=rng.normal(size=(count, 4)),
        velocity=np.where(rng.random((count, 1)) < 0.05, np.nan, rng.normal(size=(count, 2))),
        attribute=rng.integers(-1, len(ATTRIBUTE_NAMES), count),
        score=np.full(count, -1.0),
    )
    total = PREDICTIONS * frames // FRAMES
    rows = np.sort(rng.integers(0, count, total))
    is_near = rng.random(total) < 0.5
    spread = np.where(is_near, rng.exponential(0.7, total), 20.0)[:, None]
    predictions = BoxTable(
        frame=truth.frame[rows],
        label=np.where(is_near, truth.label[rows], rng.integers(0, len(DETECTION_NAMES), total)),
        translation=truth.translation[rows] + spread * rng.normal(size=(total, 3)),
        size=truth.size[rows] * rng.uniform(0.8, 1.25, (total, 3)),
        rotation=truth.rotation[rows] + 0.1 * rng.normal(size=(total, 4)),
        velocity=np.nan_to_num(truth.velocity[rows]) + rng.normal(size=(total, 2)),
        attribute=rng.integers(-1, len(ATTRIBUTE_NAMES), total),
        score=rng.beta(1, 6, total) + np.where(is_near, 0.4 * np.exp(-spread[:, 0]), 0) * rng.random(total),
    )
    return predictions, truth


def devkit_boxes(boxes: BoxTable, frames: int) -> EvalBoxes:
    """The devkit's objects of boxes that come frame by frame."""
    found = EvalBoxes()
    starts = np.searchsorted(boxes.frame, np.arange(frames + 1))
    for frame in range(frames):
        records = to_records(boxes[starts[frame] : starts[frame + 1]], f"frame {frame}")
        found.add_boxes(f"frame {frame}", [DetectionBox.deserialize(record) for record in records])
    return found


def evaluation(evaluator: str, boxes: tuple[BoxTable, BoxTable], frames: int) -> Callable[[], tuple[Any, Any]]:
    """What evaluates predictions and annotations: ours, or the devkit, which gets objects of its own."""
    if evaluator == OURS:
        return partial(evaluate, *boxes, CONFIG)
    devkit = NuScenesEval.__new__(NuScenesEval)  # its constructor would load tables and files
    devkit.cfg, devkit.verbose = CONFIG, False
    devkit.pred_boxes, devkit.gt_boxes = (devkit_boxes(table, frames) for table in boxes)
    return devkit.evaluate


def memory_of(evaluator: str, frames: int) -> float:
    """MiB of an evaluation beyond its boxes; to be called in a process that has done nothing yet.

    A few frames are evaluated before, because the first evaluation loads and compiles what all use.
    """
    evaluation(evaluator, make_boxes(WARM_UP_FRAMES), WARM_UP_FRAMES)()
    return extra_memory_mib(evaluation(evaluator, make_boxes(frames), frames))


def figures(result: tuple[Any, Any]) -> Iterator[np.ndarray]:
    """All figures and curves of an evaluation."""
    metrics, curves = result
    for name in DETECTION_NAMES:
        yield np.array([metrics.get_label_tp(name, error) for error in TP_METRICS])
        for distance in CONFIG.dist_ths:
            yield np.array([metrics.get_label_ap(name, distance)])
            yield from (getattr(curves[name, distance], f) for f in ("precision", "confidence", *TP_METRICS))
    yield np.array([metrics.mean_ap, metrics.nd_score, *metrics.tp_errors.values()])


def largest_difference(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> float:
    """Over all figures; NaN equals NaN alone."""
    largest = 0.0
    for mine, other in zip(figures(ours), figures(theirs), strict=True):
        if not np.array_equal(np.isnan(mine), np.isnan(other)):
            return np.inf
        largest = max(largest, float(np.nanmax(np.abs(mine - other), initial=0.0)))
    return largest


def measure(frames: int, pairs: int) -> list[Row]:
    predictions, truth = make_boxes(frames)
    ours, devkit = (evaluation(evaluator, (predictions, truth), frames) for evaluator in (OURS, DEVKIT))
    difference = largest_difference(ours(), devkit())
    if difference > TOLERANCE:
        raise RuntimeError(f"a figure differs from the devkit's by {difference}: their times cannot be compared")
    what = f"{frames} frames, {len(truth)} annotated and {len(predictions)} predicted boxes"
    ours_mib, devkit_mib = (in_new_process(memory_of, evaluator, frames) for evaluator in (OURS, DEVKIT))
    return [
        paired_row(
            "evaluation",
            ours,
            devkit,
            peer_name=DEVKIT,
            target=TARGET_RATIO,
            pairs=pairs,
            warm_up=0,  # both have run
            note=f"{what}; {pairs} alternating pairs",
        ),
        single_row(
            "largest difference from the devkit",
            difference,
            unit="of any figure or curve",
            target=TOLERANCE,
            note=f"{sum(f.size for f in figures(ours()))} numbers",
        ),
        single_row(
            "memory beyond the boxes", ours_mib, unit="MiB", peer=devkit_mib, peer_name=DEVKIT, note="peak; once each"
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=FRAMES, help="other than %(default)s writes nothing")
    parser.add_argument("--pairs", type=int, default=5, help="the devkit takes minutes for one")
    arguments = parser.parse_args()
    rows = measure(arguments.frames, arguments.pairs)
    if arguments.frames == FRAMES:
        write_results("nuscenes_eval", rows, backends={"evaluator": "numba"})
    else:
        print(*rows, sep="\n")


if __name__ == "__main__":
    main()
