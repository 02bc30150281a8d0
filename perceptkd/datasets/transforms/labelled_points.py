"""The points of a scan with their classes, both files checked."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.structures.points import LiDARPoints

from perceptkd.core.errors import InputError
from perceptkd.datasets.transforms.loading import load_points
from perceptkd.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadLabelledPoints(BaseTransform):
    """Points and classes of a SemanticKITTI scan, within a distance.

    It replaces mmdet3d's ``LoadPointsFromFile``, ``LoadAnnotations3D`` and ``PointSegClassMapping``. Sets ``points``:
    LiDARPoints [N, 4] of x, y, z [m] and intensity, and ``pts_semantic_mask``: int64 [N], also as ``eval_ann_info``
    where the data set is evaluated.

    Args:
        max_range_m: Points farther away, seen from above, are left out, of evaluation as well; None keeps all.
    """

    def __init__(self, *, max_range_m: float | None = None) -> None:
        self.max_range_m = max_range_m

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds points and classes.

        Raises:
            FileNotFoundError: The scan or its labels are missing.
            InputError: A file is cut, a point is not finite, or a label is not one of SemanticKITTI's.
        """
        name = str(results["sample_idx"])
        frame = results["lidar_points"]
        points = load_points(frame["lidar_path"], frame["num_pts_feats"], sample=name)[:, :4]
        if "pts_semantic_mask_path" not in results:
            raise InputError(f"sample {name} has no labels: its info file is of a split without, such as test")
        labels = load_labels(
            results["pts_semantic_mask_path"], results["seg_label_mapping"], count=len(points), sample=name
        )
        if self.max_range_m is not None:
            near = np.hypot(points[:, 0], points[:, 1]) < self.max_range_m
            if not near.any():
                raise InputError(
                    f"sample {name} has no point within {self.max_range_m:g} m: drop it from the info file"
                )
            points, labels = points[near], labels[near]
        results["points"] = LiDARPoints(torch.from_numpy(points), points_dim=4)
        results["pts_semantic_mask"] = labels
        if "eval_ann_info" in results:
            results["eval_ann_info"]["pts_semantic_mask"] = labels
        return results


def load_labels(path: str | Path, mapping: np.ndarray, *, count: int, sample: str) -> np.ndarray:
    """Reads a label file: the class of every point, int64 [N].

    Args:
        path: File of uint32, the raw label in the lower 16 bits.
        mapping: Raw label -> class; negative for those that do not exist.
        count: N.
        sample: Whose it is, for messages.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"sample {sample}: label file {path} is missing; restore it or remake the data set")
    size = path.stat().st_size
    if size != 4 * count:
        raise InputError(
            f"sample {sample}: label file {path} has {size} bytes, and the scan's {count} points need {4 * count}; "
            "restore both"
        )
    raw = (np.fromfile(path, dtype=np.uint32) & 0xFFFF).astype(np.int64)
    classes = mapping[raw.clip(max=len(mapping) - 1)]
    strange = np.unique(raw[(raw >= len(mapping)) | (classes < 0)])
    if len(strange):
        raise InputError(
            f"sample {sample}: {path} has the labels {strange[:5].tolist()}, which SemanticKITTI does not define: "
            "correct the file, or its labels are of another data set"
        )
    return classes
