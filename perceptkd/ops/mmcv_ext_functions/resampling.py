"""mmcv's resampling of feature maps by learned positions or kernels: deformable RoI pooling and CARAFE."""

from torch import Tensor

from perceptkd.ops import deform_roi_pool as pool_ops
from perceptkd.ops.carafe import carafe, carafe_gradients


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """An empty ``offset`` stands for none."""
    pooling = pool_ops.Pooling((pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    output.copy_(pool_ops.deform_roi_pool(input, rois, offset if offset.numel() else None, pooling=pooling))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Adds to both gradients.

    Where a sample is clamped to the border of the map, mmcv's gradient by the offset is not the derivative of its
    forward (it goes on with the line through the two pixels); this one is.
    """
    pooling = pool_ops.Pooling((pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    moves = offset if offset.numel() else None
    features, gradient = pool_ops.deform_roi_pool_gradients(grad_output, input, rois, moves, pooling=pooling)
    grad_input.add_(features)
    if gradient is not None:
        grad_offset.add_(gradient)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    output.copy_(carafe(features, masks, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Adds to both gradients."""
    grad_features, grad_masks = carafe_gradients(
        top_grad, features, masks, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor
    )
    bottom_grad.add_(grad_features)
    mask_grad.add_(grad_masks)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Reshapes ``rfeatures`` to [N, H, W, C] and puts the features there, from where the backward takes them.

    mmcv's other buffers are not needed.
    """
    channels_last = features.permute(0, 2, 3, 1)
    rfeatures.resize_(channels_last.shape).copy_(channels_last)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Sets both gradients."""
    grad_features, grad_masks = carafe_gradients(
        top_grad,
        rfeatures.permute(0, 3, 1, 2),
        masks,
        kernel_size=kernel_size,
        group_size=group_size,
        scale_factor=scale_factor,
    )
    bottom_grad.copy_(grad_features)
    mask_grad.copy_(grad_masks)
