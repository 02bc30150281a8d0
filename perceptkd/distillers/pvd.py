"""PVD (CVPR 2022): a LiDAR segmenter teaches a narrower one its outputs, and how points and voxels relate.

Paper: Hou et al., "Point-to-Voxel Knowledge Distillation for LiDAR Semantic Segmentation", arXiv:2206.02099. Its
distillation code was never released. Outputs are compared at every voxel and at every point (:func:`divergence`).
Then the cloud is cut into supervoxels, of which some are drawn, preferably those with rare classes and far ones
(:func:`sampling_weights`), and inside of each the similarities between points and between voxels are compared
(:func:`affinity_difference`). Nothing is added to the student at inference.

Shapes: V voxels that both models have, P points in them, S supervoxels, N rows, C channels, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.core.sparse_match import coordinate_keys, match_sparse
from perceptkd.core.tap import Tap, Taps
from perceptkd.registry import DISTILLERS

#: Fewer common voxels than this share of the smaller side mean that the two grids are not the same.
MIN_COMMON = 0.5
EPS = 1e-6


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's class probabilities from the teacher's, row by row.

    Args:
        student: Logits [N, K].
        teacher: Logits [N, K]; detached.

    Returns:
        [N], at least 0.

    >>> divergence(torch.zeros(1, 2), torch.tensor([[0.75, 0.25]]).log())
    tensor([0.1308])
    """
    student, teacher = student.log_softmax(dim=1), teacher.detach().log_softmax(dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def sampling_weights(minority_voxels: Tensor, distance_m: Tensor) -> Tensor:
    """How readily each supervoxel is drawn, up to a common factor (difficulty-aware sampling, Sec. 3).

    The weight is the distance over the class frequency ``4 exp(-2 n) + 1``, which falls from 5 for a supervoxel without
    a voxel of a rare class to 1 for one with many. The radius of the scene and the number of supervoxels, by which the
    paper divides, are the same for all.

    Args:
        minority_voxels: Voxels of rare classes [S].
        distance_m: Horizontal distance of the far end from the sensor [S].

    >>> sampling_weights(torch.tensor([0.0, 1.0, 9.0]), torch.tensor([10.0, 10.0, 20.0]))
    tensor([ 2.0000,  6.4879, 20.0000])
    """
    return distance_m / (4 * torch.exp(-2 * minority_voxels) + 1)


def affinity_difference(student: Tensor, teacher: Tensor, *, size: int) -> Tensor:
    """Squared differences of the cosine similarities of all pairs of rows, over ``size`` squared.

    As if there were ``size`` rows, the missing ones all zero, which are similar to nothing on both sides. The channel
    counts of the two may differ.

    Args:
        student: Features [N, C].
        teacher: The teacher's [N, C']; detached.
        size: At least N.
    """
    return (_similarity(student) - _similarity(teacher.detach())).square().sum() / size**2


def _similarity(features: Tensor) -> Tensor:
    unit = features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + EPS)
    return unit @ unit.T


