"""The head of UniDistill's released detectors, so that its own setting can be written as a config.

It differs from CenterPoint's in its targets (:mod:`perceptkd.models.bev.nearest_targets`), in an extra map that
predicts the IoU of each box and ranks them for NMS, in an IoU loss, and in learned weights between its losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.structures import InstanceData
from torch import Tensor, nn

from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.models.bev.center_head import PROBABILITY_MARGIN, REGRESSION_KEYS, BEVCenterHead, TaskMaps
from perceptkd.models.bev.nearest_targets import NearestTargets, build_nearest_targets
from perceptkd.ops.bbox_overlaps import bbox_overlaps
from perceptkd.ops.nms import nms_rotated
from perceptkd.registry import MODELS

LOG_MARGIN = 1e-4  # added to the probability of the background before its logarithm
DIMS_M = (0.001, 30.0)  # within which predicted dims are kept
SMALLEST_OVERLAP_M = 1e-3  # keeps the gradient of boxes that do not overlap along an axis


@MODELS.register_module()
class IoUCenterHead(BEVCenterHead):
    """UniDistill's IoU-aware centre head (follows the release, ``center_head_iou_aware.py``).

    ``common_heads`` needs ``iou=(1, 2)`` beside the maps of ``CenterHead``; ``loss_cls`` and ``loss_bbox`` are not
    read.

    Args:
        top_k: Positives per box, see :func:`build_nearest_targets`.
        iou_weight: Of the IoU loss of boxes, which counts once the regression loss of the task is below 1.
        iou_power: How much the predicted IoU decides the order of NMS: ``score ** (1 - p) * iou ** p``. The score that
            is reported stays that of the heatmap.
        legacy: Repeat the released IoU loss, which takes heights for widths and widths for heights.
        **kwargs: As in :class:`BEVCenterHead`. Of ``test_cfg`` count ``nms_thr``, ``pre_max_size``, ``post_max_size``,
            ``score_threshold`` and ``post_center_limit_range``.
    """

    def __init__(
        self,
        *,
        top_k: int = 9,
        iou_weight: float = 5.0,
        iou_power: float = 0.65,
        legacy: bool = False,
        common_heads: Mapping[str, tuple[int, int]],
        **kwargs: Any,
    ) -> None:
        super().__init__(common_heads=dict(common_heads), **kwargs)
        missing = {*REGRESSION_KEYS, "iou"} - common_heads.keys()
        if missing or not self.norm_bbox:
            raise InputError(f"IoUCenterHead needs norm_bbox=True and the maps {sorted(missing)} in common_heads")
        self.top_k = top_k
        self.iou_weight = iou_weight
        self.iou_power = iou_power
        self.legacy = legacy
        #: Learned uncertainty of the heatmap, regression and IoU-prediction losses, shared by all tasks.
        self.loss_scales = nn.Parameter(torch.ones(3))

    def build_targets(self, boxes: Tensor, labels: Tensor, *, sample: Tensor, batch_size: int) -> list[NearestTargets]:
        """The ``top_k`` grid points nearest to each box (see :func:`build_nearest_targets`)."""
        return build_nearest_targets(
            boxes,
            labels,
            sample=sample,
            batch_size=batch_size,
            task_sizes=self.num_classes,
            top_k=self.top_k,
            train_cfg=self.train_cfg,
        )

    def loss_by_feat(
        self, preds_dicts: TaskMaps, batch_gt_instances_3d: Sequence[InstanceData], *_: object, **__: object
    ) -> dict[str, Tensor]:
        """Per task the weighted losses of heatmap, regression and IoU prediction, and the IoU loss of boxes."""
        losses = {}
        targets = self.get_targets(batch_gt_instances_3d)
        with torch.autocast(self.task_label_to_dataset.device.type, enabled=False):
            scale = 0.5 / self.loss_scales.square()
            regulariser = torch.log1p(self.loss_scales.square())
            for index, (task, (maps, *_levels)) in enumerate(zip(targets, preds_dicts, strict=True)):
                heatmap, box, iou_prediction, overlap = self._task_losses(maps, task)
                terms = {"heatmap": heatmap, "bbox": box, "iou_prediction": iou_prediction}
                for name, value, factor, extra in zip(terms, terms.values(), scale, regulariser):
                    losses[f"task{index}.loss_{name}"] = factor * value + extra
                is_near = (all_reduce_mean(box.detach()) < 1).to(overlap.dtype)
                losses[f"task{index}.loss_iou"] = self.iou_weight * is_near * overlap
        return losses

    def _task_losses(self, maps: Mapping[str, Tensor], task: NearestTargets) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Unweighted losses of one task: heatmap, regression, IoU prediction and IoU of boxes."""
        one_positive = 1 / get_world_size()
        probability = maps["heatmap"].float().sigmoid().clamp(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
        heatmap = hard_focal_loss(probability, task.heatmap) / task.num_positives.clamp(min=one_positive)
        regression = torch.cat([maps[key].float() for key in REGRESSION_KEYS], dim=1)
        predicted = regression[task.sample, :, task.row, task.column]
        weights = predicted.new_tensor(self.train_cfg["code_weights"])
        known = torch.where(task.boxes.isnan(), predicted.detach(), task.boxes)
        box = ((predicted - known).abs() * weights).sum() / (task.num_positives + LOG_MARGIN)

        own, target = self._metric_boxes(predicted), self._metric_boxes(task.boxes)
        overlap = (1 - aligned_iou3d(own, target, legacy=self.legacy)).sum() / task.num_positives.clamp(
            min=one_positive
        )
        with torch.no_grad():
            wanted = 2 * (nearest_bev_iou(own, target) - 0.5)
        found = maps["iou"].float()[task.sample, 0, task.row, task.column]
        iou_prediction = (found - wanted).abs().sum() / (task.num_positives + LOG_MARGIN)
        return heatmap, box, iou_prediction, overlap

    def _metric_boxes(self, codes: Tensor) -> Tensor:
        """Boxes [P, 7] in metres about their grid points, from codes [P, 10]."""
        cell = codes.new_tensor(self.train_cfg["voxel_size"][:2]) * self.train_cfg["out_size_factor"]
        yaw = torch.atan2(codes[:, 6:7], codes[:, 7:8])
        return torch.cat([codes[:, :2] * cell, codes[:, 2:3], codes[:, 3:6].exp().clamp(*DIMS_M), yaw], dim=1)

    def predict_by_feat(
        self, preds_dicts: TaskMaps, batch_input_metas: list[dict], *_: object, **__: object
    ) -> list[InstanceData]:
        """Boxes of every sample, by task; NMS ranks them by score and predicted IoU."""
        results = []
        with torch.autocast(self.task_label_to_dataset.device.type, enabled=False):
            for index, metas in enumerate(batch_input_metas):
                parts, first_label = [], 0
                for classes, (maps, *_levels) in zip(self.num_classes, preds_dicts, strict=True):
                    boxes, scores, labels = self._decode({key: value[index].float() for key, value in maps.items()})
                    parts.append((boxes, scores, labels + first_label))
                    first_label += classes
                boxes, scores, labels = (torch.cat(column) for column in zip(*parts))
                boxes[:, 2] -= boxes[:, 5] / 2
                results.append(
                    InstanceData(
                        bboxes_3d=metas["box_type_3d"](boxes, box_dim=boxes.shape[1]),
                        scores_3d=scores,
                        labels_3d=self.task_label_to_dataset[labels],
                    )
                )
        return results

    def _decode(self, maps: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [N, 9] with their gravity centres, scores and labels of one task of one sample, from maps [C, H, W]."""
        config = self.test_cfg
        height, width = maps["heatmap"].shape[1:]
        heatmap = maps["heatmap"].sigmoid().flatten()
        scores, place = heatmap.topk(min(config["pre_max_size"], len(heatmap)))
        labels, point = place // (height * width), place % (height * width)
        codes = torch.cat([maps[key].flatten(1) for key in (*REGRESSION_KEYS, "iou")])[:, point].t()
        cell = codes.new_tensor(self.train_cfg["voxel_size"][:2]) * self.train_cfg["out_size_factor"]
        low = codes.new_tensor(self.train_cfg["point_cloud_range"][:2])
        boxes = self._metric_boxes(codes)
        boxes[:, :2] += torch.stack((point % width, point // width), dim=1) * cell + low
        boxes = torch.cat([boxes, codes[:, 8:10]], dim=1)

        limits = boxes.new_tensor(config["post_center_limit_range"])
        kept = (boxes[:, :3] >= limits[:3]).all(1) & (boxes[:, :3] <= limits[3:]).all(1)
        kept &= scores > config["score_threshold"]
        boxes, scores, labels, iou = boxes[kept], scores[kept], labels[kept], codes[kept, 10]
        rank = scores ** (1 - self.iou_power) * (iou / 2 + 0.5).clamp(0, 1) ** self.iou_power
        best = nms_rotated(boxes[:, [0, 1, 3, 4, 6]], rank, config["nms_thr"])[: config["post_max_size"]]
        return boxes[best], scores[best], labels[best]


def hard_focal_loss(probability: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the focal loss over a heatmap of 0 and 1; ``LOG_MARGIN`` is added on the background as released.

    Args:
        probability: Any shape, in (0, 1).
        target: Of the same shape, 0 or 1.
    """
    positive = alpha * (1 - probability) ** gamma * probability.log()
    negative = (1 - alpha) * probability**gamma * (1 - probability + LOG_MARGIN).log()
    return -torch.where(target > 0, positive, negative).sum()


def aligned_iou3d(boxes: Tensor, targets: Tensor, *, legacy: bool = False) -> Tensor:
    """IoU of pairs of boxes as if none was turned, [P]; the released IoU loss is 1 minus this.

    Args:
        boxes: [P, 7]: centre, dims, yaw.
        targets: [P, 7].
        legacy: Take the third dim along y and the second along z, as the released code does by mistake.
    """
    order = [3, 5, 4] if legacy else [3, 4, 5]
    (low, high, volume), (other_low, other_high, other_volume) = (
        (box[:, :3] - box[:, order] / 2, box[:, :3] + box[:, order] / 2, box[:, 3:6].prod(dim=1).clamp(min=1e-3))
        for box in (boxes, targets)
    )
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=SMALLEST_OVERLAP_M)
    shared = shared.prod(dim=1)
    return (shared / (volume + other_volume - shared)).clamp(0, 1)


def nearest_bev_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """IoU [P] in bird's-eye view of pairs of boxes [P, 7], each turned to the nearer axis."""

    def corners(box: Tensor) -> Tensor:
        turn = box[:, 6:7] - torch.floor(box[:, 6:7] / torch.pi + 0.5) * torch.pi
        size = torch.where(turn.abs() < torch.pi / 4, box[:, 3:5], box[:, [4, 3]])
        return torch.cat([box[:, :2] - size / 2, box[:, :2] + size / 2], dim=1)

    return bbox_overlaps(corners(targets), corners(boxes), is_aligned=True)
