"""SparseKD (NeurIPS 2022): a detector teaches a smaller one its outputs at pivotal positions, where objects are.

Most of a bird's-eye view is empty, and imitating a teacher there drowns what it knows. So the outputs of the two heads
are compared at few positions, weighted by how much an object is there: for centre heads under the Gaussians of
annotated boxes, where the teacher is sure, or at its highest scores; for anchor heads at the positive anchors. Nothing
is added to the student at inference.

Shapes: B samples, N boxes, K classes, R regression channels, H rows (y), W columns (x), A anchors of a sample.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmengine.structures import InstanceData
from torch import Tensor

from perceptkd.core.bev import batch_boxes, centre_cells, gaussian_mask, tap_extent
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import GeometryError, same_extent
from perceptkd.core.heads import box_channels, is_anchor_output, pair_heads, tapped_module
from perceptkd.core.tap import Tap, Taps
from perceptkd.registry import DISTILLERS

POSITIONS = ("foreground", "confidence", "rank")
YAW = 6  # in the code of an anchor's box
BETA = 1 / 9


def class_probability(logits: Tensor, *, clamp: float = 1e-4) -> Tensor:
    """Sigmoid of logits, kept ``clamp`` away from 0 and 1."""
    return logits.sigmoid().clamp(clamp, 1 - clamp)


@torch.no_grad()
def pivotal_weights(
    teacher: Tensor, gaussian: Tensor, *, positions: Sequence[str], threshold: float = 0.0, rank: int = 500
) -> Tensor:
    """How much each cell counts, a product over the criteria (Sec. 4.1).

    Args:
        teacher: Class probabilities of the teacher [B, K, H, W].
        gaussian: Of the annotated boxes [B, H, W].
        positions: 'foreground' is that Gaussian, 'confidence' the teacher's largest probability where it is above
            ``threshold``, 'rank' 1 at its ``rank`` largest probabilities of a sample, whatever the class.
        threshold: See 'confidence'.
        rank: See 'rank'.

    Returns:
        [B, H, W].
    """
    confidence = teacher.amax(dim=1)
    weight = torch.ones_like(confidence)
    if "foreground" in positions:
        weight = weight * gaussian
    if "confidence" in positions:
        weight = weight * torch.where(confidence > threshold, confidence, 0)
    if "rank" in positions:
        scores = teacher.flatten(1)
        cells = scores.topk(min(rank, scores.shape[1]), dim=1).indices % weight[0].numel()
        weight = weight * torch.zeros_like(weight).flatten(1).scatter(1, cells, 1.0).view_as(weight)
    return weight


def pivotal_class_loss(
    student: Tensor, teacher: Tensor, weight: Tensor, *, total_weight: Tensor, eps: float = 1e-6
) -> Tensor:
    """Weighted mean over cells of the squared difference of class probabilities, added up over classes.

    Args:
        student: [B, K, H, W].
        teacher: [B, K, H, W]; detached.
        weight: [B, H, W].
        total_weight: Sum of ``weight``, averaged over ranks.
        eps: Added to ``total_weight``.
    """
    return (weight[:, None] * (student - teacher.detach()).square()).sum() / (total_weight + eps)


def anchor_box_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 of box codes [N, R], added up over codes [N]; of yaw the sine of the difference, as in SECOND."""
    teacher = teacher.detach()
    difference = student - teacher
    turned = (student[:, YAW] - teacher[:, YAW]).sin()
    difference = torch.cat((difference[:, :YAW], turned[:, None], difference[:, YAW + 1 :]), dim=1)
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), beta=BETA, reduction="none").sum(dim=1)


