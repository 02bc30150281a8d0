"""PointDistiller (CVPR 2023): local graphs around the important voxels or points of a cloud, compared edge by edge.

Of every sample the N most important items are centres. Each is joined to the K items whose *teacher* features are
nearest to its own, and the same graph is read from the features of student and teacher. An edge convolution turns the
features at both ends of an edge into C' channels, on either side with weights of its own, and the loss is the mean
squared difference, each graph weighted by the importance of its centre. Nothing is added to the student at inference.

Shapes: M items (voxels, cells of a map or points) of a batch, N centres of a sample, K neighbours, C channels, C' of
the edge convolution, B samples, H rows and W columns of a map, P points of a sample.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from torch import Tensor, nn

from perceptkd.core.align import pair_values
from perceptkd.core.bev import batch_boxes, map_grid, points_in_boxes_bev, sample_points, tap_extent
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import canonical_bev
from perceptkd.core.heads import foreground_score
from perceptkd.core.sparse_match import count_points, match_sparse
from perceptkd.core.tap import Taps
from perceptkd.ops.edge_conv import EDGES, edge_conv
from perceptkd.ops.nearest_features import nearest_features
from perceptkd.registry import DISTILLERS

OF_FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "channel_max": lambda features: features.amax(dim=1),
    "abs_mean": lambda features: features.abs().mean(dim=1),
    "l2": lambda features: torch.linalg.vector_norm(features, dim=1),
}
OF_VOXELS = ("num_points", "log_num_points")
OF_PLACES = ("cls_score", "boxes")
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda edges: edges.flatten(0, 1),
    "max": lambda edges: edges.amax(dim=1),
    "mean": lambda edges: edges.mean(dim=1),
}


class Kind(NamedTuple):
    """Defaults for what the features belong to."""

    dimensions: str  # of a feature
    taps: dict[str, str]
    response: str  # the teacher's head
    importance: str
    num_samples: int
    pool: str


VOXELS = {"feature": "voxel_encoder", "coors": "voxel_encoder(coors)"}
POINTS = {"feature": "neck['fp_features']", "xyz": "neck['fp_xyz']"}
KINDS = {
    "voxels": Kind("M, C", VOXELS, "bbox_head", importance="num_points", num_samples=1000, pool="none"),
    "maps": Kind("B, C, H, W", {"feature": "backbone"}, "bbox_head", "channel_max", num_samples=256, pool="none"),
    "points": Kind("B, C, P", POINTS, "rpn_head[1]", importance="channel_max", num_samples=6000, pool="max"),
}
MODES = ("standard", "raw", "none")
RELEASED_NUM_VOXELS, RELEASED_TAU, RELEASED_NORM_WEIGHT = 6000, 0.01, 5e-4


class Items(NamedTuple):
    """What graphs are made of, row by row the same item on both sides."""

    student: Tensor  # features [M, C]
    teacher: Tensor  # features [M, C]
    sample: Tensor  # [M]
    importance: Tensor  # [M]; an item of -inf is no centre


class LocalGraphs(NamedTuple):
    """The graphs of one sample, as rows of the batch."""

    centre: Tensor  # [N]
    neighbour: Tensor  # [N, K]
    weight: Tensor  # [N], 1 on average


def graph_weights(importance: Tensor, *, mode: str = "raw", tau: float = 1.0, eps: float = 1e-6) -> Tensor:
    """Weights [N] of graphs by the importance [N] of their centres, with a mean of 1 (Sec. 3.3).

    Args:
        importance: Finite.
        mode: 'raw' is the published softmax of ``importance / tau``, times N; 'standard' divides the importance by its
            deviation first, so that ``tau`` is free of its unit; 'none' weighs all alike.
        tau: Temperature.
        eps: Smallest deviation.

    >>> [round(weight, 6) for weight in graph_weights(torch.tensor([32.0, 32.0, 31.0])).tolist()]
    [1.266956, 1.266956, 0.466087]
    """
    if mode == "none":
        return torch.ones_like(importance)
    if mode == "standard":
        importance = importance / importance.std(correction=0).clamp(min=eps)
    return (importance / tau).softmax(dim=0) * len(importance)


class EdgeEncoder(nn.Module):
    """Edge convolution, batch norm over all edges, ReLU (Sec. 3.2); see :func:`perceptkd.ops.edge_conv.edge_conv`."""

    def __init__(self, in_channels: int, out_channels: int, edge: str) -> None:
        super().__init__()
        self.edge = edge
        self.weight = nn.Parameter(torch.empty(out_channels, 2 * in_channels))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.after = nn.Sequential(nn.BatchNorm1d(out_channels), nn.ReLU())

    def forward(self, features: Tensor, graphs: Sequence[LocalGraphs]) -> list[Tensor]:
        """Features [M, C] to edges [N, K, C'] of the graphs of every sample."""
        neighbour = torch.cat([graph.neighbour.flatten() for graph in graphs])
        centre = torch.cat([graph.centre.repeat_interleave(graph.neighbour.shape[1]) for graph in graphs])
        edges = self.after(edge_conv(features, self.weight, centre, neighbour, edge=self.edge))
        parts = edges.split([graph.neighbour.numel() for graph in graphs])
        return [part.view(*graph.neighbour.shape, -1) for part, graph in zip(parts, graphs)]


@DISTILLERS.register_module()
class PointDistiller(Distiller):
    """Local distillation with reweighting (Zhang, Dong, Tai, Ma; CVPR 2023, arXiv 2205.11098).

    Term: ``graph``, the weighted mean squared difference, added up over the levels of maps. The released weight is 2.

    Follows the paper. Where the release differs, ``released=True`` repeats it:

    * Both edge encoders are trained, so that the loss falls without any learning of the student, as the teacher's
      output becomes constant. Here the teacher's encoder keeps its random start, unless ``train_teacher_encoder``.
    * Centres and neighbours of voxels are looked for in the whole batch, so that half of the neighbours come from
      other samples; 6000 centres, for 6 samples. Here each sample has graphs of its own, with 1000 centres.
    * The temperature of voxels is 0.01 on whole numbers of points: the voxels tied for the most points share all
      weight. Here it is 1 on importance in units of its deviation.
    * The softmax over maps runs along an axis of length 1, and its result, 1, is multiplied by the number of samples:
      the loss grows with the batch. The weights of points are computed and not used.
    * Without reweighting the loss is 5e-4 times the Frobenius norm of the difference, not a mean of squares.

    Its teacher is in train mode too: the teacher's ``norm='train'``. Not repeated are that it pairs voxels by row
    (here by coordinate, points by position) and crashes with fewer items than N or K (here N and K are cut). Batch
    norm of the encoders reads the edges of its own process, so that several processes train nearly as one, not exactly.

    Args:
        on: What the features belong to. 'voxels': rows [M, C] of a voxel encoder, with the taps ``coors`` [M, 4]
            (sample, z, y, x) and, of the teacher, ``num_points`` [M] or the voxel of every point [P, 4]. 'maps': a map
            [B, C, H, W] or several levels. 'points': [B, C, P], with their positions ``xyz`` [B, P, 3].
        student_channels, teacher_channels: Of ``feature``, a number or one per level; a dry pass tells them too.
        out_channels: C'.
        importance: 'num_points' or 'log_num_points' of a voxel; 'channel_max', 'abs_mean' or 'l2' of the teacher's
            feature; 'cls_score', the largest class probability of the teacher's head (its tap ``response``) at the
            place; 'boxes', which leaves annotated boxes alone with centres; or a function from teacher features [M, C]
            to [M]. None is as published: 'num_points' of voxels, else 'channel_max'.
        num_samples: N (of ``released`` voxels per batch); None is 1000 voxels, 256 cells of a map, 6000 points. Of
            equally important items, such as the cells in boxes, it is a draw.
        k: K, the centre itself included.
        edge: See :func:`perceptkd.ops.edge_conv.edge_conv`.
        pool: 'none', or 'max' or 'mean' over neighbours before the comparison; None is 'max' of points, else 'none'.
        reweight, tau: Mode and temperature of :func:`graph_weights`.
        train_teacher_encoder: Train the teacher's edge encoder as well.
        voxel_size_m: (x, y) of the teacher's voxels, which 'cls_score' and 'boxes' need of voxels.
        min_matched: Smallest share of its voxels or points that the side with fewer must find on the other.
        released: See above. Of ``reweight``, 'none' alone is left to choose, and the teacher's encoder is trained.
        **kwargs: Of the base class, but for ``adapters``: the edge encoders are the adapters.
    """

    default_weights = {"graph": 2.0}
    background_terms = frozenset({"graph"})

    def __init__(
        self,
        *,
        on: str = "voxels",
        student_channels: int | Sequence[int] | None = None,
        teacher_channels: int | Sequence[int] | None = None,
        out_channels: int = 32,
        importance: str | Callable[[Tensor], Tensor] | None = None,
        num_samples: int | None = None,
        k: int = 128,
        edge: str = "cat",
        pool: str | None = None,
        reweight: str = "standard",
        tau: float = 1.0,
        train_teacher_encoder: bool = False,
        voxel_size_m: tuple[float, float] | None = None,
        min_matched: float = 0.5,
        released: bool = False,
        student_taps: Mapping[str, Any] | None = None,
        teacher_taps: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if on not in KINDS:
            raise InputError(f"PointDistiller: on is one of {list(KINDS)}, not {on!r}")
        kind = KINDS[on]
        importance, pool = importance or kind.importance, pool or kind.pool
        known = (*OF_FEATURES, *OF_PLACES, *(OF_VOXELS if on == "voxels" else ()))
        if isinstance(importance, str) and importance not in known:
            raise InputError(f"PointDistiller: importance of {on} is a function or one of {known}, not {importance!r}")
        if edge not in EDGES or pool not in POOLS or reweight not in MODES:
            given = f"edge={edge!r}, pool={pool!r}, reweight={reweight!r}"
            raise InputError(f"PointDistiller: {given} must be of {EDGES}, {list(POOLS)} and {MODES}")
        if k < 1 or tau <= 0 or (num_samples is not None and num_samples < 1):
            raise InputError(f"PointDistiller: k, num_samples and tau must be positive, not {k}, {num_samples}, {tau}")
        if released and (reweight == "raw" or tau != 1):
            raise InputError("PointDistiller: released=True has weights of its own: leave out tau and reweight='raw'")
        if released and reweight == "none":
            kwargs["weights"] = {"graph": RELEASED_NORM_WEIGHT} | dict(kwargs.get("weights") or {})
        more = {"num_points": "voxel_encoder(num_points)"} if importance in OF_VOXELS else {}
        more |= {"response": kind.response} if importance == "cls_score" else {}
        super().__init__(
            student_taps=kind.taps | dict(student_taps or {}),
            teacher_taps=kind.taps | more | dict(teacher_taps or {}),
            adapters=dict.fromkeys(kind.taps),
            **kwargs,
        )
        self.on, self.importance, self.pool = on, importance, pool
        self.num_samples = num_samples or (RELEASED_NUM_VOXELS if released and on == "voxels" else kind.num_samples)
        self.k, self.reweight, self.tau = k, reweight, tau
        self.voxel_size_m, self.min_matched, self.released = voxel_size_m, min_matched, released
        self.encoder: dict[str, Any] = {"out_channels": out_channels, "edge": edge}
        self.channels = student_channels, teacher_channels
        self.trains_teacher_encoder = train_teacher_encoder or released
        self.student_encoders, self.teacher_encoders = nn.ModuleList(), nn.ModuleList()

    def build_adapters(self, student: Taps | None = None, teacher: Taps | None = None) -> None:
        """Make the edge encoders, for the channels of the options or of a dry pass."""
        super().build_adapters(student, teacher)
        channels = [each if each is None or isinstance(each, Sequence) else [each] for each in self.channels]
        if None in channels and student is not None and teacher is not None:
            channels = [[side.shape[1] for side in sides] for sides in zip(*self._levels(student, teacher))]
        if None in channels or len(channels[0]) != len(channels[1]):
            raise InputError(
                "PointDistiller: student_channels and teacher_channels are the channels of 'feature', a number each or "
                f"one per level; without both the model needs dry_batch=. They are {self.channels}"
            )
        for encoders, widths in zip((self.student_encoders, self.teacher_encoders), channels):
            encoders.extend(EdgeEncoder(width, **self.encoder) for width in widths)
        self.teacher_encoders.requires_grad_(self.trains_teacher_encoder)

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Returns the term named in the class docstring."""
        levels = self._levels(student, teacher)
        widths = [(mine.weight.shape[1] // 2, theirs.weight.shape[1] // 2) for mine, theirs in self._encoders()]
        if [(mine.shape[1], theirs.shape[1]) for mine, theirs in levels] != widths:
            found = [(tuple(mine.shape), tuple(theirs.shape)) for mine, theirs in levels]
            raise InputError(
                f"PointDistiller: 'feature' is {found} (student, teacher) level by level, but student_channels and "
                f"teacher_channels say {widths}"
            )
        items = {"voxels": self._voxels, "maps": self._maps, "points": self._points}[self.on]
        gaps = [
            self._gap(items(*level, student, teacher, step), *encoders, step.generator)
            for level, encoders in zip(levels, self._encoders())
        ]
        return {"graph": torch.stack(gaps).sum()}

    def _encoders(self) -> Iterator[tuple[Any, Any]]:
        return zip(self.student_encoders, self.teacher_encoders)

    def _levels(self, student: Taps, teacher: Taps) -> list[tuple[Tensor, Tensor]]:
        """The features of both sides, one pair or one per level."""
        taps = [student["feature"], teacher["feature"]]
        if self.on == "maps" and self.importance in OF_PLACES:  # which read the axes as y and x
            taps = [replace(tap, calls=[canonical_bev(tap)]) for tap in taps]
        pairs = pair_values("feature", *taps) if self.on == "maps" else [tuple(tap.value for tap in taps)]
        dimensions = KINDS[self.on].dimensions
        count = len(dimensions.split())
        if not pairs or any(not isinstance(side, Tensor) or side.ndim != count for pair in pairs for side in pair):
            raise InputError(
                f"PointDistiller: on='{self.on}' needs features [{dimensions}] as 'feature', of student and teacher; "
                "look at student_taps and teacher_taps. Encoders of dynamic voxels return (features, coors): "
                "'voxel_encoder[0]' and 'voxel_encoder[1]'"
            )
        return [(mine, theirs.detach()) for mine, theirs in pairs]

    def _gap(self, items: Items, student_encoder: EdgeEncoder, teacher_encoder: EdgeEncoder, random: Any) -> Tensor:
        """How far the graphs of one level are apart."""
        graphs = list(self._graphs(items, random))
        repeats = [1 if self.pool != "none" else graph.neighbour.shape[1] for graph in graphs]
        weight = [graph.weight.repeat_interleave(number) for graph, number in zip(graphs, repeats)]
        average = all_reduce_mean(items.student.new_tensor(float(sum(map(len, weight))))).clamp(min=1)
        if sum(graph.neighbour.numel() for graph in graphs) < 2:  # batch norm needs two edges
            trained = (items.student, *student_encoder.parameters(), *teacher_encoder.parameters())
            return torch.stack([part[:0].sum() for part in trained]).sum()
        student, teacher = (
            torch.cat([POOLS[self.pool](edges) for edges in encoder(features, graphs)])
            for encoder, features in ((student_encoder, items.student), (teacher_encoder, items.teacher))
        )
        if self.released and self.reweight == "none":
            return torch.linalg.vector_norm(student - teacher)
        gap = (torch.cat(weight) * (student - teacher).square().mean(dim=1)).sum() / average
        return gap * len(items.sample.unique()) if self.released and self.on == "maps" else gap

    def _graphs(self, items: Items, random: torch.Generator) -> Iterator[LocalGraphs]:
        """Graphs of every sample that has a centre, or of the whole batch where that was released."""
        group = torch.zeros_like(items.sample) if self.released and self.on == "voxels" else items.sample
        for number in group.unique():
            rows = (group == number).nonzero()[:, 0]
            if not self.released:  # rows are in the order of places, and so would be the first of equals
                rows = rows[torch.randperm(len(rows), generator=random, device=rows.device)]
            importance, features = items.importance[rows], items.teacher[rows]
            chosen = importance.argsort(descending=True, stable=True)[: self.num_samples]
            chosen = chosen[importance[chosen] > -torch.inf]
            if len(chosen):
                nearest = nearest_features(features, features[chosen], min(self.k, len(rows)))
                yield LocalGraphs(rows[chosen], rows[nearest], self._weights(importance[chosen]))

    def _weights(self, importance: Tensor) -> Tensor:
        if not self.released:
            return graph_weights(importance, mode=self.reweight, tau=self.tau)
        return graph_weights(importance, mode="raw" if self.on == "voxels" else "none", tau=RELEASED_TAU)

    def _voxels(self, mine: Tensor, theirs: Tensor, student: Taps, teacher: Taps, step: Step) -> Items:
        coors = student["coors"].value, teacher["coors"].value
        if (len(mine), len(theirs)) != tuple(map(len, coors)):
            raise InputError("PointDistiller: 'coors' must have a voxel for every row of 'feature', on both sides")
        sample = coors[1][:, 0].long()
        importance = self._importance(theirs, theirs, sample, teacher, step)
        first, second = self._match(*coors)
        return Items(mine[first], theirs[second], sample[second], importance[second])

    def _maps(self, mine: Tensor, theirs: Tensor, student: Taps, teacher: Taps, step: Step) -> Items:
        if mine.shape[2:] != theirs.shape[2:]:
            mine = F.interpolate(mine, size=theirs.shape[2:], mode="bilinear")
        sample = torch.arange(len(theirs), device=theirs.device).repeat_interleave(theirs[0, 0].numel())
        rows = [side.flatten(2).transpose(1, 2).flatten(0, 1) for side in (mine, theirs)]
        return Items(*rows, sample, self._importance(theirs, rows[1], sample, teacher, step))

    def _points(self, mine: Tensor, theirs: Tensor, student: Taps, teacher: Taps, step: Step) -> Items:
        xyz = student["xyz"].value, teacher["xyz"].value
        rows = [side.transpose(1, 2).flatten(0, 1) for side in (mine, theirs)]
        if [len(side) for side in rows] != [side[..., 0].numel() for side in xyz]:
            raise InputError("PointDistiller: 'xyz' must have a position for every point of 'feature', on both sides")
        sample = torch.arange(len(theirs), device=theirs.device).repeat_interleave(theirs.shape[2])
        importance = self._importance(theirs, rows[1], sample, teacher, step)
        if torch.equal(*xyz):
            return Items(*rows, sample, importance)
        first, second = self._match(*_point_keys(*xyz))
        return Items(rows[0][first], rows[1][second], sample[second], importance[second])

    def _match(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of both sides with the same coordinates [., D], and the share of them in the log."""
        rows = match_sparse(student, teacher)
        fewer = min(len(student), len(teacher))
        share = len(rows[0]) / fewer if fewer else 1.0
        MessageHub.get_current_instance().update_scalar(f"train/kd/{self.name}/matched", share)
        if share < self.min_matched:
            raise InputError(
                f"PointDistiller: student and teacher share {len(rows[0])} of {fewer} {self.on}, less than "
                f"min_matched={self.min_matched}: give both the same point_cloud_range and voxel_size, or use on='maps'"
            )
        return rows

    def _importance(self, features: Tensor, rows: Tensor, sample: Tensor, teacher: Taps, step: Step) -> Tensor:
        """Importance [M] of the items of the teacher with the tapped features, as rows [M, C], of the samples [M]."""
        if not isinstance(self.importance, str):
            return self.importance(rows)
        if self.importance in OF_FEATURES:
            return OF_FEATURES[self.importance](rows)
        if self.importance in OF_VOXELS:
            counts = teacher["num_points"].value
            counts = count_points(counts, teacher["coors"].value) if counts.ndim == 2 else counts
            return counts.float() if self.importance == "num_points" else counts.clamp(min=1).float().log()
        if self.importance == "cls_score" and self.on == "points":
            return teacher["response"].value.amax(dim=2).sigmoid().flatten()
        points, size_m = self._places(features, teacher)
        if self.importance == "cls_score":
            scores = foreground_score(teacher["response"])
            return sample_points(scores, points[:, None], sample, extent=tap_extent(teacher["response"])).flatten()
        boxes = batch_boxes(step.data_samples, device=rows.device)
        inside = points_in_boxes_bev(points, sample, *boxes, min_size_m=size_m)
        return rows.new_zeros(len(rows)).masked_fill(~inside, -torch.inf)

    def _places(self, features: Tensor, teacher: Taps) -> tuple[Tensor, float]:
        """Where the teacher's items are [M, 2], and the diagonal of one, in metres."""
        if self.on == "points":
            return teacher["xyz"].value[..., :2].flatten(0, 1), 0.0
        if self.on == "maps":
            low, size = map_grid(features, shape=features.shape[2:], extent=tap_extent(teacher["feature"]))
            cells = torch.cartesian_prod(*(torch.arange(n, device=features.device) for n in features.shape[2:]))
            return ((cells.flip(1) + 0.5) * size + low).repeat(len(features), 1), float(size.norm())
        if self.voxel_size_m is None:
            raise InputError(f"PointDistiller: importance='{self.importance}' of voxels needs voxel_size_m=(x, y)")
        size, low = features.new_tensor(self.voxel_size_m), features.new_tensor(tap_extent(teacher["coors"])[:2])
        return (teacher["coors"].value[:, [3, 2]] + 0.5) * size + low, float(size.norm())


def _point_keys(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Sample and a number that is the same for the same position, of points [B, P, 3] and [B, P', 3]."""
    sides = student, teacher
    numbers = torch.cat([side.flatten(0, 1) for side in sides]).unique(dim=0, return_inverse=True)[1]
    samples = [torch.arange(len(side), device=side.device).repeat_interleave(side.shape[1]) for side in sides]
    first, second = numbers.split([len(sample) for sample in samples])
    return torch.stack((samples[0], first), dim=1), torch.stack((samples[1], second), dim=1)
