"""mmcv's ops on regions of feature maps: RoI pooling of all kinds, border align and PSA masks."""

from functools import partial

from torch import Tensor

from perceptkd.ops import border_align as border_ops
from perceptkd.ops import prroi_pool as prroi_ops
from perceptkd.ops import psa_mask as psa_ops
from perceptkd.ops import roi_align as align_ops
from perceptkd.ops import roi_align_rotated as rotated_ops
from perceptkd.ops import roi_pool as pool_ops
from perceptkd.ops.recompute import recomputed_gradients

_POOL_MODES: tuple[align_ops.Mode, ...] = ("max", "avg")
_PSA_MODES: tuple[psa_ops.Mode, ...] = ("collect", "distribute")


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills ``output`` and, to pool the largest sample, where it lies: ``argmax_y`` and ``argmax_x``."""
    alignment = align_ops.Alignment((aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    if _POOL_MODES[pool_mode] == "avg":
        output.copy_(align_ops.roi_align_mean(input, rois, alignment))
        return
    for filled, found in zip((output, argmax_y, argmax_x), align_ops.roi_align_max(input, rois, alignment)):
        filled.copy_(found)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    if _POOL_MODES[pool_mode] == "avg":
        alignment = align_ops.Alignment((aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
        grad_input.copy_(align_ops.roi_align_mean_gradient(grad_output, rois, grad_input.shape, alignment))
    else:
        grad_input.copy_(align_ops.roi_align_max_gradient(grad_output, rois, argmax_y, argmax_x, grad_input.shape))


def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    output.copy_(
        rotated_ops.roi_align_rotated(
            input,
            rois,
            output_size=(pooled_height, pooled_width),
            spatial_scale=spatial_scale,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
            clockwise=clockwise,
        )
    )


def roi_align_rotated_backward(
    rois: Tensor,
    grad_input: Tensor,
    grad_output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """mmcv's binding misnames the first three: its wrapper passes the output's gradient, the RoIs and what to fill."""
    gradient, boxes, filled = rois, grad_input, grad_output
    alignment = rotated_ops.RotatedAlignment(
        (pooled_height, pooled_width), spatial_scale, sampling_ratio, aligned, clockwise
    )
    filled.copy_(rotated_ops.roi_align_rotated_gradient(gradient, boxes, filled.shape, alignment))


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    size = (pooled_height, pooled_width)
    values, pixels = pool_ops.roi_pool(input, rois, output_size=size, spatial_scale=spatial_scale)
    output.copy_(values)
    argmax.copy_(pixels)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    grad_input.copy_(pool_ops.roi_pool_gradient(grad_output, rois, argmax, grad_input.shape))


def prroi_pool_forward(
    input: Tensor, rois: Tensor, output: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    size = (pooled_height, pooled_width)
    output.copy_(prroi_ops.prroi_pool(input, rois, output_size=size, spatial_scale=spatial_scale))


def prroi_pool_backward(
    grad_output: Tensor, rois: Tensor, grad_input: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    """The pooling is linear in the features, which are not passed: any will do, here the zeros of ``grad_input``."""
    size = (pooled_height, pooled_width)
    pool = partial(prroi_ops.prroi_pool, rois=rois, output_size=size, spatial_scale=spatial_scale)
    grad_input.copy_(recomputed_gradients(pool, [grad_input], grad_output)[0])


def prroi_pool_coor_backward(
    output: Tensor,
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    grad_rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    size = (pooled_height, pooled_width)
    pool = partial(prroi_ops.prroi_pool, input, output_size=size, spatial_scale=spatial_scale)
    grad_rois.copy_(recomputed_gradients(pool, [rois], grad_output)[0])


def border_align_forward(input: Tensor, boxes: Tensor, output: Tensor, argmax_idx: Tensor, pool_size: int) -> None:
    values, points = border_ops.border_align(input, boxes, pool_size)
    output.copy_(values)
    argmax_idx.copy_(points)


def border_align_backward(
    grad_output: Tensor, boxes: Tensor, argmax_idx: Tensor, grad_input: Tensor, pool_size: int
) -> None:
    grad_input.copy_(border_ops.border_align_gradient(grad_output, boxes, argmax_idx, grad_input.shape, pool_size))


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """The sizes of the map follow from the tensors; the halves are always (size - 1) // 2."""
    output.copy_(psa_ops.psa_mask(input, mask_size=(h_mask, w_mask), mode=_PSA_MODES[psa_type]))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    grad_input.copy_(psa_ops.psa_mask_gradient(grad_output, mask_size=(h_mask, w_mask), mode=_PSA_MODES[psa_type]))
