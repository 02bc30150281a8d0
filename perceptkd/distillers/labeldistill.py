"""LabelDistill (ECCV 2024): annotated labels, brought into the teacher's feature space, teach beside its own features.

A label encoder turns annotated boxes into maps that the teacher's frozen neck and head decode back into these boxes: an
approximate inverse of the head, free of what a LiDAR cannot see. The student's channels are partitioned: one third
learns from the label maps, one from the teacher's, one is left to the images. Encoder and adapters are training-only.
BatchNorm of the teacher keeps its own statistics; the release calls ``eval()`` in ``__init__`` alone, so that the
training loop puts it, and that of the label encoder, back into train mode.

Shapes: B samples, N boxes of the whole batch, K classes, C channels, R regression channels, H rows (y), W columns (x).
BEV boxes are ``(x, y, length, width, yaw)`` in metres and radians, counter-clockwise.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from torch import Tensor, nn

from perceptkd.core.bev import batch_boxes, cell_offsets, in_box_frame, tap_extent
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import canonical_pair
from perceptkd.core.heads import pair_heads
from perceptkd.core.tap import Extent, Tap, Taps
from perceptkd.registry import DISTILLERS

LEVELS = ("fine", "coarse")
REGRESSION_KEYS = ("reg", "height", "dim", "rot", "vel")
BOX_VALUES = 9


@torch.no_grad()
def draw_labels(
    boxes: Tensor, labels: Tensor, sample_index: Tensor, *, shape: tuple[int, int, int], extent: Extent, fill: float
) -> Tensor:
    """Writes ``labels`` [N, D] into the cells that each box covers: [B, H, W, D], zeros elsewhere.

    A cell is covered if its centre is inside of the box, scaled by ``fill``; the one with the centre of the box always
    is. Where boxes overlap, the last one stays.

    Args:
        boxes, labels, sample_index: BEV boxes [N, 5], what to write [N, D], and which sample they belong to [N].
        shape: (B, H, W).
        extent: Outer edges of the map ``(x0, y0, x1, y1)`` in metres.
        fill: Length and width of what is covered, relative to those of the box.
    """
    batch_size, height, width = shape
    offset, cell_m = cell_offsets(boxes, shape=(height, width), extent=extent)
    covered = (in_box_frame(offset, boxes).abs() <= boxes[:, None, None, 2:4] * fill / 2).all(dim=-1)
    covered |= ((offset > -cell_m / 2) & (offset <= cell_m / 2)).all(dim=-1)
    covered = covered.flatten(1)
    box = torch.where(covered, torch.arange(len(boxes), device=boxes.device)[:, None], -1)
    last = box.new_full((batch_size, height * width), -1)
    last = last.scatter_reduce_(0, sample_index[:, None].expand_as(box), box, reduce="amax")
    return F.pad(labels, (0, 0, 0, 1))[last].view(*shape, -1)  # -1 is the row of zeros behind the last box


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm beside a shortcut, [B, C, H, W] to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.layers = nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), second, nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        return (features + self.layers(features)).relu()


def _convolution(in_channels: int, out_channels: int, *after: nn.Module, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, padding_mode="replicate")
    return nn.Sequential(convolution, *after)


class LabelEncoder(nn.Module):
    """Labels to maps like those of the teacher's backbone: ``out_channels`` per level, each of half the size before."""

    def __init__(self, num_classes: int, out_channels: Sequence[int], hidden_channels: int) -> None:
        super().__init__()
        self.box, self.label, self.mix = (
            nn.Sequential(nn.Linear(size, hidden_channels), nn.ReLU(), nn.Linear(hidden_channels, hidden_channels))
            for size in (BOX_VALUES, num_classes, hidden_channels)
        )
        self.norm = nn.LayerNorm(hidden_channels)
        self.block = ResidualBlock(hidden_channels)
        self.levels = nn.ModuleList(
            _convolution(hidden_channels, channels, nn.GroupNorm(1, channels), nn.ReLU(), stride=2**level)
            for level, channels in enumerate(out_channels)
        )

    def forward(self, drawn: Tensor) -> list[Tensor]:
        """Values and one-hot classes of boxes [B, H, W, 9 + K] to maps [B, C, H, W], [B, C', H / 2, W / 2]."""
        cells = self.norm(self.mix(self.box(drawn[..., :BOX_VALUES]) + self.label(drawn[..., BOX_VALUES:])))
        features = self.block(cells.permute(0, 3, 1, 2))
        return [level(features) for level in self.levels]


