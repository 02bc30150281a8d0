"""DistillBEV (ICCV 2023): a camera detector imitates the BEV maps of a LiDAR detector, region by region.

The cells of a map are objects, false positives of the teacher, or background (:func:`region_weights`); each region gets
a scale of its own (:func:`box_scale`), and within a region the cells count that are prominent in either map
(:func:`spatial_attention`). This is done at several depths of the BEV encoder. Nothing is added to the student at
inference.

Shapes: B samples, N boxes of the whole batch, C channels, K classes, H rows (y), W columns (x). BEV boxes are ``(x, y,
length, width, yaw)`` in metres and radians, counter-clockwise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptkd.core.bev import batch_boxes, cell_offsets, gaussian_mask, in_box_frame, tap_extent
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import GeometryError, canonical_pair, check_equal_shapes, same_extent
from perceptkd.core.heads import head_maps
from perceptkd.core.tap import Extent, Tap, Taps
from perceptkd.registry import DISTILLERS


@torch.no_grad()
def box_scale(boxes: Tensor, sample_index: Tensor, *, shape: tuple[int, int, int], extent: Extent) -> Tensor:
    """Adaptive scaling of the foreground: ``1 / sqrt(length * width)`` of the box a cell lies in, in cells.

    So a box counts with the root of its area, and large objects do not drown small ones. Where boxes overlap, the
    smaller one decides.

    Args:
        boxes: BEV boxes [N, 5].
        sample_index: Which sample each box belongs to [N].
        shape: Of the map: (B, H, W).
        extent: Outer edges of the map ``(x0, y0, x1, y1)`` in metres.

    Returns:
        [B, H, W]; 0 in the cells whose centre is in no box.
    """
    batch_size, height, width = shape
    offset, cell_m = cell_offsets(boxes, shape=(height, width), extent=extent)
    inside = (in_box_frame(offset, boxes).abs() < boxes[:, None, None, 2:4] / 2).all(dim=-1)
    scale = (cell_m.prod() / boxes[:, 2:4].prod(dim=1)).sqrt().view(-1, 1, 1).where(inside, 0).flatten(1)
    cells = boxes.new_zeros(batch_size, height * width)
    return cells.scatter_reduce_(0, sample_index[:, None].expand_as(scale), scale, reduce="amax").view(shape)


@torch.no_grad()
def false_positive_mask(teacher: Tensor, target: Tensor, *, threshold: float = 0.1) -> Tensor:
    """Where the teacher sees an object of any class although none is annotated.

    Args:
        teacher: Class logits of the teacher's heatmap [B, K, H, W].
        target: Largest value over classes of the annotated heatmap [B, H, W].
        threshold: gamma: between low and high values, of both.
    """
    return (teacher.amax(dim=1).sigmoid() > threshold) & (target < threshold)


@torch.no_grad()
def region_weights(scale: Tensor, false_positive: Tensor) -> dict[str, Tensor]:
    """Region decomposition and adaptive scaling: what each cell counts in the term of its region.

    ``1 / sqrt(length * width)`` in boxes (true positives and false negatives), ``1 / N_FP`` in false positives outside
    of boxes, ``1 / N_TN`` in the background, which is the rest. N_FP and N_TN are the cells of that region in a sample.

    Args:
        scale: Of :func:`box_scale` [B, H, W].
        false_positive: Cells of :func:`false_positive_mask` [B, H, W].

    Returns:
        Region -> [B, H, W], zero outside of the region.
    """
    foreground = scale > 0
    false_positive = false_positive & ~foreground

    def share(region: Tensor) -> Tensor:
        return region / region.sum(dim=(1, 2), keepdim=True).clamp(min=1)

    background = share(~(foreground | false_positive))
    return {"foreground": scale, "false_positive": share(false_positive), "background": background}


@torch.no_grad()
def spatial_attention(student: Tensor, teacher: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Mean of ``H W softmax(mean_c |F| / tau)`` of both maps, the softmax over the cells of a sample.

    Args:
        student: Adapted map of the student [B, C, H, W].
        teacher: Map of the teacher [B, C, H, W].
        temperature: tau.

    Returns:
        [B, H, W], 1 on average over a sample.
    """
    pooled = torch.stack((student, teacher)).abs().mean(dim=2)
    height, width = pooled.shape[2:]
    return height * width * (pooled.flatten(2) / temperature).softmax(dim=2).mean(dim=0).view(-1, height, width)


