"""KITTI object detection metrics, and the files that the evaluation server takes."""

import pickle
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger

from perceptkd.atomic import write_text
from perceptkd.core.errors import InputError
from perceptkd.evaluation.kitti import DIFFICULTIES, EVALUATED, KINDS, NUM_POSITIONS, Curve, ap11, ap40, evaluate
from perceptkd.evaluation.kitti_boxes import KittiTable, read_truth, to_lines
from perceptkd.evaluation.kitti_camera import boxes_to_camera
from perceptkd.registry import METRICS

AVERAGES = {"AP40": ap40, "AP11": ap11}


@METRICS.register_module()
class KittiMetric(BaseMetric):
    """AP and orientation similarity of Car, Pedestrian and Cyclist, equal to those of the official evaluator.

    Reports ``kitti/<class>_<difficulty>_<kind>_<AP40|AP11>`` in percent, for ``easy``, ``moderate`` and ``hard`` and
    for the kinds ``bbox``, ``bev``, ``3d`` and ``aos``, and ``kitti/<difficulty>_<kind>_<AP40|AP11>``, the mean over
    those of the three classes that the model has. ``kitti/moderate_3d_AP40`` is the usual headline. Names that end in
    ``_loose`` are by mmdet3d's second set of overlaps (``bev`` and ``3d``: 0.5 for Car, else 0.25).

    A class without counted ground truth has AP 0, and fewer than 41 boxes keep AP40 below 100 whatever is predicted
    (see :mod:`perceptkd.evaluation.kitti`); a warning says so.

    Predictions are boxes in the LiDAR frame. Those that the image does not show are left out, as KITTI annotates none
    there; mmdet3d also leaves out what lies outside of a range, which here is up to the model.

    Args:
        data_root: KITTI folder.
        ann_file: Info file in mmdet3d's format 2, relative to ``data_root``.
        out_dir: Where ``<sample>.txt`` goes for each frame; nowhere by default.
        format_only: Write these files and do not evaluate (the test split has no ground truth).
        camera: Whose image and calibration count.
        collect_device: See MMEngine's BaseMetric.
        prefix: Prefix of the metric's names, 'kitti' by default.
    """

    default_prefix = "kitti"

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        *,
        out_dir: str | None = None,
        format_only: bool = False,
        camera: str = "CAM2",
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if format_only and out_dir is None:
            raise InputError("format_only=True writes the results and nothing else: set out_dir")
        self.ann_file = Path(data_root) / ann_file
        self.out_dir = out_dir
        self.format_only = format_only
        self.camera = camera

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps each frame's boxes as arrays: bottom centre, size and yaw in the LiDAR frame."""
        for sample in data_samples:
            predictions = sample["pred_instances_3d"]
            boxes = predictions["bboxes_3d"]
            if not isinstance(boxes, LiDARInstance3DBoxes):
                raise InputError(f"predicted boxes must be LiDARInstance3DBoxes, these are {type(boxes).__name__}")
            self.results.append(
                {
                    "sample_idx": sample["sample_idx"],
                    "lidar_path": sample.get("lidar_path"),
                    "boxes": boxes.tensor.detach().cpu().float().numpy()[:, :7],
                    "scores": predictions["scores_3d"].detach().cpu().float().numpy(),
                    "labels": predictions["labels_3d"].detach().cpu().numpy(),
                }
            )

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Scores all frames."""
        content = self._load_infos()
        infos = content["data_list"]
        predictions = self._collect(results, infos)
        if self.out_dir is not None:
            self._write_results(predictions, infos)
        if self.format_only:
            return {}
        classes = [name for name in EVALUATED if name in self.dataset_meta["classes"]]
        truth = read_truth(infos, content["metainfo"]["categories"])
        curves = evaluate(predictions, truth, classes=classes)
        if not any(curve.num_truth for curve in curves.values()):
            raise InputError(
                f"no annotated {' or '.join(classes)} in {self.ann_file} counts: there is nothing to evaluate; on a "
                "split without annotations write the results alone with format_only=True"
            )
        self._warn_of_few(curves)
        return summarise(curves, classes)

    def _load_infos(self) -> dict[str, Any]:
        how = "make it with tools/create_data.py"
        if not self.ann_file.is_file():
            raise FileNotFoundError(f"info file {self.ann_file} is missing: {how}")
        with open(self.ann_file, "rb") as file:
            content = pickle.load(file)
        has_categories = isinstance(content.get("metainfo", {}).get("categories"), Mapping)
        if not has_categories or not content.get("data_list") or "sample_idx" not in content["data_list"][0]:
            raise InputError(
                f"info file {self.ann_file} has no frames, no categories or no sample_idx (mmdet3d's format 2): {how}"
            )
        return content

    def _collect(self, results: list[dict[str, Any]], infos: list[dict[str, Any]]) -> KittiTable:
        """All predictions; every frame of the info file must have been predicted once."""
        for result in results:
            index = result["sample_idx"]
            if not 0 <= index < len(infos) or not _is_of(infos[index], result["lidar_path"]):
                raise InputError(
                    f"frame {index} ({result['lidar_path']}) was predicted but is not at that place in "
                    f"{self.ann_file}: evaluate the data set of the metric, all of it"
                )
        counts = np.bincount([result["sample_idx"] for result in results], minlength=len(infos))
        if counts.max() > 1:
            sample = infos[counts.argmax()]["sample_idx"]
            raise InputError(f"sample {sample} was predicted twice: evaluate each frame once")
        if counts.min() == 0:
            raise InputError(
                f"{len(results)} of {len(infos)} frames of {self.ann_file} were predicted: evaluate the whole split, "
                "or make info files of a smaller one"
            )
        return boxes_to_camera(
            *(np.concatenate([result[name] for result in results]) for name in ("boxes", "scores", "labels")),
            np.repeat([result["sample_idx"] for result in results], [len(result["boxes"]) for result in results]),
            infos=infos,
            classes=self.dataset_meta["classes"],
            camera=self.camera,
        )

    def _write_results(self, predictions: KittiTable, infos: list[dict[str, Any]]) -> None:
        predictions = predictions[np.argsort(predictions.frame, kind="stable")]
        ends = np.searchsorted(predictions.frame, np.arange(len(infos)), side="right")
        for info, start, end in zip(infos, [0, *ends], ends):
            path = Path(self.out_dir) / f"{int(info['sample_idx']):06d}.txt"
            write_text(path, to_lines(predictions[start:end]))

    def _warn_of_few(self, curves: Mapping[tuple[str, str, str, str], Curve]) -> None:
        few = [
            f"{name} {difficulty} {curve.num_truth}"
            for (limits, name, difficulty, kind), curve in curves.items()
            if (limits, kind) == ("strict", "bbox") and curve.num_truth < NUM_POSITIONS
        ]
        if few:
            MMLogger.get_current_instance().warning(
                f"{self.ann_file} has few counted ground truth boxes ({', '.join(few)}): by KITTI's rules no detector "
                f"reaches 100 with fewer than {NUM_POSITIONS}, and AP is 0 without any"
            )


def _is_of(info: Mapping[str, Any], lidar_path: str | None) -> bool:
    """Whether a prediction is of the frame of an info record, by the names of their point files."""
    return lidar_path is None or Path(lidar_path).name == Path(info["lidar_points"]["lidar_path"]).name


def summarise(curves: Mapping[tuple[str, str, str, str], Curve], classes: Sequence[str]) -> dict[str, float]:
    """AP40 and AP11 by class, and their means over the classes, under the names of :class:`KittiMetric`."""
    report: dict[str, float] = {}
    for limits, suffix, kinds in (("strict", "", (*KINDS, "aos")), ("loose", "_loose", KINDS[1:])):
        for difficulty, kind, (average, mean) in product(DIFFICULTIES, kinds, AVERAGES.items()):
            by_class = {}
            for name in classes:
                curve = curves[limits, name, difficulty, "bbox" if kind == "aos" else kind]
                by_class[name] = mean(curve.similarity if kind == "aos" else curve.precision)
            figure = f"{difficulty}_{kind}_{average}{suffix}"
            report[figure] = float(np.mean(list(by_class.values())))
            report |= {f"{name}_{figure}": value for name, value in by_class.items()}
    return report
