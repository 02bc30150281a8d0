"""mmcv's convolutions that look where they are told: deformable and masked ones.

Buffers that mmcv's kernels work in (``columns``, ``ones``) are left as they are. Where mmcv's kernels add to a
gradient, so do these.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import pad

from perceptkd.ops import deform_conv as conv_ops
from perceptkd.ops.masked_conv import masked_col2im, masked_im2col


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """``im2col_step`` is not needed: our own limit of memory decides how many samples are computed at once."""
    geometry = conv_ops.Geometry((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    output.copy_(conv_ops.deform_conv2d(input, offset, weight, geometry=geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Adds to ``gradInput``, sets ``gradOffset``."""
    geometry = conv_ops.Geometry((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    grad_features, grad_offset = conv_ops.deform_conv2d_gradients(
        gradOutput, input, offset, weight, wanted=("features", "offset"), geometry=geometry
    )
    gradInput.add_(grad_features)
    gradOffset.copy_(grad_offset)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds the gradient times ``scale`` to ``gradWeight``, whose values the gradient does not depend on."""
    geometry = conv_ops.Geometry((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    (gradient,) = conv_ops.deform_conv2d_gradients(
        gradOutput, input, offset, gradWeight, wanted=("weight",), geometry=geometry
    )
    gradWeight.add_(gradient, alpha=scale)


def _from_start(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Offsets or masks larger than the output as mmcv's kernels read them: as the start of each sample's memory.

    DyHead passes the offsets of one level to the next smaller one, and its published weights were trained with what
    that gives. Smaller ones stay as they are, for :func:`perceptkd.ops.deform_conv.deform_conv2d` to refuse.
    """
    channels, count = maps.shape[1], maps.shape[1] * size[0] * size[1]
    if tuple(maps.shape[2:]) == tuple(size) or maps.shape[1:].numel() < count:
        return maps
    return maps.flatten(1)[:, :count].view(len(maps), channels, *size)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    geometry = conv_ops.Geometry(
        (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    offset, mask = (_from_start(part, output.shape[2:]) for part in (offset, mask))
    output.copy_(
        conv_ops.deform_conv2d(input, offset, weight, mask=mask, bias=bias if with_bias else None, geometry=geometry)
    )


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Adds to the gradients of input, weight and bias, sets those of offset and mask."""
    geometry = conv_ops.Geometry(
        (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    features, kernels, moves, factors = conv_ops.deform_conv2d_gradients(
        grad_output,
        input,
        _from_start(offset, grad_output.shape[2:]),
        weight,
        wanted=("features", "weight", "offset", "mask"),
        mask=_from_start(mask, grad_output.shape[2:]),
        geometry=geometry,
    )
    grad_input.add_(features)
    grad_weight.add_(kernels)
    for whole, start in ((grad_offset, moves), (grad_mask, factors)):
        left = whole.shape[1:].numel() - start.shape[1:].numel()
        whole.copy_(pad(start.flatten(1), (0, left)).view(whole.shape))
    if with_bias:
        grad_bias.add_(grad_output.sum((0, 2, 3)))


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    col.copy_(masked_im2col(im, mask_h_idx, mask_w_idx, kernel=(kernel_h, kernel_w), padding=(pad_h, pad_w)))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Writes the masked pixels of ``im``; mmcv passes its size once more."""
    masked_col2im(col, mask_h_idx, mask_w_idx, im)