def imitation_loss(
    student: Tensor, teacher: Tensor, weights: Mapping[str, Tensor], *, batch_size: Tensor | float
) -> dict[str, Tensor]:
    """Weighted squared differences, added up over channels and cells, averaged over samples.

    Args:
        student: Adapted map of the student [B, C, H, W].
        teacher: Map of the teacher [B, C, H, W]; detached.
        weights: Region -> what each cell counts [B, H, W].
        batch_size: Samples per rank, averaged over ranks.

    Returns:
        Region -> scalar.
    """
    distance = (student - teacher.detach()).square().sum(dim=1)
    return {region: (distance * weight).sum() / batch_size for region, weight in weights.items()}


def attention_loss(student: Tensor, teacher: Tensor, *, batch_size: Tensor | float) -> Tensor:
    """Absolute difference of the channel means, added up over cells, averaged over samples.

    Args:
        student: Mean over the channels of the student's map, behind its convolution [B, 1, H, W].
        teacher: Mean over the channels of the teacher's map [B, 1, H, W]; detached.
        batch_size: Samples per rank, averaged over ranks.
    """
    return (student - teacher.detach()).abs().sum() / batch_size


@DISTILLERS.register_module()
class DistillBEV(Distiller):
    """Imitation of BEV maps by regions, with adaptive scaling and spatial attention: follows the release.

    Terms, each added up over the levels: ``foreground``, ``false_positive``, ``background`` and ``attention`` (L1 of
    channel means behind a 3 x 3 convolution of the student's). All but the first are there without annotated boxes too.
    Weights and options are those of the release's script for CenterPoint to BEVDepth with ResNet-50, which turns on
    what its config file leaves off. The supplement (quoted in issue 7 of the release) has the same tau and gamma, and
    eta = 20, the weight of false positives over that of the foreground, where the script has 10. Sums over channels and
    cells tie these weights to that detector (128, 256 and 384 channels, 128 x 128 cells for the neck).

    Where we differ from the release:

    - A cell belongs to a box if its centre does; the release tests the low corner for BEVDepth, the centre for
      BEVFormer. Where boxes overlap the release takes the first one.
    - An adapter is one convolution, given in the config where channels agree; the release has three with batch norm and
      ReLU on the inner levels.
    - The levels are both of our encoders' and the neck; the paper's best are the last two of three and the neck.
    - The tails of boxes with their centre outside of the map count as annotated.

    The release also starts the student with the teacher's task heads: that is ``inherit=["bbox_head.task_heads"]``,
    where they are equal. Left out: temporal fusion, which is the detector's; channel attention, which the script turns
    off but the code still applies to false positives.

    Args:
        levels: Which paired taps to compare.
        false_positive_levels: In which of them false positives are a region; elsewhere they are background. An empty
            tuple leaves ``false_positive`` out, and the teacher's head is not run.
        heatmap_key: Name of the class logits in the output of the teacher's head.
        threshold: gamma, see :func:`false_positive_mask`.
        temperature: tau, see :func:`spatial_attention`.
        overlap, min_radius: Of the annotated heatmap, see :func:`perceptkd.core.bev.gaussian_mask`.
        **kwargs: Of the base class.
    """

    default_weights = {"foreground": 6e-3, "false_positive": 6e-2, "background": 4e-2, "attention": 2.5e-3}
    default_student_taps = {"shallow": "backbone[0]", "deep": "backbone[1]", "neck": "neck[0]"}
    default_teacher_taps = {**default_student_taps, "response": "bbox_head"}
    layout_aware = True
    background_terms = frozenset({"false_positive", "background", "attention"})

    def __init__(
        self,
        *,
        levels: Sequence[str] = ("shallow", "deep", "neck"),
        false_positive_levels: Sequence[str] = ("neck",),
        heatmap_key: str = "heatmap",
        threshold: float = 0.1,
        temperature: float = 0.5,
        overlap: float = 0.1,
        min_radius: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not levels or not set(false_positive_levels) <= set(levels) <= set(self.paired_aliases):
            raise InputError(
                f"DistillBEV: levels are some of {self.paired_aliases} and false_positive_levels some of the levels; "
                f"not {tuple(levels)} and {tuple(false_positive_levels)}"
            )
        if not 0 < threshold < 1 or not 0 < overlap < 1 or temperature <= 0:
            options = f"not {threshold}, {overlap} and {temperature}"
            raise InputError(f"DistillBEV: threshold and overlap lie in (0, 1), temperature is positive; {options}")
        unused = set(self.paired_aliases) - set(levels)
        if not false_positive_levels:
            unused.add("response")
            del self.weights["false_positive"]
        for taps in (self.student_taps, self.adapter_configs, *self.teacher_taps.values()):
            for alias in unused & set(taps):
                del taps[alias]
        self.false_positive_levels = frozenset(false_positive_levels)
        self.heatmap_key = heatmap_key
        self.threshold = threshold
        self.temperature = temperature
        self.gaussian: dict[str, Any] = {"overlap": overlap, "min_radius": min_radius}
        self.attention_convs = nn.ModuleDict({alias: nn.Conv2d(1, 1, 3, padding=1) for alias in levels})

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Returns the terms named in the class docstring."""
        boxes, sample_index = batch_boxes(step.data_samples, device=next(self.attention_convs.parameters()).device)
        batch_size = all_reduce_mean(boxes.new_tensor(float(len(step.data_samples))))
        terms = dict.fromkeys(self.weights, boxes.new_zeros(()))
        for alias, conv in self.attention_convs.items():
            pair = canonical_pair(student[alias], teacher[alias])
            check_equal_shapes(*pair, method="DistillBEV", alias=alias)
            extent = tap_extent(student[alias])
            scale = box_scale(boxes, sample_index, shape=(len(pair[0]), *pair[0].shape[2:]), extent=extent)
            false_positive = torch.zeros_like(scale, dtype=torch.bool)
            if alias in self.false_positive_levels:
                mask = self._false_positive(teacher["response"], boxes, sample_index, extent=extent)
                # The heatmap may have another size than the level: a cell is one if any of its heatmap cells is.
                false_positive = F.adaptive_max_pool2d(mask[:, None].float(), scale.shape[1:])[:, 0] > 0
            attention = spatial_attention(*pair, temperature=self.temperature)
            weights = {name: value * attention for name, value in region_weights(scale, false_positive).items()}
            losses = imitation_loss(*pair, weights, batch_size=batch_size)
            means = conv(pair[0].mean(dim=1, keepdim=True)), pair[1].mean(dim=1, keepdim=True)
            losses["attention"] = attention_loss(*means, batch_size=batch_size)
            terms = {term: total + losses[term] for term, total in terms.items()}
        return terms

    def _false_positive(self, response: Tap, boxes: Tensor, sample_index: Tensor, *, extent: Extent) -> Tensor:
        """False positives of the teacher on the grid of its heatmap [B, H, W]."""
        maps = head_maps(response)
        if self.heatmap_key not in maps:
            raise InputError(f"DistillBEV: the teacher's head has {sorted(maps)}, but no '{self.heatmap_key}'")
        if not same_extent(tap_extent(response), extent):
            raise GeometryError(f"DistillBEV: the teacher's head covers {response.extent} m, its maps {extent} m")
        logits = torch.cat(maps[self.heatmap_key], dim=1)
        shape = (len(logits), *logits.shape[2:])
        target = gaussian_mask(boxes, sample_index, shape=shape, extent=extent, **self.gaussian)
        return false_positive_mask(logits, target, threshold=self.threshold)
