"""Foreground distillation: UniDistill's three depths, with ideas of later papers (see configs/foreground/README.md).

Ours, not a published method. Against UniDistill (:mod:`perceptkd.distillers.unidistill`):

- the student starts with the teacher's BEV encoder and head where it has the same (``inherit=`` in the configs), so
  that what its own encoder has to learn is the map which these can read;
- low-level features are therefore compared as they are, on all cells under a box and a margin around it, not at nine
  points, and with a term of their own in the background, which is most of the map and where false positives come from;
- class outputs are compared class by class, so that a peak of the wrong class is no agreement, under the boxes of the
  class alone, and as far as the teacher is sure there;
- regression is learned from the teacher where the teacher has found the box;
- the relation between key points, which ignores scale and channels anyhow, stays as it is.

Shapes: B samples, N boxes of the whole batch, M map cells, C channels, K classes, H rows (y), W columns (x). BEV boxes
are ``(x, y, length, width, yaw)`` in metres and radians.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptkd.core.bev import batch_boxes, cells_in_boxes, gaussian_mask, sample_points, tap_extent
from perceptkd.core.box_reach import BoxReach
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import canonical_bev, canonical_pair, check_equal_shapes
from perceptkd.core.heads import box_channels, pair_heads, tapped_module
from perceptkd.core.tap import Extent, Tap, Taps
from perceptkd.core.weight import build_weight
from perceptkd.distillers.unidistill import key_points, relation_loss
from perceptkd.registry import DISTILLERS


@torch.no_grad()
def box_weights(
    boxes: Tensor, sample_index: Tensor, *, shape: tuple[int, int, int], extent: Extent, enlarge: float
) -> Tensor:
    """Weight of every cell [B, H, W]: each box spreads 1 evenly over its cells; one off the map adds nothing.

    Args:
        boxes: BEV boxes [N, 5].
        sample_index: Which sample each box belongs to [N].
        shape: Of the map: (B, H, W).
        extent: Outer edges of the map ``(x0, y0, x1, y1)`` in metres.
        enlarge: See :func:`perceptkd.core.bev.cells_in_boxes`.
    """
    inside = cells_in_boxes(boxes, shape=shape[1:], extent=extent, enlarge=enlarge).to(boxes.dtype)
    share = inside / inside.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return boxes.new_zeros(shape).index_add_(0, sample_index, share)


def map_losses(
    student: Tensor, teacher: Tensor, weight: Tensor, *, num_boxes: Tensor | float, num_cells: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Absolute differences of two maps, averaged over channels: under boxes, and in the other cells.

    Args:
        student: [B, C, H, W].
        teacher: The same; detached.
        weight: [B, H, W], see :func:`box_weights`.
        num_boxes: Boxes per rank, averaged over ranks.
        num_cells: Map cells per rank, averaged over ranks.

    Returns:
        The mean over the cells of a box, averaged over boxes; the sum over all other cells, divided by all cells.
    """
    difference = (student - teacher.detach()).abs().mean(dim=1)
    return (weight * difference).sum() / num_boxes, difference[weight == 0].sum() / num_cells


def class_divergence(student: Tensor, teacher: Tensor, weight: Tensor, *, total_weight: Tensor | float) -> Tensor:
    """Weighted mean of the divergence KL(teacher || student) between yes-or-no predictions.

    Args:
        student: Logits, any shape.
        teacher: Logits of the same shape; detached.
        weight: Of the same shape.
        total_weight: What the sum is divided by.
    """
    target = teacher.detach().sigmoid()
    entropy = F.binary_cross_entropy(target, target, reduction="none")
    divergence = F.binary_cross_entropy_with_logits(student, target, reduction="none") - entropy
    return (weight * divergence).sum() / total_weight


