"""mmcv's losses."""

from torch import Tensor

from perceptkd.ops.focal_loss import sigmoid_focal_loss, sigmoid_focal_loss_gradient
from perceptkd.ops.softmax_focal_loss import focal_loss_of_softmax, focal_loss_of_softmax_gradient


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    output.copy_(sigmoid_focal_loss(input, target, gamma=gamma, alpha=alpha, weight=_weight_or_none(weight)))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    weights = _weight_or_none(weight)
    grad_input.copy_(sigmoid_focal_loss_gradient(input, target, gamma=gamma, alpha=alpha, weight=weights))


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """``input`` are probabilities: mmcv's wrapper takes the softmax."""
    output.copy_(focal_loss_of_softmax(input, target, gamma=gamma, alpha=alpha, weight=_weight_or_none(weight)))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fills ``buff`` [N] with the derivative by the log of the probability, ``grad_input`` with that by the logits."""
    weights = _weight_or_none(weight)
    slope, gradient = focal_loss_of_softmax_gradient(input, target, gamma=gamma, alpha=alpha, weight=weights)
    buff.copy_(slope)
    grad_input.copy_(gradient)


def _weight_or_none(weight: Tensor) -> Tensor | None:
    """mmcv passes an empty tensor for no class weights."""
    return weight if weight.numel() else None
