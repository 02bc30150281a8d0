"""Point-wise segmentation: intersection over union, over all points and by distance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from perceptkd.core.errors import InputError
from perceptkd.evaluation.point_iou import confusion_matrix, summarise
from perceptkd.registry import METRICS


@METRICS.register_module()
class PointIoUMetric(BaseMetric):
    """mIoU and IoU per class of a point-wise segmenter, equal to mmdet3d's ``seg_eval``.

    Reports ``seg/mIoU``, ``seg/accuracy`` (of all points), ``seg/class_accuracy`` (mean recall), ``seg/<class>_IoU``
    and ``seg/num_present``, the number of classes in the mIoU: one that no point has and none was given is left out.
    ``seg/mIoU_<near>-<far>m`` are the mIoU of the points at these distances.

    Only one confusion matrix per frame is kept and gathered, so that processes need not share points.

    Args:
        ranges_m: Horizontal distances from the sensor ``(near, far)``, in metres, far not included; a ``far`` of None
            has no end.
        collect_device: See MMEngine's BaseMetric.
        prefix: Prefix of the metric's names, 'seg' by default.
    """

    default_prefix = "seg"

    def __init__(
        self,
        *,
        ranges_m: Sequence[tuple[float, float | None]] = (),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ranges_m = [(float(near), np.inf if far is None else float(far)) for near, far in ranges_m]
        if any(not 0 <= near < far for near, far in self.ranges_m):
            raise InputError(f"ranges_m are pairs (near, far) with 0 <= near < far, in metres; not {list(ranges_m)}")

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the confusion matrices of every frame: of all points, then of each range [1 + R, K, K + 1]."""
        classes = {"num_classes": len(self.dataset_meta["classes"]), "ignore_index": self.dataset_meta["ignore_index"]}
        for number, sample in enumerate(data_samples):
            labels = np.asarray(sample["eval_ann_info"]["pts_semantic_mask"])
            predicted = sample["pred_pts_seg"]["pts_semantic_mask"].cpu().numpy()
            matrices = [confusion_matrix(labels, predicted, **classes)]
            if self.ranges_m:
                points = data_batch["inputs"]["points"][number][:, :2].cpu().numpy().astype(np.float64)
                distance_m = np.hypot(points[:, 0], points[:, 1])
                inside = [(distance_m >= near) & (distance_m < far) for near, far in self.ranges_m]
                matrices += [confusion_matrix(labels[part], predicted[part], **classes) for part in inside]
            self.results.append(np.stack(matrices))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Scores the sum of all frames. A range without a labelled point has no score."""
        names = {"classes": self.dataset_meta["classes"], "ignore_index": self.dataset_meta["ignore_index"]}
        whole, *parts = np.sum(results, axis=0)
        report = summarise(whole, **names)
        for (near, far), part in zip(self.ranges_m, parts):
            if part.any():
                report[f"mIoU_{near:g}-{far:g}m"] = summarise(part, **names)["mIoU"]
        return report
