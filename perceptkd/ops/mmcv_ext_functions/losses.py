"""mmcv's losses."""

from torch import Tensor

from perceptkd.ops.focal_loss import sigmoid_focal_loss, sigmoid_focal_loss_gradient


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    output.copy_(sigmoid_focal_loss(input, target, gamma=gamma, alpha=alpha, weight=_weight_or_none(weight)))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    weights = _weight_or_none(weight)
    grad_input.copy_(sigmoid_focal_loss_gradient(input, target, gamma=gamma, alpha=alpha, weight=weights))


def _weight_or_none(weight: Tensor) -> Tensor | None:
    """mmcv passes an empty tensor for no class weights."""
    return weight if weight.numel() else None
