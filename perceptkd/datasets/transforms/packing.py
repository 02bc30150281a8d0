"""The last step of a BEV pipeline."""

from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData

from perceptkd.registry import TRANSFORMS

META_KEYS = ("sample_idx", "token", "timestamp", "ego2global", "box_type_3d", "box_mode_3d", "lidar_path", "img_path")


def pad_matrix(matrix: np.ndarray) -> np.ndarray:
    """A [3, 3], [3, 4] or [4, 4] matrix in the upper left of a [4, 4] identity.

    >>> pad_matrix(np.full((3, 3), 2.0))[2:].tolist()
    [[2.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    padded = np.eye(4)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded


@TRANSFORMS.register_module()
class PackBEVInputs(BaseTransform):
    """Make ``inputs`` (``points`` [N, F] float32, ``img`` [V, 3, H, W] uint8) and ``data_samples``.

    Calibration goes into the meta information as [V, 4, 4] arrays, with identities for augmentations that did not run.

    Args:
        with_boxes: Whether to pack ``gt_instances_3d``; needed for training.
        meta_keys: Further keys to keep.
    """

    def __init__(self, *, with_boxes: bool = True, meta_keys: tuple[str, ...] = META_KEYS) -> None:
        self.with_boxes = with_boxes
        self.meta_keys = meta_keys

    def transform(self, results: dict) -> dict:
        """Pack one sample."""
        inputs, metas = {}, {key: results[key] for key in self.meta_keys if key in results}
        if "points" in results:
            inputs["points"] = results["points"].tensor.contiguous()
        if "img" in results:
            images = np.stack(results["img"])
            inputs["img"] = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
            identities = [np.eye(4)] * len(images)
            for key in ("cam2img", "lidar2cam", "img_aug_matrix"):
                matrices = results.get(key, identities) if key == "img_aug_matrix" else results[key]
                metas[key] = np.stack([pad_matrix(matrix) for matrix in matrices])
        metas["lidar_aug_matrix"] = pad_matrix(results.get("lidar_aug_matrix", np.eye(4)))
        sample = Det3DDataSample(metainfo=metas)
        if self.with_boxes:
            sample.gt_instances_3d = InstanceData(
                bboxes_3d=results["gt_bboxes_3d"], labels_3d=torch.as_tensor(results["gt_labels_3d"]).long()
            )
        if "eval_ann_info" in results:
            sample.eval_ann_info = results["eval_ann_info"]
        return {"inputs": inputs, "data_samples": sample}
