"""nuScenes detection submissions, and the official devkit on them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nuscenes.eval.common.loaders import load_prediction
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionConfig, DetectionMetrics
from nuscenes.eval.detection.evaluate import NuScenesEval
from nuscenes.nuscenes import NuScenes

from perceptkd.atomic import atomic_path
from perceptkd.evaluation.nuscenes_boxes import BoxTable, to_records
from perceptkd.evaluation.nuscenes_truth import GroundTruth

#: What a submission can declare to have used.
INPUTS = ("camera", "lidar", "radar", "map", "external")
#: Farther than any class is evaluated: the evaluator filters such a box out.
OUT_OF_RANGE_M = 1e4


def to_submission(frames: Mapping[str, BoxTable], inputs: Sequence[str] = ()) -> dict[str, Any]:
    """A submission of boxes by sample token; ``inputs`` are what it declares to have used."""
    meta = {f"use_{name}": name in inputs for name in INPUTS}
    return {"meta": meta, "results": {token: to_records(boxes, token) for token, boxes in frames.items()}}


def write_submission(
    folder: str | Path,
    frames: Mapping[str, BoxTable],
    *,
    inputs: Sequence[str] = (),
    check_max_boxes: int | None = None,
) -> None:
    """Writes ``results_nusc.json``, which the evaluation server takes.

    Args:
        folder: Where to; made if missing.
        frames: Boxes by sample token.
        inputs: See :func:`to_submission`.
        check_max_boxes: Let the devkit read the file before it gets its name, with so many boxes per frame at most.
    """
    with atomic_path(Path(folder) / "results_nusc.json") as temporary:
        temporary.write_text(json.dumps(to_submission(frames, inputs)))
        if check_max_boxes is not None:
            load_prediction(str(temporary), check_max_boxes, DetectionBox)


def run_devkit(
    tables: NuScenes, split: str, truth: GroundTruth, frames: Mapping[str, BoxTable], config: DetectionConfig
) -> tuple[DetectionMetrics, set[str]]:
    """The official devkit's metrics, and the classes that have ground truth within their range."""
    submission = to_submission(frames)
    if not any(submission["results"].values()):
        _add_box_out_of_range(submission["results"], truth)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "results_nusc.json"
        path.write_text(json.dumps(submission))
        evaluator = NuScenesEval(
            tables, config=config, result_path=str(path), eval_set=split, output_dir=folder, verbose=False
        )
        metrics, _ = evaluator.evaluate()
    return metrics, {box.detection_name for box in evaluator.gt_boxes.all}


def _add_box_out_of_range(records: dict[str, list[dict[str, Any]]], truth: GroundTruth) -> None:
    """The devkit fails on a submission without any box; this one it drops by its distance."""
    x, y = truth.ego[0]
    records[truth.tokens[0]].append(
        {
            "sample_token": truth.tokens[0],
            "translation": [x + OUT_OF_RANGE_M, y, 0.0],
            "size": [1.0, 1.0, 1.0],
            "rotation": [1.0, 0.0, 0.0, 0.0],
            "velocity": [0.0, 0.0],
            "detection_name": "car",
            "detection_score": 0.0,
            "attribute_name": "vehicle.parked",
        }
    )
