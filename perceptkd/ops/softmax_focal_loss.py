"""Focal loss of softmax probabilities by class index (Lin et al., Focal Loss for Dense Object Detection, 2017)."""

import torch
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_vector


def softmax_focal_loss(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float = 0.25, weight: Tensor | None = None
) -> Tensor:
    """Focal loss of each row, not reduced: ``-alpha (1 - p)^gamma log(p)``, p the probability of its class.

    Args:
        logits: [N, K].
        target: int64 [N], the class of each row; rows with a negative one have loss 0. Not checked otherwise: reading
            it would stall a GPU.
        gamma: focusing exponent.
        alpha: weight of all rows.
        weight: optional [K] factor by target class.

    Returns:
        [N] in the dtype of ``logits``. Differentiable by ``logits``.

    >>> softmax_focal_loss(torch.zeros(2, 4), torch.tensor([3, -1]), gamma=0.0, alpha=1.0)
    tensor([1.3863, 0.0000])
    """
    factor = _row_factors("logits", logits, target, alpha, weight)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_p = wide.log_softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0]
    return (-factor * _focus(-torch.expm1(log_p), gamma) * log_p).to(logits.dtype)


def focal_loss_of_softmax(
    softmax: Tensor, target: Tensor, *, gamma: float, alpha: float, weight: Tensor | None = None
) -> Tensor:
    """:func:`softmax_focal_loss` of probabilities [N, K]; one below the smallest normal number counts as that."""
    factor = _row_factors("softmax", softmax, target, alpha, weight)
    p = _target_probability(softmax, target)
    return (-factor * _focus(1 - p, gamma) * p.log()).to(softmax.dtype)


def focal_loss_of_softmax_gradient(
    softmax: Tensor, target: Tensor, *, gamma: float, alpha: float, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Derivative of each row's loss by log(p), [N], and by its logits, [N, K]; arguments as the loss of softmax."""
    factor = _row_factors("softmax", softmax, target, alpha, weight)
    p = _target_probability(softmax, target)
    rest = (1 - p).clamp(min=torch.finfo(p.dtype).tiny)
    slope = factor * (gamma * p * rest ** (gamma - 1) * p.log() - rest**gamma)
    is_class = target[:, None] == torch.arange(softmax.shape[1], device=softmax.device)
    gradient = slope[:, None] * (is_class.to(slope.dtype) - softmax)
    return slope.to(softmax.dtype), gradient.to(softmax.dtype)


def _row_factors(name: str, scores: Tensor, target: Tensor, alpha: float, weight: Tensor | None) -> Tensor:
    """Alpha times class weight, [N] in float32 or better; 0 for negative targets."""
    check_rows(name, scores)
    check_vector("target", target, len(scores))
    factor = (target >= 0).to(torch.promote_types(scores.dtype, torch.float32)) * alpha
    if weight is not None:
        check_vector("weight", weight, scores.shape[1])
        factor = factor * weight[target.clamp(min=0)].to(factor.dtype)
    return factor


def _target_probability(softmax: Tensor, target: Tensor) -> Tensor:
    """Probability of each row's class, [N] in float32 or better, above 0."""
    p = softmax.to(torch.promote_types(softmax.dtype, torch.float32)).gather(1, target.clamp(min=0)[:, None])[:, 0]
    return p.clamp(min=torch.finfo(torch.float32).tiny)


def _focus(rest: Tensor, gamma: float) -> Tensor:
    """``(1 - p)^gamma`` with a finite derivative at p = 1."""
    return rest.clamp(min=torch.finfo(rest.dtype).tiny) ** gamma