def feature_loss(
    student: Tensor, teacher: Tensor, weight: Tensor, *, total_weight: Tensor, eps: float = 1e-6
) -> Tensor:
    """``sum_i w_i |s_i - t_i|^2 / sum_i w_i`` over cells i, the squared distance added up over channels.

    Args:
        student: Adapted third of the student's map [B, C, H, W].
        teacher: Map of the teacher or of the label encoder [B, C, H, W]; detached.
        weight: What each cell counts, w [B, H, W].
        total_weight: Sum of ``weight``, averaged over ranks.
        eps: Smallest ``total_weight``.
    """
    distance = (student - teacher.detach()).square().sum(dim=1)
    return (distance * weight).sum() / total_weight.clamp(min=eps)


def soft_focal_loss(student: Tensor, teacher: Tensor, gaussian: Tensor, *, num_peaks: Tensor) -> Tensor:
    """``-sum p^2 (1 - q g)^4 log(1 - p) / num_peaks``: Gaussian focal loss with soft targets ``q g``.

    Its positive part is for targets of exactly 1, which a soft one never is: the term only lowers scores, the less the
    surer the teacher is of an annotated object.

    Args:
        student: Class logits of the student [B, K, H, W]; p after the sigmoid.
        teacher: The teacher's [B, K, H, W]; q after the sigmoid; detached.
        gaussian: Annotated heatmap g [B, K, H, W].
        num_peaks: Annotated peaks per rank, averaged over ranks; positive.
    """
    p, q = (side.sigmoid().clamp(1e-4, 1 - 1e-4) for side in (student, teacher.detach()))
    return -(p.square() * (1 - q * gaussian) ** 4 * (1 - p).log()).sum() / num_peaks


def box_loss(student: Tensor, teacher: Tensor, *, num_boxes: Tensor, eps: float = 1e-6) -> Tensor:
    """Absolute difference of regression outputs [N, R] at annotated centres: sum over R, mean over N of all ranks."""
    return (student - teacher.detach()).abs().sum() / num_boxes.clamp(min=eps)