def retain(is_minority: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Rows to keep of a supervoxel with more than ``limit``: those of frequent classes are dropped first, at random.

    Args:
        is_minority: Whether a row is of a rare class [N].
        limit: Most rows to keep.
        generator: Of the draw.

    Returns:
        Row numbers, ``min(N, limit)`` of them.
    """
    if len(is_minority) <= limit:
        return torch.arange(len(is_minority), device=is_minority.device)
    order = torch.rand(len(is_minority), generator=generator, device=is_minority.device)
    return (order + (~is_minority)).topk(limit, largest=False).indices


class Rows(NamedTuple):
    """Points, or voxels: the voxel of each among the common ones, whether its class is rare, and its supervoxel."""

    voxel: Tensor
    is_minority: Tensor
    supervoxel: Tensor


@DISTILLERS.register_module()
class PVD(Distiller):
    """Output and affinity distillation between two segmenters of LiDAR points over the same voxel grid.

    Terms: ``point_output``, ``voxel_output``, ``point_affinity`` and ``voxel_affinity``. The default taps fit mmdet3d's
    MinkUNet and Cylinder3D. These have no layer of points, so that a point's output and features are those of its
    voxel; a voxel that one side does not have (``max_voxels`` drops some in training) is left out with its points.
    Where the paper measures the far end of a supervoxel at its outer arc, here its farthest point counts, which
    Cartesian grids have too, and supervoxels without a voxel are never drawn.

    Args:
        minority_classes: Labels of the rare classes; in the paper those of at most 1 % of all points.
        supervoxel_size: Cells of a supervoxel along the three axes of the voxel coordinates; the default is the
            published one, for Cylinder3D's 480 x 360 x 32 cells of (radius, angle, height).
        num_supervoxels: Supervoxels drawn per sample, without repetition.
        num_points, num_voxels: Rows compared in each supervoxel, see :func:`retain` and :func:`affinity_difference`.
        **kwargs: Of the base class.
    """

    default_weights = {"point_output": 0.1, "voxel_output": 0.15, "point_affinity": 0.15, "voxel_affinity": 0.25}
    default_student_taps = {"logits": "decode_head.conv_seg", "features": "backbone", "cells": "backbone(coors)"}
    default_teacher_taps = default_student_taps
    default_adapters = dict.fromkeys(default_student_taps)
    background_terms = frozenset(default_weights)

    def __init__(
        self,
        *,
        minority_classes: Sequence[int],
        supervoxel_size: Sequence[int] = (120, 60, 8),
        num_supervoxels: int = 4,
        num_points: int = 1024,
        num_voxels: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        counts = (*supervoxel_size, num_supervoxels, num_points, num_voxels)
        if len(supervoxel_size) != 3 or min(counts) < 1 or any(label < 0 for label in minority_classes):
            raise InputError(
                f"{self.name}: supervoxel_size is three numbers of cells, it and the other numbers are at least 1, and "
                f"labels are not negative; got {list(counts)} and the minority classes {list(minority_classes)}"
            )
        self.minority_classes = tuple(minority_classes)
        self.supervoxel_size = tuple(supervoxel_size)
        self.num_supervoxels = num_supervoxels
        self.limits = {"point": num_points, "voxel": num_voxels}

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Returns the terms named in the class docstring."""
        cells = student["cells"].value
        kept = match_cells(cells, teacher["cells"].value)
        logits = [_rows(side["logits"])[rows] for side, rows in zip((student, teacher), kept)]
        features = [_rows(side["features"])[rows] for side, rows in zip((student, teacher), kept)]
        classes = logits[0].shape[1]
        if logits[1].shape[1] != classes or max(self.minority_classes, default=0) >= classes:
            raise InputError(
                f"{self.name}: the student has {classes} classes and the teacher {logits[1].shape[1]}, the minority "
                f"classes are {list(self.minority_classes)}: all must be of one list of classes"
            )
        rows, chosen = self._draw(step, cells, kept[0])
        per_voxel = divergence(*logits)
        terms = {}
        for kind, limit in self.limits.items():
            found = rows[kind]
            total = all_reduce_mean(per_voxel.new_tensor(float(len(found.voxel)))).clamp(min=EPS)
            terms[f"{kind}_output"] = per_voxel[found.voxel].sum() / (total * classes)
            drawn = all_reduce_mean(per_voxel.new_tensor(float(len(chosen)))).clamp(min=EPS)
            difference = affinity_difference(*(side[:0] for side in features), size=limit)
            for supervoxel in chosen:
                inside = (found.supervoxel == supervoxel).nonzero().squeeze(1)
                inside = inside[retain(found.is_minority[inside], limit, step.generator)]
                voxel = found.voxel[inside]
                difference = difference + affinity_difference(*(side[voxel] for side in features), size=limit)
            terms[f"{kind}_affinity"] = difference / drawn
        return terms

    def _draw(self, step: Step, cells: Tensor, kept: Tensor) -> tuple[Mapping[str, Rows], Tensor]:
        """Points and voxels that both models have, and the supervoxels drawn of every sample."""
        owner, supervoxel = supervoxels(cells[kept], self.supervoxel_size)
        points = common_points(step, cells, kept)
        rare = torch.tensor(self.minority_classes, dtype=torch.long, device=cells.device)
        labels = torch.cat([sample.gt_pts_seg.voxel_semantic_mask for sample in step.data_samples])[kept]
        voxels = Rows(torch.arange(len(kept), device=cells.device), torch.isin(labels, rare), supervoxel)
        members = Rows(points.voxel, torch.isin(points.label, rare), supervoxel[points.voxel])
        minority = torch.bincount(supervoxel[voxels.is_minority], minlength=len(owner)).float()
        reach_m = points.distance_m.new_zeros(len(owner))
        reach_m = reach_m.scatter_reduce(0, members.supervoxel, points.distance_m, "amax")
        weights = sampling_weights(minority, reach_m.clamp(min=EPS))
        drawn = [supervoxel[:0]]
        for sample in range(len(step.data_samples)):
            candidates = (owner == sample).nonzero().squeeze(1)
            count = min(self.num_supervoxels, len(candidates))
            if count:
                drawn.append(candidates[torch.multinomial(weights[candidates], count, generator=step.generator)])
        return {"point": members, "voxel": voxels}, torch.cat(drawn)


def supervoxels(cells: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cuts the voxels of every sample into blocks.

    Args:
        cells: Voxel coordinates, sample first, [V, 4].
        size: Cells of a block along the three axes.

    Returns:
        The sample of each block with a voxel [S], and the block of each voxel [V].

    >>> [part.tolist() for part in supervoxels(torch.tensor([[0, 3, 0, 1], [0, 4, 0, 0], [0, 5, 1, 1]]), (4, 2, 2))]
    [[0, 0], [0, 1, 1]]
    """
    blocks = torch.div(cells.long(), cells.new_tensor((1, *size), dtype=torch.long), rounding_mode="floor")
    if not len(blocks):
        return blocks[:, 0], blocks[:, 0]
    keys, supervoxel = coordinate_keys(blocks, blocks.amax(dim=0) + 1).unique(return_inverse=True)
    return keys.new_zeros(len(keys)).scatter(0, supervoxel, blocks[:, 0]), supervoxel


def match_cells(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of both sides that are the same voxel, see :func:`perceptkd.core.sparse_match.match_sparse`.

    Raises:
        InputError: Hardly any are: the models do not voxelise alike.
    """
    kept = match_sparse(student, teacher)
    if len(kept[0]) < MIN_COMMON * min(len(student), len(teacher)):
        raise InputError(
            f"PVD: of {len(student)} voxels of the student and {len(teacher)} of the teacher only {len(kept[0])} are "
            "the same: both need the same voxel size (or grid shape) and point cloud range in their data_preprocessor"
        )
    return kept


class Points(NamedTuple):
    """Points [P] in voxels that both models have: which voxel, which class, how far from the sensor."""

    voxel: Tensor
    label: Tensor
    distance_m: Tensor


def common_points(step: Step, cells: Tensor, kept: Tensor) -> Points:
    """The points of all samples whose voxel is among the student's rows ``kept``, in the order of the samples.

    Args:
        step: Raw points, and the student's samples with their classes and ``point2voxel_map``.
        cells: The student's voxel coordinates, sample first, [M, 4].
        kept: Rows of it [V]; a point's voxel is a place in ``kept``.
    """
    place = torch.full((len(cells),), -1, device=cells.device)
    place[kept] = torch.arange(len(kept), device=cells.device)
    parts = []
    for number, (cloud, sample) in enumerate(zip(step.batch["inputs"]["points"], step.data_samples, strict=True)):
        rows = (cells[:, 0] == number).nonzero().squeeze(1)
        row = sample.point2voxel_map.long()
        if len(row) and int(row.max()) >= len(rows):
            raise InputError(
                f"PVD: sample {number} has {len(rows)} voxels, but its points are in up to {int(row.max()) + 1}; "
                "import perceptkd.compat before the model is built, which keeps them consistent"
            )
        inside = (row >= 0).nonzero().squeeze(1)
        voxel = place[rows[row[inside]]]
        inside, voxel = inside[voxel >= 0], voxel[voxel >= 0]
        distance_m = torch.linalg.vector_norm(cloud[:, :2].to(cells.device).float(), dim=1)
        parts.append(Points(voxel, sample.gt_pts_seg.pts_semantic_mask[inside], distance_m[inside]))
    return Points(*(torch.cat(column) for column in zip(*parts)))


def _rows(tap: Tap) -> Tensor:
    """Features of all voxels, of a dense or sparse output."""
    return tap.value if isinstance(tap.value, Tensor) else tap.value.features
