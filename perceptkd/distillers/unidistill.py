"""UniDistill (CVPR 2023): a BEV detector of one sensor teaches one of another, near the annotated boxes only.

Three losses compare the maps of student and teacher in metric space: features at nine key points of every box
(:func:`feature_loss`), similarities between those points (:func:`relation_loss`), and head outputs under a Gaussian
around every box centre (:func:`response_loss`). Nothing is added to the student at inference.

Shapes: B samples, N boxes of the whole batch, P = 9 key points, C channels, H rows (y), W columns (x), M map cells.
BEV boxes are ``(x, y, length, width, yaw)`` in metres and radians, counter-clockwise. Sections are those of the paper.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perceptkd.core.bev import batch_boxes, gaussian_mask, in_map_frame, sample_points, tap_extent
from perceptkd.core.box_reach import BoxReach
from perceptkd.core.cache import flatten
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import canonical_bev
from perceptkd.core.heads import pair_heads
from perceptkd.core.tap import Tap, Taps
from perceptkd.core.weight import build_weight
from perceptkd.registry import DISTILLERS

# Four corners counter-clockwise from rear right, the centre, then the middle of the rear, left, front and right side,
# in halves of (length, width).
KEY_POINT_OFFSETS = ((-1, -1), (-1, 1), (1, 1), (1, -1), (0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))


def key_points(boxes: Tensor) -> Tensor:
    """Places nine points on each box (Sec. 3.2): corners, centre, middles of the sides.

    Args:
        boxes: BEV boxes [N, 5].

    Returns:
        Metric coordinates [N, 9, 2].

    >>> key_points(torch.tensor([[10.0, 5.0, 4.0, 2.0, 0.0]]))[0, :5].tolist()
    [[8.0, 4.0], [8.0, 6.0], [12.0, 6.0], [12.0, 4.0], [10.0, 5.0]]
    """
    local = boxes.new_tensor(KEY_POINT_OFFSETS) * boxes[:, None, 2:4] / 2
    return in_map_frame(local, boxes)


def feature_loss(student: Tensor, teacher: Tensor, *, num_boxes: Tensor | float, eps: float = 1e-4) -> Tensor:
    """Mean absolute difference at the key points of each box, averaged over boxes whatever their size (Sec. 3.2).

    Args:
        student: Low-level features at the key points [N, P, C].
        teacher: The teacher's [N, P, C]; detached.
        num_boxes: Boxes per rank, averaged over ranks.
        eps: Added to ``num_boxes``.
    """
    return (student - teacher.detach()).abs().mean(dim=(1, 2)).sum() / (num_boxes + eps)


def relation_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    num_boxes: Tensor | float,
    scope: str = "intra",
    sample_index: Tensor | None = None,
    eps: float = 1e-4,
) -> Tensor:
    """Mean absolute difference of cosine similarities (Sec. 3.3); the channel counts of the two may differ.

    Args:
        student: High-level features at the key points [N, P, C].
        teacher: The teacher's [N, P, C']; detached.
        num_boxes: Boxes per rank, averaged over ranks.
        scope: 'intra' compares the P points of one box with each other, as published; 'inter' compares each key point
            with the same key point of all boxes of its sample.
        sample_index: Which sample each box belongs to [N]; needed by 'inter'.
        eps: Added to the norms and to ``num_boxes``.
    """
    difference = (_similarity(student, scope, eps) - _similarity(teacher.detach(), scope, eps)).abs()
    if scope == "intra":
        return difference.mean(dim=(1, 2)).sum() / (num_boxes + eps)
    if sample_index is None:
        raise InputError("relation_loss with scope='inter' needs sample_index: which sample each box belongs to")
    neighbours = (sample_index[:, None] == sample_index).to(difference.dtype)
    per_box = (difference.mean(dim=0) * neighbours).sum(dim=1) / neighbours.sum(dim=1)
    return per_box.sum() / (num_boxes + eps)


def _similarity(features: Tensor, scope: str, eps: float) -> Tensor:
    """Cosine similarities: [N, P, P] within boxes ('intra') or [P, N, N] between boxes ('inter')."""
    unit = features / (torch.linalg.vector_norm(features, dim=-1, keepdim=True) + eps)
    if scope == "inter":
        unit = unit.transpose(0, 1)
    return unit @ unit.transpose(1, 2)


def class_probability(logits: Tensor, *, temperature: float = 1.0, clamp: float = 1e-4) -> Tensor:
    """Sigmoid of ``logits / temperature``, kept ``clamp`` away from 0 and 1."""
    return (logits / temperature).sigmoid().clamp(clamp, 1 - clamp)


def response_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    *,
    total_weight: Tensor | float,
    mode: str = "mean",
    eps: float = 1e-4,
) -> Tensor:
    """Weighted mean over map cells of the absolute difference of two head outputs (Sec. 3.4).

    Args:
        student: Outputs of the student at the cells of the mask [M, K].
        teacher: The teacher's [M, K]; detached.
        weight: Value of the mask at these cells [M].
        total_weight: Sum of the mask, averaged over ranks.
        mode: How K channels become one difference: 'mean' averages their differences (regression), 'max' compares the
            largest channel of either side (the published class term), 'sum' adds the differences up.
        eps: Added to ``total_weight``.
    """
    teacher = teacher.detach()
    if mode == "max":  # max, not amax: of equal channels only one gets the gradient
        student, teacher = student.max(dim=1, keepdim=True).values, teacher.max(dim=1, keepdim=True).values
    difference = (student - teacher).abs()
    difference = difference.mean(dim=1) if mode == "mean" else difference.sum(dim=1)
    return (difference * weight).sum() / (total_weight + eps)


@DISTILLERS.register_module()
class UniDistill(Distiller):
    """Feature, relation and response distillation between two BEV detectors near the annotated boxes.

    Terms: ``feature`` ('low'), ``relation`` ('high'), ``response_cls`` and ``response_reg`` ('response'); a weight
    named ``response`` stands for both of the last two. What only terms with a weight of 0 compare is not tapped and
    may differ; the channels of 'high' may differ in any case. The defaults are the published weights from LiDAR to
    camera. Published for the other directions: fusion to camera 10 / 5 / 10, camera to LiDAR 10 / 5 / 1 (with adapters
    on 'low' and 'high'), fusion to LiDAR 10 / 1 / 10.

    Args:
        relation_scope: See :func:`relation_loss`.
        cls_mode: 'max' compares the largest class probability per cell, as published; 'per_class' adds up the
            differences of all classes, so that a peak of the wrong class counts.
        heatmap_key: Name of the class logits in the output of the heads.
        reg_keys: Dense regression outputs to compare, of which those count that both heads have; an empty tuple
            leaves ``response_reg`` out, for heads without dense regression.
        temperature: Divides the class logits of both sides before the sigmoid.
        overlap, min_radius: See :func:`gaussian_mask`.
        clamp: Distance which class probabilities keep from 0 and 1.
        eps: Added to norms and averages.
        legacy: Repeat three mistakes of the released code: key points with x and y exchanged, the temperature on the
            teacher alone, and a cell painted at the ego vehicle for samples with fewer boxes than the largest.
        **kwargs: Of the base class.
    """

    default_weights = {"feature": 100.0, "relation": 40.0, "response_cls": 10.0, "response_reg": 10.0}
    default_student_taps = {"low": "fuser", "high": "neck[0]", "response": "bbox_head"}
    default_teacher_taps = {"low": "fuser", "high": "neck[0]", "response": "bbox_head"}
    default_adapters = {"low": "auto", "high": None, "response": None}
    sampled_aliases = frozenset({"low", "high"})
    layout_aware = True
    maps_classes = True

    def __init__(
        self,
        *,
        weights: Mapping[str, Any] | None = None,
        relation_scope: str = "intra",
        cls_mode: str = "max",
        heatmap_key: str = "heatmap",
        reg_keys: Sequence[str] = ("reg", "height", "dim", "rot", "vel", "iou"),
        temperature: float = 2.0,
        overlap: float = 0.7,
        min_radius: int = 0,
        clamp: float = 1e-4,
        eps: float = 1e-4,
        legacy: bool = False,
        **kwargs: Any,
    ) -> None:
        if relation_scope not in ("intra", "inter") or cls_mode not in ("max", "per_class") or eps < 1e-6:
            raise InputError(
                "UniDistill: relation_scope is 'intra' or 'inter', cls_mode 'max' or 'per_class', eps at least 1e-6; "
                f"not {relation_scope!r}, {cls_mode!r} and {eps}"
            )
        if temperature <= 0 or not 0 < overlap < 1 or min_radius < 0 or not 0 <= clamp < 0.5:
            raise InputError(
                "UniDistill: temperature is positive, overlap between 0 and 1, min_radius at least 0, clamp below 0.5; "
                f"not {temperature}, {overlap}, {min_radius} and {clamp}"
            )
        weights = dict(weights or {})
        if "response" in weights:
            weights = dict.fromkeys(("response_cls", "response_reg"), weights.pop("response")) | weights
        super().__init__(weights=weights, **kwargs)
        if not reg_keys:
            del self.weights["response_reg"]
        for alias, terms in (("low", "feature"), ("high", "relation"), ("response", "response")):
            specs = [build_weight(spec) for term, spec in self.weights.items() if term.startswith(terms)]
            if self.trains and all(weight.always_zero for weight in specs):
                for taps in (self.student_taps, *self.teacher_taps.values()):
                    taps.pop(alias, None)  # what nothing is learned from need not agree
        self.relation_scope = relation_scope
        self.cls_mode = cls_mode
        self.heatmap_key = heatmap_key
        self.reg_keys = tuple(reg_keys)
        self.probability: dict[str, Any] = {"temperature": temperature, "clamp": clamp}
        self.gaussian: dict[str, Any] = {"overlap": overlap, "min_radius": min_radius}
        self.eps = eps
        self.legacy = legacy

    @property
    def box_reach(self) -> BoxReach | None:
        """The released code reads at exchanged coordinates as well, anywhere on the map."""
        return None if self.legacy else BoxReach() | BoxReach.of_gaussians(**self.gaussian)

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Returns the terms named in the class docstring."""
        _, leaves = flatten(next(iter(student.values())).value)
        boxes, sample_index = batch_boxes(step.data_samples, device=leaves[0].device)
        points = key_points(boxes)
        num_boxes = all_reduce_mean(points.new_tensor(float(len(boxes))))

        def at_points(tap: Tap) -> Tensor:
            return sample_points(canonical_bev(tap), points, sample_index, extent=tap_extent(tap), swap=self.legacy)

        terms = {}
        if "low" in student:
            low = at_points(student["low"]), at_points(teacher["low"])
            if low[0].shape != low[1].shape:
                raise InputError(
                    f"UniDistill: 'low' has {low[0].shape[-1]} channels in the student, {low[1].shape[-1]} in the "
                    "teacher; give the distiller an adapter for it (adapters=dict(low=...)), or weights=dict(feature=0)"
                )
            terms["feature"] = feature_loss(*low, num_boxes=num_boxes, eps=self.eps)
        if "high" in student:
            high = at_points(student["high"]), at_points(teacher["high"])
            terms["relation"] = relation_loss(
                *high, num_boxes=num_boxes, scope=self.relation_scope, sample_index=sample_index, eps=self.eps
            )
        if "response" in student:
            terms |= self._response(student["response"], teacher["response"], boxes, sample_index, step)
        return terms

    def _response(
        self, student: Tap, teacher: Tap, boxes: Tensor, sample_index: Tensor, step: Step
    ) -> dict[str, Tensor]:
        """The class and regression terms, read from the cells under the Gaussian mask alone."""
        student_head, teacher_head, shared = pair_heads(
            student, teacher, step, distiller=self, heatmap_key=self.heatmap_key, reg_keys=self.reg_keys
        )
        batch_size, _, height, width = student_head[self.heatmap_key][0].shape
        if self.legacy:
            boxes, sample_index = _with_padding(boxes, sample_index, batch_size=batch_size)
        shape, extent = (batch_size, height, width), tap_extent(student)
        mask = gaussian_mask(boxes, sample_index, shape=shape, extent=extent, **self.gaussian)
        cells = mask.nonzero(as_tuple=True)

        def at_cells(head: Mapping[str, list[Tensor]], keys: Sequence[str]) -> Tensor:
            # joined before they are read: one map of gradients in the backward, not one per output
            maps = torch.cat([task for key in keys for task in head[key]], dim=1)
            return maps.permute(0, 2, 3, 1)[cells].float()

        average: dict[str, Any] = {"total_weight": all_reduce_mean(mask.sum()), "eps": self.eps}
        own = {"temperature": 1.0, "clamp": 1e-4} if self.legacy else self.probability
        terms = {
            "response_cls": response_loss(
                class_probability(at_cells(student_head, [self.heatmap_key]), **own),
                class_probability(at_cells(teacher_head, [self.heatmap_key]), **self.probability),
                mask[cells],
                mode="max" if self.cls_mode == "max" else "sum",
                **average,
            )
        }
        if self.reg_keys:
            pair = at_cells(student_head, shared), at_cells(teacher_head, shared)
            terms["response_reg"] = response_loss(*pair, mask[cells], mode="mean", **average)
        return terms


def _with_padding(boxes: Tensor, sample_index: Tensor, *, batch_size: int) -> tuple[Tensor, Tensor]:
    """Adds the zero row that the released mask takes for a box to every sample with fewer boxes than the largest."""
    counts = torch.bincount(sample_index, minlength=batch_size)
    short = (counts < counts.max()).nonzero().squeeze(1)
    return torch.cat((boxes, boxes.new_zeros(len(short), 5))), torch.cat((sample_index, short))
