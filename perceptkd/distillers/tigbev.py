"""TiG-BEV (2022): the inner geometry of annotated objects, in the depth of the cameras and in bird's-eye view.

Within one object and view, predicted depth is compared relative to the pixel where it is best
(:func:`inner_depth_loss`). From the BEV maps, key points all over an enlarged box are read, and similarities between
key points (:func:`inter_keypoint_loss`) and between channels (:func:`inter_channel_loss`) are compared.

Shapes: B samples, V views, D depth bins, H W rows and columns of image features, N boxes of the whole batch, P key
points of a box, C channels, M pixels of the depth map that show an object. BEV boxes are ``(x, y, length, width, yaw)``
in metres and radians, counter-clockwise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptkd.core.bev import batch_boxes, in_map_frame, sample_points, tap_extent
from perceptkd.core.box_reach import BoxReach
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import canonical_bev
from perceptkd.core.tap import Tap, Taps
from perceptkd.ops.points_in_boxes import box_of_points
from perceptkd.registry import DISTILLERS


def box_grid(boxes: Tensor, *, num_points: tuple[int, int], margin_m: float) -> Tensor:
    """Spreads key points evenly over each box, from edge to edge.

    Args:
        boxes: BEV boxes [N, 5].
        num_points: Points along the length and along the width.
        margin_m: By how much the box grows on each of its four sides, in metres.

    Returns:
        Metric coordinates [N, P, 2].

    >>> box_grid(torch.tensor([[10.0, 5.0, 4.0, 2.0, 0.0]]), num_points=(2, 2), margin_m=1.0)[0].tolist()
    [[7.0, 3.0], [7.0, 7.0], [13.0, 3.0], [13.0, 7.0]]
    """
    along, across = (torch.linspace(-0.5, 0.5, count, device=boxes.device) for count in num_points)
    unit = torch.stack(torch.meshgrid(along, across, indexing="ij"), dim=-1).view(1, -1, 2)
    return in_map_frame(unit * (boxes[:, None, 2:4] + 2 * margin_m), boxes)


def smallest_of_groups(value: Tensor, group: Tensor) -> Tensor:
    """Where in ``value`` [M] the smallest of each group is, the first of equal ones; groups in ascending order.

    >>> smallest_of_groups(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([7, 4, 7])).tolist()
    [1, 2]
    """
    order = value.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    counts = torch.unique_consecutive(group[order], return_counts=True)[1]
    return order[counts.cumsum(0) - counts]


@torch.no_grad()
def foreground_depth(pixels: Sequence[Tensor], boxes: Sequence[Tensor], frustum: Tensor) -> tuple[Tensor, ...]:
    """The pixels of the depth map whose nearest LiDAR point lies in a box.

    Args:
        pixels: Per sample the LiDAR points in the views [V, _, 3]: u and v in pixels of the image, depth in metres.
        boxes: Per sample the number of the box each point lies in [_], -1 for none.
        frustum: (u, v, depth) of every depth bin and feature [D, H, W, 3].

    Returns:
        Index of each pixel in the flattened [B V, H, W], its depth in metres, and the number of its object and view;
        all [M].
    """
    bins, height, width = frustum.shape[:3]
    left, top, near = frustum[0, 0, 0]
    across, down, step = frustum[0, 0, 1, 0] - left, frustum[0, 1, 0, 1] - top, frustum[1, 0, 0, 2] - near
    views = len(pixels[0])
    found = []
    for sample, (cloud, box) in enumerate(zip(pixels, boxes, strict=True)):
        u, v, depth = cloud.unbind(dim=-1)
        column, row = ((u - left) / across).round(), ((v - top) / down).round()
        seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        seen &= (depth >= near) & (depth < near + bins * step)
        view = (sample * views + torch.arange(views, device=cloud.device))[:, None].expand_as(seen)
        target = torch.where(box >= 0, box.long() * len(pixels) * views + view, -1)
        pixel = (view[seen] * height + row[seen].long()) * width + column[seen].long()
        found.append((pixel, depth[seen], target[seen]))
    pixel, depth, target = (torch.cat(parts) for parts in zip(*found))
    nearest = smallest_of_groups(depth, pixel)
    nearest = nearest[target[nearest] >= 0]
    return pixel[nearest], depth[nearest], target[nearest]


def expected_depth(logits: Tensor, bins_m: Tensor) -> Tensor:
    """Mean [M] of the depth distributions with ``logits`` [M, D] over bins at ``bins_m`` [D], in metres."""
    return logits.softmax(dim=1) @ bins_m


def inner_depth_loss(
    student: Tensor, teacher: Tensor, target_index: Tensor, *, num_pixels: Tensor, eps: float = 1e-6
) -> Tensor:
    """Mean squared error of depth relative to a reference pixel of the same object, in square metres.

    ``sum_t sum_p ((s_p - s_r) - (d_p - d_r))^2 / num_pixels`` over objects t and their pixels p, where the reference
    ``r = argmin_p |s_p - d_p|`` of each object is chosen in every step anew, and ``s_r`` carries no gradient.

    Args:
        student: Predicted depth s at the pixels [M], metres.
        teacher: Depth d of the LiDAR points there [M], metres; detached.
        target_index: Number of the object and view each pixel belongs to [M].
        num_pixels: Pixels per rank, averaged over ranks.
        eps: Smallest value of ``num_pixels``.
    """
    error = student - teacher.detach()
    _, group = target_index.unique(return_inverse=True)
    # Relative depths differ by the error of the pixel less the error of its reference.
    reference = error.detach()[smallest_of_groups(error.detach().abs(), group)]
    return (error - reference[group]).square().sum() / num_pixels.clamp(min=eps)


def inter_keypoint_loss(student: Tensor, teacher: Tensor, *, num_boxes: Tensor, eps: float = 1e-6) -> Tensor:
    """Squared distance between similarities of the key points of a box; the channel counts of the two may differ.

    ``sum_n mean_i |a_i - b_i|^2 / num_boxes``, where ``a_i`` and ``b_i`` are row i of ``F F^T`` of student and teacher,
    divided by its norm.

    Args:
        student: Features F at the key points [N, P, C].
        teacher: The teacher's [N, P, C']; detached.
        num_boxes: Boxes per rank, averaged over ranks.
        eps: Smallest norm, and smallest value of ``num_boxes``.
    """
    first, second = (F.normalize(side @ side.mT, dim=2, eps=eps) for side in (student, teacher.detach()))
    return (first - second).square().sum(dim=2).mean(dim=1).sum() / num_boxes.clamp(min=eps)


def inter_channel_loss(student: Tensor, teacher: Tensor, *, num_boxes: Tensor, eps: float = 1e-6) -> Tensor:
    """:func:`inter_keypoint_loss` of channels over key points: ``F^T F`` [N, C, C] of equally many channels C."""
    return inter_keypoint_loss(student.mT, teacher.mT, num_boxes=num_boxes, eps=eps)


@DISTILLERS.register_module()
class TiGBEV(Distiller):
    """Inner depth and inner BEV features of annotated objects (Huang et al., arXiv 2212.13979).

    Terms: ``inner_depth``, ``inter_channel`` and ``inter_keypoint``, with the weights of the released configs (20 for
    ``inter_channel`` in ``tig_bev4d-r50``). They belong to a BEVDepth student whose own depth loss has the weight 100,
    and do not carry over to other students.

    Follows the release (formulas, weights, 24 x 24 key points, 1.6 m), except that

    * key points are read where they are: the release reads them up to one cell too far out, and moves those beyond the
      edge of the map onto the edge, where here the map is zero;
    * a LiDAR point belongs to the image feature whose centre in the student's frustum is nearest, instead of the one at
      its pixel divided by the stride; where boxes overlap, to the first box instead of the last;
    * averages go over the boxes and pixels of all ranks;
    * BatchNorm of the teacher keeps its own statistics; the release calls ``eval()`` in ``__init__`` alone, so that the
      training loop puts it back into train mode.

    The dense depth loss and the detection loss are the student's own. The release always has a 1 x 1 convolution from
    the student's channels to the teacher's for ``inter_channel``; here ``'auto'`` makes one where the counts differ,
    and ``adapters=dict(channel=dict(type='conv', in_channels=., out_channels=.))`` in any case.

    Args:
        num_points, margin_m: See :func:`box_grid`.
        inner_depth: False leaves that term out, for students without the depth bins of a BEVDetector's
            ``camera_encoder``. It reads the key frame's LiDAR points (age 0) from the raw batch.
        eps: Smallest norm and smallest count to divide by.
        **kwargs: Of the base class.
    """

    default_weights = {"inner_depth": 1.0, "inter_channel": 10.0, "inter_keypoint": 100.0}
    default_student_taps = {"keypoint": "neck[0]", "channel": "neck[0]", "depth": "camera_encoder[1]"}
    default_teacher_taps = {"keypoint": "neck[0]", "channel": "neck[0]"}
    default_adapters = {"keypoint": None, "channel": "auto"}
    sampled_aliases = frozenset({"keypoint", "channel"})
    layout_aware = True

    def __init__(
        self,
        *,
        num_points: tuple[int, int] = (24, 24),
        margin_m: float = 1.6,
        inner_depth: bool = True,
        eps: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        if len(num_points) != 2 or min(num_points) < 2 or margin_m < 0 or eps < 1e-6:
            wanted = "num_points are two numbers of at least 2, margin_m is not negative, eps at least 1e-6"
            raise InputError(f"TiGBEV: {wanted}; not {num_points}, {margin_m} and {eps}")
        super().__init__(**kwargs)
        if not inner_depth:
            del self.weights["inner_depth"], self.student_taps["depth"]
        self.grid: dict[str, Any] = {"num_points": tuple(num_points), "margin_m": margin_m}
        self.inner_depth = inner_depth
        self.eps = eps

    @property
    def box_reach(self) -> BoxReach:
        """The key points in a box and the margin around it."""
        return BoxReach(margin_m=self.grid["margin_m"])

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Returns the terms named in the class docstring."""
        boxes, sample_index = batch_boxes(step.data_samples, device=student["keypoint"].value.device)
        points = box_grid(boxes, **self.grid)
        average: dict[str, Any] = {"num_boxes": all_reduce_mean(points.new_tensor(float(len(boxes)))), "eps": self.eps}

        def at_points(tap: Tap) -> Tensor:
            return sample_points(canonical_bev(tap), points, sample_index, extent=tap_extent(tap))

        channel = at_points(student["channel"]), at_points(teacher["channel"])
        if channel[0].shape != channel[1].shape:
            counts = f"{channel[0].shape[-1]} channels in the student, {channel[1].shape[-1]} in the teacher"
            raise InputError(f"TiGBEV: 'channel' has {counts}; give it an adapter (adapters=dict(channel=...))")
        keypoint = at_points(student["keypoint"]), at_points(teacher["keypoint"])
        return {
            "inter_channel": inter_channel_loss(*channel, **average),
            "inter_keypoint": inter_keypoint_loss(*keypoint, **average),
            **({"inner_depth": self._inner_depth(student["depth"].value, step)} if self.inner_depth else {}),
        }

    def _inner_depth(self, logits: Tensor, step: Step) -> Tensor:
        """The depth term of logits [B V, D, H, W]."""
        # Not at the top of the file: distillers of other models must not need mmdet3d.
        from perceptkd.models.bev.geometry import project_points, stack_calibration

        device, frustum = logits.device, _frustum(step.student_model)
        calibration = stack_calibration(step.data_samples, device)
        pixels, inside = [], []
        for index, (cloud, sample) in enumerate(zip(_key_frame_points(step.batch), step.data_samples, strict=True)):
            points, boxes = cloud.to(device), sample.gt_instances_3d.bboxes_3d.tensor[:, :7].to(device)
            pixels.append(project_points(points, calibration, index))
            inside.append(box_of_points(points, boxes))
        pixel, depth, target = foreground_depth(pixels, inside, frustum)
        num_pixels = all_reduce_mean(depth.new_tensor(float(len(depth))))
        on_objects = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])[pixel]
        estimate = expected_depth(on_objects, frustum[:, 0, 0, 2])
        return inner_depth_loss(estimate, depth, target, num_pixels=num_pixels, eps=self.eps)


def _frustum(student: nn.Module | None) -> Tensor:
    name = "camera_encoder.view_transform.frustum"
    frustum = dict(student.named_buffers() if student else ()).get(name)
    if frustum is None:
        raise InputError(f"TiGBEV: the student has no depth bins ({name}); inner_depth=False leaves the term out")
    return frustum


def _key_frame_points(batch: Mapping[str, Any]) -> list[Tensor]:
    """x, y, z of the points of age 0 per sample."""
    clouds = batch["inputs"].get("points")
    if clouds is None or any(cloud.shape[1] < 5 for cloud in clouds):
        what = "LiDAR points of x, y, z, intensity and age in the batch (perceptkd.LoadPoints)"
        raise InputError(f"TiGBEV: the depth term needs {what}; inner_depth=False leaves the term out")
    return [cloud[cloud[:, 4] == 0, :3] for cloud in clouds]