@DISTILLERS.register_module()
class SparseKD(Distiller):
    """Logit distillation at pivotal positions (PP logit KD; Yang et al., NeurIPS 2022, arXiv 2205.15156).

    Terms: ``cls`` and ``reg``. The default weights are the release's for its two smallest students of CenterPoint on
    voxels; it has 10 / 0.2 for the third, and 7 / 0 for pillars of another size than the teacher's.

    Centre heads follow the release: squared differences of class probabilities, weighted by the annotated heatmap on
    the teacher's grid times the teacher's confidence, and L1 at the cells of box centres, both means over tasks, except
    that

    * regression on different grids is an error, for ``reg_keys=()`` to leave it out; the release silently does;
    * averages go over all ranks, and the top-ranked cells are those of each task (the release adds up over tasks).

    Its two other parts, labels from the teacher's boxes and a student that starts from the teacher's weights, are no
    losses, and not in here. Where grids differ, the student's probabilities are resized bilinearly to the teacher's
    grid (the release's configs ask for aligned corners, and its code does not pass that on). The release keeps the
    teacher in train mode: the teacher's ``norm='train'``.

    Anchor heads have no released config. They follow what the author says of them
    (https://github.com/CVMI-Lab/SparseKD/issues/11): squared differences of class probabilities, and smooth L1 of box
    codes, at the anchors that are positive for the student. The mean over samples and the sine of yaw differences are
    those of the released anchor code.

    Args:
        positions, threshold, rank: See :func:`pivotal_weights`; of centre heads.
        overlap, min_radius: See :func:`perceptkd.core.bev.gaussian_mask`; of centre heads.
        heatmap_key: Name of the class logits of centre heads.
        reg_keys: Dense regression outputs of centre heads, of which those count that both have; an empty tuple leaves
            ``reg`` out, for anchor heads too.
        channel_labels: The data set's label of every class channel, see :func:`perceptkd.core.heads.box_channels`.
        **kwargs: Of the base class.
    """

    default_weights = {"cls": 15.0, "reg": 0.2}
    default_student_taps = {"response": "bbox_head"}
    default_teacher_taps = {"response": "bbox_head"}
    default_adapters = {"response": None}
    layout_aware = True
    maps_classes = True

    def __init__(
        self,
        *,
        positions: Sequence[str] = ("foreground", "confidence"),
        threshold: float = 0.0,
        rank: int = 500,
        overlap: float = 0.1,
        min_radius: int = 2,
        heatmap_key: str = "heatmap",
        reg_keys: Sequence[str] = ("reg", "height", "dim", "rot", "vel"),
        channel_labels: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(positions, str) or not positions or set(positions) - set(POSITIONS):
            raise InputError(f"SparseKD: positions is a tuple of some of {POSITIONS}, not {positions!r}")
        if rank < 1 or min_radius < 0 or not 0 < overlap < 1 or not 0 <= threshold < 1:
            raise InputError(
                "SparseKD: rank is positive, min_radius not negative, overlap between 0 and 1, threshold from 0 to 1; "
                f"not {rank}, {min_radius}, {overlap} and {threshold}"
            )
        if not reg_keys:
            del self.weights["reg"]
        self.pivotal: dict[str, Any] = {"positions": tuple(positions), "threshold": threshold, "rank": rank}
        self.gaussian: dict[str, Any] = {"overlap": overlap, "min_radius": min_radius}
        self.heatmap_key, self.reg_keys = heatmap_key, tuple(reg_keys)
        self.channel_labels = channel_labels

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Returns the terms named in the class docstring."""
        heads = student["response"], teacher["response"]
        anchors = [is_anchor_output(head.value) for head in heads]
        if anchors[0] != anchors[1]:
            raise InputError("SparseKD: one head has anchors, the other has not; distil between heads of one kind")
        return self._anchors(*heads, step) if anchors[0] else self._centres(*heads, step)

    def _centres(self, student: Tap, teacher: Tap, step: Step) -> dict[str, Tensor]:
        """Terms of centre heads, as means over tasks."""
        keys: dict[str, Any] = {"heatmap_key": self.heatmap_key, "reg_keys": self.reg_keys, "same_grid": False}
        *heads, shared = pair_heads(student, teacher, step, distiller=self, **keys)
        boxes, sample_index = batch_boxes(step.data_samples, device=heads[0][self.heatmap_key][0].device)
        sizes = [task.shape[1] for task in heads[1][self.heatmap_key]]
        known: dict[str, Any] = {"channel_labels": self.channel_labels, "method": "SparseKD", "device": boxes.device}
        channel = box_channels(step, tapped_module(step.student_model, student), sum(sizes), **known)
        terms: dict[str, list[Tensor]] = {"cls": [], "reg": []}
        for task, first in enumerate(torch.tensor([0, *sizes]).cumsum(0)[:-1].tolist()):
            mine = (channel >= first) & (channel < first + sizes[task])
            maps = [class_probability(head[self.heatmap_key][task]) for head in heads]
            objects, extent = (boxes[mine], sample_index[mine]), tap_extent(teacher)
            terms["cls"].append(self._class_term(*maps, *objects, extent))
            if self.reg_keys:
                dense = [torch.cat([head[key][task] for key in shared], dim=1) for head in heads]
                terms["reg"].append(_box_term(*dense, *objects, extent))
        return {term: torch.stack(values).mean() for term, values in terms.items() if values}

    def _class_term(self, student: Tensor, teacher: Tensor, boxes: Tensor, sample_index: Tensor, extent: Any) -> Tensor:
        batch_size, _, height, width = teacher.shape
        if student.shape != teacher.shape:
            student = F.interpolate(student, size=(height, width), mode="bilinear")
        shape = (batch_size, height, width)
        gaussian = gaussian_mask(boxes, sample_index, shape=shape, extent=extent, **self.gaussian)
        weight = pivotal_weights(teacher, gaussian, **self.pivotal)
        return pivotal_class_loss(student, teacher, weight, total_weight=all_reduce_mean(weight.sum()))

    def _anchors(self, student: Tap, teacher: Tap, step: Step) -> dict[str, Tensor]:
        """Terms of anchor heads, at the anchors that the student's target assignment makes positive."""
        shapes = [[[tuple(level.shape) for level in part] for part in head.value[:2]] for head in (student, teacher)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"SparseKD: class scores and boxes of the anchors are {shapes[0]} in the student, {shapes[1]} in the "
                "teacher; both need the same anchors on the same grid"
            )
        self._check_anchors(student, teacher, step)
        head = tapped_module(step.student_model, student)
        if not hasattr(head, "anchor_target_3d") or not head.use_sigmoid_cls:
            raise InputError(f"SparseKD: '{student.spec}' of the student must be mmdet3d's Anchor3DHead with sigmoids")
        positive = positive_anchors(head, [level.shape[2:] for level in student.value[0]], step)
        scores, codes = (
            [_by_anchor(tap.value[part], channels)[positive] for tap in (student, teacher)]
            for part, channels in enumerate((head.num_classes, head.box_code_size))
        )
        count = all_reduce_mean(positive.sum().float()).clamp(min=1 / get_world_size())
        first, second = (class_probability(side) for side in scores)
        terms = {"cls": (first - second.detach()).square().sum() / count}
        if self.reg_keys:
            per_sample = positive.sum(dim=1)
            share = 1 / per_sample.clamp(min=1)[:, None].expand_as(positive)[positive]
            samples = all_reduce_mean(share.new_tensor(float(len(positive))))
            terms["reg"] = (anchor_box_loss(*codes) * share).sum() / samples
        return terms

    def _check_anchors(self, student: Tap, teacher: Tap, step: Step) -> None:
        """Outputs of equal shapes must be those of the same anchors, in the same order."""
        if self.class_map is not None:
            raise InputError("SparseKD: other classes have other anchors: between anchor heads leave class_map out")
        places = [(tap.spec.layout, tap.spec.extent) for tap in (student, teacher)]
        if places[0][0] != places[1][0] or not same_extent(places[0][1], places[1][1]):
            raise GeometryError(f"SparseKD: anchors lie as {places[0]} in the student and {places[1]} in the teacher")
        teacher_model = step.teacher_models.get(self.teachers[0])
        models = [step.student_model, teacher_model] if teacher_model is not None else []  # a cached one has none
        tapped = [tapped_module(*each) for each in zip(models, (student, teacher))]
        kinds = [repr(getattr(head, "prior_generator", None)) for head in tapped]
        if len(set(kinds)) > 1:
            raise InputError(f"SparseKD: the anchors differ: {kinds[0]} (student), {kinds[1]} (teacher)")


@torch.no_grad()
def positive_anchors(head: Any, sizes: Sequence[Sequence[int]], step: Step) -> Tensor:
    """Which anchors of mmdet3d's ``Anchor3DHead`` are assigned to an annotated box: bool [B, A], level by level.

    Args:
        head: With assigners, as in training.
        sizes: (H, W) of its levels.
        step: The annotated boxes; what the head writes into is a copy.
    """
    truth = [sample.gt_instances_3d for sample in step.data_samples]
    copies = [InstanceData(bboxes_3d=each.bboxes_3d.clone(), labels_3d=each.labels_3d.clone()) for each in truth]
    metas = [sample.metainfo for sample in step.data_samples]
    anchors = head.get_anchors([tuple(size) for size in sizes], metas, device=next(head.parameters()).device)
    channels = {"num_classes": head.num_classes, "label_channels": head.cls_out_channels}
    labels = head.anchor_target_3d(anchors, copies, metas, sampling=head.sampling, **channels)[0]
    found = torch.cat([level.flatten(1) for level in labels], dim=1)
    return (found >= 0) & (found < head.num_classes)


def _box_term(student: Tensor, teacher: Tensor, boxes: Tensor, sample_index: Tensor, extent: Any) -> Tensor:
    """L1 between regression outputs [B, R, H, W] at the cells of box centres: sum over R, mean over boxes."""
    row, column, inside = centre_cells(boxes, shape=teacher.shape[2:], extent=extent)
    cells = sample_index[inside], row[inside], column[inside]
    first, second = (side.permute(0, 2, 3, 1)[cells] for side in (student, teacher.detach()))
    count = all_reduce_mean(inside.sum().float()).clamp(min=1 / get_world_size())
    return (first - second).abs().sum() / count


def _by_anchor(levels: Sequence[Tensor], channels: int) -> Tensor:
    """Outputs [B, A' * C, H, W] of all levels as [B, A, C], in the order of the anchors."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, channels)) for level in levels], dim=1)