@DISTILLERS.register_module()
class LabelDistill(Distiller):
    """Label-guided distillation with partitioned features (Kim et al., arXiv 2407.10164).

    Terms: ``label`` and ``lidar`` (first and second third of the student's channels, both levels added up),
    ``response_cls``, ``response_reg``, and ``encoder``: the teacher's detection loss on the label maps, which reaches
    the encoder alone. ``encoder`` and ``response_cls`` are there without annotated boxes too.

    Follows the release (encoder, adapters, masks, formulas, weights), except that

    * the encoder is trained together with the student; the release trains it beforehand, for 12 epochs. A warm-up of
      the weight of ``label`` gives it time;
    * both levels are those of the student's BEV backbone; the release has its input and its first stage;
    * a cell is filled if its centre is inside (the release rounds corners down), and masks of the coarse level are
      means of cells, without the release's shift of up to half a cell;
    * the encoder's last norms have one weight per channel, not per channel and cell, so that maps may have any size;
    * averages go over all ranks. Batch norm in encoder and adapters reads each rank's own statistics unless ``sync_bn``
      is set, so that ranks then train nearly, not exactly, as one process on the joint batch.

    Squared distances add up over channels: the weights belong to a teacher with 128 and 256, and do not carry over.

    Args:
        student_channels, teacher_channels: Of the taps ``fine`` and ``coarse``.
        num_classes, hidden_channels: Of the label encoder.
        fill: See :func:`draw_labels`.
        eps: Smallest count to divide by.
        **kwargs: Of the base class. The teacher is a :class:`perceptkd.BEVDetector`, not a cached one.
    """

    default_weights = {"encoder": 1.0, "label": 0.3, "lidar": 0.3, "response_cls": 1.0, "response_reg": 0.25}
    default_student_taps = {"fine": "backbone[0]", "coarse": "backbone[1]", "response": "bbox_head"}
    default_teacher_taps = default_student_taps
    default_adapters = {"fine": None, "coarse": None, "response": None}
    layout_aware = True
    background_terms = frozenset({"encoder", "response_cls"})

    def __init__(
        self,
        *,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        num_classes: int = 10,
        hidden_channels: int = 256,
        fill: float = 0.5,
        eps: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        if len(student_channels) != 2 or len(teacher_channels) != 2 or min(student_channels) < 3 or eps < 1e-6:
            wanted = "both sides have two levels, the student's of at least 3 channels, eps at least 1e-6"
            raise InputError(f"LabelDistill: {wanted}; not {student_channels}, {teacher_channels} and {eps}")
        super().__init__(**kwargs)
        self.num_classes, self.fill, self.eps = num_classes, fill, eps
        self.student_channels = dict(zip(LEVELS, student_channels))
        self.encoder = LabelEncoder(num_classes, teacher_channels, hidden_channels)
        self.thirds = nn.ModuleDict()
        for (level, mine), theirs in zip(self.student_channels.items(), teacher_channels):
            for term in ("label", "lidar"):
                after = nn.BatchNorm2d(theirs), nn.ReLU(), ResidualBlock(theirs)
                self.thirds[f"{term}_{level}"] = _convolution(mine // 3, theirs, *after)

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        model = step.teacher_models.get(self.teachers[0])
        if not hasattr(model, "neck") or not hasattr(getattr(model, "bbox_head", None), "get_targets"):
            raise InputError("LabelDistill: the teacher must be a perceptkd.BEVDetector that runs, not a cached one")
        targets = model.bbox_head.get_targets([sample.gt_instances_3d for sample in step.data_samples])
        if not hasattr(targets[0], "num_peaks"):
            raise InputError("LabelDistill: the teacher's head must have CenterPoint's targets, as BEVCenterHead has")
        label_maps = self.encoder(self._draw(teacher["fine"], step))
        heatmap = torch.cat([target.heatmap for target in targets], dim=1).sum(dim=1, keepdim=True)
        terms = {"label": 0.0, "lidar": 0.0}
        for level, label_map in zip(LEVELS, label_maps):
            student_map, teacher_map = canonical_pair(student[level], teacher[level])
            mine, theirs, labels = (tuple(side.shape[1:]) for side in (student_map, teacher_map, label_map))
            if theirs != labels or mine != (self.student_channels[level], *labels[1:]):
                sizes = f"{mine} in the student, {theirs} in the teacher, {labels} of the labels"
                raise InputError(f"LabelDistill: '{level}' is {sizes}; look at student_channels and teacher_channels")
            mask = F.interpolate(heatmap, size=teacher_map.shape[2:], mode="bilinear")[:, 0]
            thirds = student_map.split(student_map.shape[1] // 3, dim=1)
            sides = {"label": (thirds[0], label_map, (mask > 0).float()), "lidar": (thirds[1], teacher_map, mask)}
            for term, (third, target, weight) in sides.items():
                total_weight = all_reduce_mean(weight.sum())
                adapted = self.thirds[f"{term}_{level}"](third)
                terms[term] += feature_loss(adapted, target, weight, total_weight=total_weight, eps=self.eps)
        encoder = sum(model.bbox_head.loss(model.neck(label_maps), step.data_samples).values())
        return {"encoder": encoder, **terms, **self._response(student["response"], teacher["response"], targets, step)}

    def _draw(self, tap: Tap, step: Step) -> Tensor:
        """All nine values and the class of annotated boxes on the grid of a tap of the teacher [B, H, W, 9 + K]."""
        boxes, sample_index = batch_boxes(step.data_samples, device=tap.value.device)
        truth = [sample.gt_instances_3d for sample in step.data_samples]
        values = [torch.cat((each.bboxes_3d.gravity_center, each.bboxes_3d.tensor[:, 3:]), dim=1) for each in truth]
        values, classes = torch.cat(values).to(boxes), torch.cat([each.labels_3d for each in truth]).to(boxes.device)
        known = classes >= 0
        if values.shape[1] != BOX_VALUES:
            raise InputError(
                f"LabelDistill: annotated boxes have {values.shape[1]} values; it needs {BOX_VALUES}, with velocities"
            )
        if (classes >= self.num_classes).any():
            raise InputError(
                f"LabelDistill: num_classes={self.num_classes}, but a box has the label {int(classes.max())}: give the "
                "number of classes of the data set"
            )
        labels = torch.cat((values[known], F.one_hot(classes[known], self.num_classes)), dim=1)
        shape = (len(truth), *tap.value.shape[2:])
        grid: dict[str, Any] = {"shape": shape, "extent": tap_extent(tap), "fill": self.fill}
        return draw_labels(boxes[known], labels, sample_index[known], **grid)

    def _response(self, student: Tap, teacher: Tap, targets: Sequence[Any], step: Step) -> dict[str, Tensor]:
        """The class term over the map, the regression term at the annotated centres."""
        *heads, regression = pair_heads(
            student, teacher, step, distiller=self, heatmap_key="heatmap", reg_keys=REGRESSION_KEYS
        )
        terms = {"response_cls": 0.0, "response_reg": 0.0}
        for task, target in enumerate(targets):
            maps = [head["heatmap"][task] for head in heads]
            num_peaks = target.num_peaks.clamp(min=1 / get_world_size())
            terms["response_cls"] += soft_focal_loss(*maps, target.heatmap, num_peaks=num_peaks)
            dense = [torch.cat([head[name][task] for name in regression], dim=1) for head in heads]
            at_centres = [side[target.sample, :, target.row, target.column] for side in dense]
            terms["response_reg"] += box_loss(*at_centres, num_boxes=target.num_boxes, eps=self.eps)
        return terms
