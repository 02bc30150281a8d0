"""nuScenes detection metrics, on the official splits and on splits of a splits.json."""

import json
import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionConfig, DetectionMetrics

from perceptkd.atomic import write_text
from perceptkd.core.errors import InputError
from perceptkd.datasets.nuscenes_infos import DEFAULT_SPLITS, load_tables
from perceptkd.evaluation.nuscenes import evaluate
from perceptkd.evaluation.nuscenes_boxes import BoxTable, boxes_to_global
from perceptkd.evaluation.nuscenes_submission import INPUTS, run_devkit, write_submission
from perceptkd.evaluation.nuscenes_truth import GroundTruth, load_ground_truth
from perceptkd.registry import METRICS

#: The evaluator's names of the true-positive errors and those of the papers.
ERROR_NAMES = {"trans_err": "mATE", "scale_err": "mASE", "orient_err": "mAOE", "vel_err": "mAVE", "attr_err": "mAAE"}


@lru_cache(maxsize=2)
def _cached_truth(dataroot: str, version: str, split: str, _modified: tuple[tuple[str, int], ...]) -> GroundTruth:
    return load_ground_truth(load_tables(dataroot, version), split)


def cached_truth(dataroot: str, version: str, split: str) -> GroundTruth:
    """The annotations, kept for the next evaluation until a table or splits.json changes (trainval takes minutes)."""
    files = sorted((Path(dataroot) / version).glob("*.json"))
    return _cached_truth(dataroot, version, split, tuple((file.name, file.stat().st_mtime_ns) for file in files))


