"""nuScenes detection metrics by the official evaluator, on the official splits and on splits of a splits.json."""

import json
import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionConfig, DetectionMetrics
from nuscenes.eval.detection.evaluate import NuScenesEval
from nuscenes.nuscenes import NuScenes

from perceptkd.core.errors import InputError
from perceptkd.datasets.nuscenes_infos import DEFAULT_SPLITS, LIDAR, load_tables
from perceptkd.engine.atomic import write_text
from perceptkd.evaluation.nuscenes_boxes import boxes_to_records
from perceptkd.registry import METRICS

#: The evaluator's names of the true-positive errors and those of the papers.
ERROR_NAMES = {"trans_err": "mATE", "scale_err": "mASE", "orient_err": "mAOE", "vel_err": "mAVE", "attr_err": "mAAE"}
#: Farther than any class is evaluated: the evaluator filters such a box out.
OUT_OF_RANGE_M = 1e4


@lru_cache(maxsize=2)
def _cached_tables(dataroot: str, version: str, _modified: float) -> NuScenes:
    return load_tables(dataroot, version)


def cached_tables(dataroot: str, version: str) -> NuScenes:
    """The tables, kept for the next evaluation until they change on disk (trainval takes half a minute to load)."""
    table = Path(dataroot) / version / "sample_annotation.json"
    return _cached_tables(dataroot, version, table.stat().st_mtime if table.is_file() else 0.0)


@METRICS.register_module()
class NuScenesMetric(BaseMetric):
    """mAP, NDS and the five true-positive errors, as the official evaluator computes them.

    Reports ``nuscenes/mAP``, ``NDS``, ``mATE``, ``mASE``, ``mAOE``, ``mAVE``, ``mAAE``, ``mAP_dist_<d>`` (mean over the
    classes at matching distance d in metres), ``<class>_AP``, ``<class>_AP_dist_<d>``. A class without a ground truth
    box gets AP 0 and errors 1 from the evaluator; ``mAP_present`` and ``NDS_present`` are the same scores over the
    other classes, and ``num_present`` is their number. Unless it is 10, no figure compares with published ones.

    Args:
        data_root: nuScenes folder with the tables.
        ann_file: Info file, relative to ``data_root``; it names the version and the split.
        split: Split to evaluate on, where the info file names none (one made by mmdet3d).
        out_dir: Where ``results_nusc.json`` and ``metrics_summary.json`` go; nowhere by default.
        format_only: Write the results and do not evaluate (the test split has no ground truth).
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
        eval_config: str = "detection_cvpr_2019",
        near_m: float | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if format_only and out_dir is None:
            raise InputError("format_only=True writes the results and nothing else: set out_dir")
        self.data_root = data_root
        self.ann_file = Path(data_root) / ann_file
        self.split = split
        self.out_dir = out_dir
        self.format_only = format_only
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
        """Runs the evaluator over all frames."""
        infos = self._load_infos()
        records = self._collect_records(results, infos["data_list"])
        meta = {f"use_{name}": False for name in ("camera", "lidar", "radar", "map", "external")}
        if self.format_only:
            write_text(Path(self.out_dir) / "results_nusc.json", json.dumps({"meta": meta, "results": records}))
            return {}
        version = infos["metainfo"]["version"]
        split = self.split or infos["metainfo"].get("split") or DEFAULT_SPLITS[version][-1]
        tables = cached_tables(self.data_root, version)
        if not any(records.values()):
            _add_box_out_of_range(tables, records)
        submission = {"meta": meta, "results": records}
        metrics, present = self._run_evaluator(tables, submission, split=split, config=self.config)
        self._keep(metrics, submission)
        if len(present) < len(self.config.class_names):
            absent = sorted(set(self.config.class_names) - present)
            MMLogger.get_current_instance().warning(
                f"split {split} has no ground truth box of {', '.join(absent)}: they count as AP 0 in mAP and NDS; "
                "mAP_present and NDS_present leave them out"
            )
        report = summarise(metrics, present)
        if self.near_config is not None:
            near = summarise(*self._run_evaluator(tables, submission, split=split, config=self.near_config))
            report |= {f"near_{name}": value for name, value in near.items() if name.startswith(("mAP", "NDS"))}
        return report

    def _load_infos(self) -> dict[str, Any]:
        if not self.ann_file.is_file():
            raise FileNotFoundError(f"info file {self.ann_file} is missing: make it with tools/create_data.py")
        with open(self.ann_file, "rb") as file:
            return pickle.load(file)

    def _collect_records(self, results: list[dict[str, Any]], infos: list[dict[str, Any]]) -> dict[str, list[dict]]:
        """Submission records by sample token; every frame of the info file must have been predicted once."""
        by_token = {info["token"]: info for info in infos}
        classes = self.dataset_meta["classes"]
        records: dict[str, list[dict]] = {}
        for result in results:
            token = result["token"] or infos[result["sample_idx"]]["token"]
            if token not in by_token or token in records:
                reason = "twice" if token in records else f"but is not in {self.ann_file}"
                raise InputError(f"sample {token} was predicted {reason}: evaluate the data set of the metric, once")
            records[token] = boxes_to_records(
                result["boxes"],
                result["scores"],
                result["labels"],
                info=by_token[token],
                classes=classes,
                max_range_m=self.config.class_range,
                max_boxes=self.config.max_boxes_per_sample,
            )
        if len(records) < len(by_token):
            raise InputError(
                f"{len(records)} of {len(by_token)} frames of {self.ann_file} were predicted; the official evaluator "
                "needs all: evaluate the whole split, or make info files of a smaller one"
            )
        return records

    def _run_evaluator(
        self, tables: NuScenes, submission: dict[str, Any], *, split: str, config: DetectionConfig
    ) -> tuple[DetectionMetrics, set[str]]:
        """The official metrics, and the classes that have ground truth within their range."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "results_nusc.json"
            path.write_text(json.dumps(submission))
            evaluator = NuScenesEval(
                tables, config=config, result_path=str(path), eval_set=split, output_dir=folder, verbose=False
            )
            metrics, _ = evaluator.evaluate()
        present = {box.detection_name for box in evaluator.gt_boxes.all}
        if not present:
            raise InputError(f"split {split} of {self.data_root} has no ground truth box: there is nothing to evaluate")
        return metrics, present

    def _keep(self, metrics: DetectionMetrics, submission: dict[str, Any]) -> None:
        """Writes predictions and official metrics where the user asked for them."""
        if self.out_dir is not None:
            write_text(Path(self.out_dir) / "results_nusc.json", json.dumps(submission))
            write_text(Path(self.out_dir) / "metrics_summary.json", json.dumps(metrics.serialize(), indent=2))


def _add_box_out_of_range(tables: NuScenes, records: dict[str, list[dict]]) -> None:
    """The evaluator fails on a submission without any box; this one it drops by its distance."""
    token = next(iter(records))
    lidar = tables.get("sample_data", tables.get("sample", token)["data"][LIDAR])
    x, y, z = tables.get("ego_pose", lidar["ego_pose_token"])["translation"]
    records[token].append(
        {
            "sample_token": token,
            "translation": [x + OUT_OF_RANGE_M, y, z],
            "size": [1.0, 1.0, 1.0],
            "rotation": [1.0, 0.0, 0.0, 0.0],
            "velocity": [0.0, 0.0],
            "detection_name": "car",
            "detection_score": 0.0,
            "attribute_name": "vehicle.parked",
        }
    )


def summarise(metrics: DetectionMetrics, present: set[str]) -> dict[str, float]:
    """The evaluator's figures under the names of the papers, with the scores over the classes that are ``present``."""
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
