"""RoIAlign for rotated RoIs: the mean of bilinear samples in each bin (Ma et al., Rotation Proposals, 2018)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from perceptkd.ops.bilinear import bilinear_corners
from perceptkd.ops.roi_align import Alignment
from perceptkd.ops.roi_bags import RoiBags, pool_bags, pool_bags_gradient
from perceptkd.ops.roi_parts import (
    PIXELS,
    Pair,
    Selection,
    bin_points,
    check_rois,
    finite_rois,
    sampled_parts,
)


@dataclass(frozen=True)
class RotatedAlignment(Alignment):
    """How rotated RoIs are sampled.

    Args:
        clockwise: the angle turns from x towards y, which is clockwise to the eye as y points down; otherwise from y
            towards x.
    """

    clockwise: bool = False


def roi_align_rotated(
    features: Tensor,
    rois: Tensor,
    *,
    output_size: Pair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
    clockwise: bool = False,
) -> Tensor:
    """Averages the features in each bin of rotated RoIs. Differentiable by ``features``, once.

    Args:
        features: [N, C, H, W].
        rois: [R, 6] as (sample, x, y, width, height, angle): centre, sizes, and the angle in radians; the sample is not
            checked, which would stall a GPU.
        output_size: bins along the RoI's (height, width).
        spatial_scale: see :class:`perceptkd.ops.roi_align.Alignment` and :class:`RotatedAlignment`, as the others.

    Returns:
        [R, C, *output_size] in the dtype of ``features``. A sample up to a pixel outside the map reads the border, one
        further off is 0. Bins without samples are 0: those of a RoI of no width or height when ``sampling_ratio`` is
        0, and those of a RoI that is not finite.

    >>> features = torch.arange(9.0).view(1, 1, 3, 3)
    >>> upright = torch.tensor([[0.0, 1.5, 1.5, 3.0, 1.0, torch.pi / 2]])
    >>> roi_align_rotated(features, upright, output_size=(1, 3), clockwise=True).round(decimals=3).tolist()
    [[[[1.0, 4.0, 7.0]]]]
    """
    check_rois(features, rois, 6, output_size)
    alignment = RotatedAlignment(output_size, spatial_scale, sampling_ratio, aligned, clockwise)
    return pool_bags(features, _bags(rois, features.shape, alignment))


def roi_align_rotated_gradient(
    grad_output: Tensor, rois: Tensor, shape: torch.Size, alignment: RotatedAlignment
) -> Tensor:
    """Gradient of :func:`roi_align_rotated` by features of ``shape``, in float32 or better."""
    return pool_bags_gradient(grad_output, shape, _bags(rois, shape, alignment))


def _bags(rois: Tensor, shape: torch.Size, alignment: RotatedAlignment) -> RoiBags:
    return RoiBags(len(rois), alignment.output_size, partial(_bag_parts, rois, shape, alignment))


def _bag_parts(
    rois: Tensor, shape: torch.Size, alignment: RotatedAlignment
) -> Iterator[tuple[Selection, Tensor, Tensor]]:
    """Pixels and weights of the bins; see :class:`perceptkd.ops.roi_bags.RoiBags`."""
    height, width = shape[2:]
    image, boxes, is_finite = finite_rois(rois)
    boxes = torch.cat((boxes[:, :4] * alignment.spatial_scale, boxes[:, 4:]), dim=1)
    size = boxes[:, [3, 2]]
    if not alignment.aligned:
        size = size.clamp(min=1)
    for some, samples in sampled_parts(size, alignment.output_size, alignment.sampling_ratio, limit=PIXELS):
        y, x = _sample_points(boxes[some], size[some], samples, alignment)
        indices, weights = bilinear_corners(y, x, height, width, border="edge")
        indices = indices + (image[some] * (height * width)).view(-1, 1, 1, 1, 1, 1)
        weights = weights * (is_finite[some] / (samples[0] * samples[1])).view(-1, 1, 1, 1, 1, 1)
        yield some, indices.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _sample_points(boxes: Tensor, size: Tensor, samples: Pair, alignment: RotatedAlignment) -> tuple[Tensor, Tensor]:
    """Row and column of the samples in the map, each [R, bins_y, bins_x, S_y, S_x], of boxes [R, 5] in pixels."""
    down = bin_points(-size[:, 0] / 2, size[:, 0], alignment.output_size[0], samples[0])[:, :, None, :, None]
    right = bin_points(-size[:, 1] / 2, size[:, 1], alignment.output_size[1], samples[1])[:, None, :, None, :]
    centre_x, centre_y, _, _, angle = boxes.view(-1, 5, 1, 1, 1, 1).unbind(1)
    if alignment.aligned:
        centre_x, centre_y = centre_x - 0.5, centre_y - 0.5
    turn = angle if alignment.clockwise else -angle
    return down * turn.cos() + right * turn.sin() + centre_y, right * turn.cos() - down * turn.sin() + centre_x
