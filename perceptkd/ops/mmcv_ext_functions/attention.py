"""mmcv's attention."""

from torch import Tensor

from perceptkd.ops import ms_deform_attn as attention_ops


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """``im2col_step`` is not needed: our own limit of memory decides how many samples are computed at once."""
    return attention_ops.ms_deform_attn(
        value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights
    )


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Adds to ``grad_value``, sets the other two."""
    values, locations, weights = attention_ops.ms_deform_attn_gradients(
        grad_output,
        value,
        value_spatial_shapes,
        value_level_start_index,
        sampling_locations,
        attention_weights,
    )
    grad_value.add_(values)
    grad_sampling_loc.copy_(locations)
    grad_attn_weight.copy_(weights)