@METRICS.register_module()
class NuScenesMetric(BaseMetric):
    """mAP, NDS and the five true-positive errors, equal to those of the official evaluator.

    Reports ``nuscenes/mAP``, ``NDS``, ``mATE``, ``mASE``, ``mAOE``, ``mAVE``, ``mAAE``, ``mAP_dist_<d>`` (mean over the
    classes at matching distance d in metres), ``<class>_AP``, ``<class>_AP_dist_<d>``. A class without a ground truth
    box gets AP 0 and errors 1 from the evaluator; ``mAP_present`` and ``NDS_present`` are the same scores over the
    other classes, and ``num_present`` is their number. Unless it is 10, no figure compares with published ones.

    Args:
        data_root: nuScenes folder with the tables.
        ann_file: Info file, relative to ``data_root``; it names the version and, if ``create_data.py`` made it, the
            split.
        split: Split to evaluate on. By default that of the info file; where it names none (one made by mmdet3d), the
            official one of its version that is evaluated on (``val``, ``mini_val`` or ``test``).
        out_dir: Where ``results_nusc.json`` and ``metrics_summary.json`` go; nowhere by default.
        format_only: Write the results and do not evaluate (the test split has no ground truth). The devkit's own
            loader reads the file before it gets its name.
        inputs: What the submission declares to have used, of 'camera', 'lidar', 'radar', 'map' and 'external'.
        evaluator: 'perceptkd', or 'devkit' for the official code: the same figures, many times slower.
        eval_config: Name of the evaluator's configuration.
        near_m: Also report ``near_mAP``, ``near_NDS`` and ``near_mAP_dist_<d>``: the same evaluation of the boxes
            within this distance, for models that see no farther. No published figure compares with them.
        collect_device: See MMEngine's BaseMetric.
        prefix: Prefix of the metric's names, 'nuscenes' by default.
    """

    default_prefix = "nuscenes"

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        *,
        split: str | None = None,
        out_dir: str | None = None,
        format_only: bool = False,
        inputs: Sequence[str] = (),
        evaluator: str = "perceptkd",
        eval_config: str = "detection_cvpr_2019",
        near_m: float | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if format_only and out_dir is None:
            raise InputError("format_only=True writes the results and nothing else: set out_dir")
        if evaluator not in ("perceptkd", "devkit") or not set(inputs) <= set(INPUTS):
            raise InputError(
                f"evaluator is 'perceptkd' or 'devkit' and inputs are of {', '.join(INPUTS)}; "
                f"not {evaluator!r} and {list(inputs)}"
            )
        self.data_root = data_root
        self.ann_file = Path(data_root) / ann_file
        self.split = split
        self.out_dir = out_dir
        self.format_only = format_only
        self.inputs = tuple(inputs)
        self.evaluator = evaluator
        self.config = config_factory(eval_config)
        self.near_config = None if near_m is None else config_factory(eval_config)
        if near_m is not None:
            self.near_config.class_range = {name: min(m, near_m) for name, m in self.config.class_range.items()}

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps each frame's boxes as arrays: gravity centre, size, yaw and velocity in the LiDAR frame."""
        for sample in data_samples:
            predictions = sample["pred_instances_3d"]
            boxes = predictions["bboxes_3d"]
            tensor = boxes.tensor.detach().cpu().float().numpy()
            if tensor.shape[1] != 9:
                raise InputError(f"predicted boxes must have 9 values (with velocity), these have {tensor.shape[1]}")
            self.results.append(
                {
                    "token": sample.get("token"),
                    "sample_idx": sample["sample_idx"],
                    "boxes": np.concatenate([boxes.gravity_center.detach().cpu().float().numpy(), tensor[:, 3:]], 1),
                    "scores": predictions["scores_3d"].detach().cpu().float().numpy(),
                    "labels": predictions["labels_3d"].detach().cpu().numpy(),
                }
            )

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Scores all frames."""
        infos = self._load_infos()
        frames = self._collect_frames(results, infos["data_list"])
        if self.format_only:
            max_boxes = self.config.max_boxes_per_sample
            write_submission(self.out_dir, frames, inputs=self.inputs, check_max_boxes=max_boxes)
            return {}
        version, split = infos["metainfo"]["version"], self._split(infos["metainfo"])
        truth = cached_truth(self.data_root, version, split)
        if frames.keys() != set(truth.tokens):
            raise InputError(
                f"{self.ann_file} has {len(frames)} frames and split {split} of {self.data_root} {len(truth.tokens)}, "
                "or others: evaluation needs the whole split; make the info file again with tools/create_data.py"
            )
        score = self._score
        if self.evaluator == "devkit":
            score = partial(run_devkit, load_tables(self.data_root, version), split)
        metrics, present = score(truth, frames, self.config)
        if self.out_dir is not None:
            write_submission(self.out_dir, frames, inputs=self.inputs)
            write_text(Path(self.out_dir) / "metrics_summary.json", json.dumps(metrics.serialize(), indent=2))
        report = summarise(metrics, present)
        if len(present) < len(self.config.class_names):
            absent = sorted(set(self.config.class_names) - present)
            MMLogger.get_current_instance().warning(
                f"split {split} has no ground truth box of {', '.join(absent)}: they count as AP 0 in mAP and NDS; "
                "mAP_present and NDS_present leave them out"
            )
        if self.near_config is not None:
            near = summarise(*score(truth, frames, self.near_config))
            report |= {f"near_{name}": value for name, value in near.items() if name.startswith(("mAP", "NDS"))}
        return report

    def _split(self, metainfo: Mapping[str, Any]) -> str:
        """The split to evaluate on, see ``split``."""
        if split := self.split or metainfo.get("split"):
            return split
        version = metainfo["version"]
        if version not in DEFAULT_SPLITS:
            raise InputError(
                f"{self.ann_file} names no split, and its version {version!r} has no official ones (those of "
                f"{', '.join(DEFAULT_SPLITS)} are known): set split= of the metric"
            )
        return DEFAULT_SPLITS[version][-1]

    def _load_infos(self) -> dict[str, Any]:
        if not self.ann_file.is_file():
            raise FileNotFoundError(f"info file {self.ann_file} is missing: make it with tools/create_data.py")
        with open(self.ann_file, "rb") as file:
            return pickle.load(file)

    def _collect_frames(self, results: list[dict[str, Any]], infos: list[dict[str, Any]]) -> dict[str, BoxTable]:
        """Boxes by sample token; every frame of the info file must have been predicted once."""
        by_token = {info["token"]: info for info in infos}
        frames: dict[str, BoxTable] = {}
        for result in results:
            token = result["token"] or infos[result["sample_idx"]]["token"]
            if token not in by_token or token in frames:
                reason = "twice" if token in frames else f"but is not in {self.ann_file}"
                raise InputError(f"sample {token} was predicted {reason}: evaluate the data set of the metric, once")
            frames[token] = boxes_to_global(
                result["boxes"],
                result["scores"],
                result["labels"],
                info=by_token[token],
                classes=self.dataset_meta["classes"],
                max_range_m=self.config.class_range,
                max_boxes=self.config.max_boxes_per_sample,
            )
        if len(frames) < len(by_token):
            raise InputError(
                f"{len(frames)} of {len(by_token)} frames of {self.ann_file} were predicted; the official evaluator "
                "needs all: evaluate the whole split, or make info files of a smaller one"
            )
        return frames

    def _score(
        self, truth: GroundTruth, frames: Mapping[str, BoxTable], config: DetectionConfig
    ) -> tuple[DetectionMetrics, set[str]]:
        """The metrics, and the classes that have ground truth within their range."""
        counted = truth.counted(truth.boxes, config.class_range)
        predictions = truth.counted(truth.in_submission_order(frames), config.class_range)
        metrics, _ = evaluate(predictions, counted, config)
        return metrics, {DETECTION_NAMES[label] for label in np.unique(counted.label)}


def summarise(metrics: DetectionMetrics, present: set[str]) -> dict[str, float]:
    """The evaluator's figures under the names of the papers, with the scores over the classes that are ``present``.

    Raises:
        InputError: No class is.
    """
    if not present:
        reach_m = max(metrics.cfg.class_range.values())
        raise InputError(
            f"the split has no ground truth box within {reach_m:g} m: there is nothing to evaluate; "
            "evaluate a split that has some, or set a larger near_m if that is the limit"
        )
    summary = metrics.serialize()
    by_class, errors = summary["mean_dist_aps"], summary["label_tp_errors"]
    report = {"mAP": summary["mean_ap"], "NDS": summary["nd_score"]}
    report |= {ERROR_NAMES[name]: value for name, value in summary["tp_errors"].items()}
    present_ap = float(np.mean([by_class[name] for name in sorted(present)]))
    # An error that is undefined for every present class (velocity of barriers) leaves the score as the evaluator does.
    scores = [
        1 - min(1.0, float(np.mean(values)))
        for name in ERROR_NAMES
        if (values := [errors[c][name] for c in sorted(present) if not np.isnan(errors[c][name])])
    ]
    weight = summary["cfg"]["mean_ap_weight"]
    report |= {
        "mAP_present": present_ap,
        "NDS_present": (weight * present_ap + sum(scores)) / (weight + len(scores)),
        "num_present": float(len(present)),
    }
    for distance in summary["cfg"]["dist_ths"]:
        at_distance = [aps[distance] for aps in summary["label_aps"].values()]
        report[f"mAP_dist_{distance}"] = float(np.mean(at_distance))
    for name, ap in by_class.items():
        report[f"{name}_AP"] = ap
        report |= {f"{name}_AP_dist_{distance}": value for distance, value in summary["label_aps"][name].items()}
        report |= {f"{name}_{error}": value for error, value in errors[name].items() if not np.isnan(value)}
    return {name: float(value) for name, value in report.items()}