@DISTILLERS.register_module()
class ForegroundDistill(Distiller):
    """Foreground distillation between BEV detectors (see the module). Not a published method.

    Terms: ``feature`` and ``background`` (low-level maps), ``relation`` (high-level maps), ``response_cls`` and
    ``response_reg`` (heads). A weight of 0 for ``background`` leaves it out, so that a teacher cache need not keep it.

    Args:
        enlarge: Factor on the sides of a box when its cells are chosen, see
            :func:`perceptkd.core.bev.cells_in_boxes`.
        overlap, min_radius: Of the Gaussians that weigh the responses, see
            :func:`perceptkd.core.bev.gaussian_mask`; wide enough that a pedestrian covers more than one cell.
        heatmap_key: Name of the class logits in the output of the heads.
        reg_keys: Dense regression outputs, of which those count that both heads have; an empty tuple leaves
            ``response_reg`` out.
        channel_labels: The data set's label of every class channel, tasks one after another. Left out, the student's
            ``bbox_head`` says it where it is a BEVCenterHead, and else channel k has label k, as in mmdet3d.
        **kwargs: Of the base class.
    """

    default_weights = {"feature": 10.0, "background": 10.0, "relation": 4.0, "response_cls": 1.0, "response_reg": 1.0}
    default_student_taps = {"low": "fuser", "high": "neck[0]", "response": "bbox_head"}
    default_teacher_taps = {"low": "fuser", "high": "neck[0]", "response": "bbox_head"}
    default_adapters = {"low": "auto", "high": None, "response": None}
    layout_aware = True
    maps_classes = True
    background_terms = frozenset({"background"})

    def __init__(
        self,
        *,
        enlarge: float = 1.2,
        overlap: float = 0.1,
        min_radius: int = 1,
        heatmap_key: str = "heatmap",
        reg_keys: Sequence[str] = ("reg", "height", "dim", "rot", "vel"),
        channel_labels: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if enlarge <= 0 or min_radius < 0 or not 0 < overlap < 1:
            raise InputError(
                "ForegroundDistill: enlarge is positive, min_radius at least 0 and overlap between 0 and 1; not "
                f"{enlarge}, {min_radius} and {overlap}"
            )
        if not reg_keys:
            del self.weights["response_reg"]
        if self.trains and build_weight(self.weights["background"]).always_zero:
            del self.weights["background"]
        self.enlarge = enlarge
        self.gaussian: dict[str, Any] = {"overlap": overlap, "min_radius": min_radius}
        self.heatmap_key = heatmap_key
        self.reg_keys = tuple(reg_keys)
        self.channel_labels = channel_labels

    @property
    def box_reach(self) -> BoxReach | None:
        """Boxes, read on the student's grid of cells up to twice as large; the Gaussians and a cell around them.

        None, so that a cache keeps whole maps, where there is ``background``.
        """
        if "background" in self.weights:
            return None
        gaussians = BoxReach.of_gaussians(overlap=self.gaussian["overlap"], min_radius=self.gaussian["min_radius"] + 1)
        return BoxReach(enlarge=max(1.0, self.enlarge), cells=2) | gaussians

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Returns the terms named in the class docstring."""
        low = canonical_pair(student["low"], teacher["low"], resample=True)
        check_equal_shapes(*low, method="ForegroundDistill", alias="low")
        boxes, sample_index = batch_boxes(step.data_samples, device=low[0].device)
        num_boxes = all_reduce_mean(boxes.new_tensor(float(len(boxes)))) + 1e-4
        batch_size, _, height, width = low[0].shape
        extent = tap_extent(student["low"])
        weight = box_weights(
            boxes, sample_index, shape=(batch_size, height, width), extent=extent, enlarge=self.enlarge
        )
        num_cells = all_reduce_mean(weight.new_tensor(float(weight.numel())))
        feature, background = map_losses(*low, weight, num_boxes=num_boxes, num_cells=num_cells)
        points = key_points(boxes)
        high = (
            sample_points(canonical_bev(tap), points, sample_index, extent=tap_extent(tap))
            for tap in (student["high"], teacher["high"])
        )
        return {
            "feature": feature,
            **({"background": background} if "background" in self.weights else {}),
            "relation": relation_loss(*high, num_boxes=num_boxes),
            **self._response(student["response"], teacher["response"], boxes, sample_index, step),
        }

    def _response(
        self, student: Tap, teacher: Tap, boxes: Tensor, sample_index: Tensor, step: Step
    ) -> dict[str, Tensor]:
        """Class and regression terms under the Gaussians of the boxes, weighted by how sure the teacher is there."""
        *heads, shared = pair_heads(
            student, teacher, step, distiller=self, heatmap_key=self.heatmap_key, reg_keys=self.reg_keys
        )
        own, other = (torch.cat(head[self.heatmap_key], dim=1) for head in heads)
        batch_size, classes, height, width = own.shape
        head = tapped_module(step.student_model, student)
        known: dict[str, Any] = {"channel_labels": self.channel_labels, "method": "ForegroundDistill"}
        channel = box_channels(step, head, classes, **known, device=own.device)
        mask = gaussian_mask(
            boxes[channel >= 0],
            (sample_index * classes + channel)[channel >= 0],
            shape=(batch_size * classes, height, width),
            extent=tap_extent(student),
            **self.gaussian,
        ).view_as(own)
        certainty = F.max_pool2d(other.detach().sigmoid(), kernel_size=3, stride=1, padding=1)
        weight = mask * certainty
        total = all_reduce_mean(mask.sum()) + 1e-4
        terms = {"response_cls": class_divergence(own, other, weight, total_weight=total)}
        if self.reg_keys:
            mine, theirs = (torch.cat([task for key in shared for task in head[key]], dim=1) for head in heads)
            difference = (mine - theirs.detach()).abs().mean(dim=1)
            terms["response_reg"] = (weight.amax(dim=1) * difference).sum() / total
        return terms
