"""Sigmoid focal loss by class index: forward and gradient (Lin et al., Focal Loss for Dense Object Detection, eq. 5).

mmdet calls it on CUDA only; on CPU it has its own form over one-hot targets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_vector


def sigmoid_focal_loss(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float = 0.25, weight: Tensor | None = None
) -> Tensor:
    """Focal loss of each logit, not reduced: ``-alpha_t (1 - p_t)^gamma log(p_t)``.

    Args:
        logits: [N, K].
        target: int64 [N], the class of each row; K for background. Not checked: reading it would stall a GPU.
        gamma: focusing exponent.
        alpha: weight of the positive class.
        weight: optional [K] factor by target class; background rows keep factor 1.

    Returns:
        [N, K] in the dtype of ``logits``, computed in float32 or better. Differentiable by ``logits``.

    >>> sigmoid_focal_loss(torch.zeros(1, 1), torch.tensor([0]), gamma=0.0, alpha=1.0)
    tensor([[0.6931]])
    """
    positive, factor = _targets(logits, target, alpha, weight)
    signed = torch.where(positive, logits, -logits).to(factor.dtype)
    return (-factor * torch.sigmoid(-signed) ** gamma * F.logsigmoid(signed)).to(logits.dtype)


def sigmoid_focal_loss_gradient(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float = 0.25, weight: Tensor | None = None
) -> Tensor:
    """Derivative of each element of :func:`sigmoid_focal_loss` by its logit, [N, K]."""
    positive, factor = _targets(logits, target, alpha, weight)
    sign = torch.where(positive, 1.0, -1.0).to(factor.dtype)
    p_t = torch.sigmoid(sign * logits)
    slope = gamma * p_t * F.logsigmoid(sign * logits) - torch.sigmoid(-sign * logits)
    return (factor * sign * (1 - p_t) ** gamma * slope).to(logits.dtype)


def _targets(logits: Tensor, target: Tensor, alpha: float, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Marks the logit of each row's class, bool [N, K], and the factor alpha_t times class weight, [N, K]."""
    check_rows("logits", logits)
    check_vector("target", target, len(logits))
    classes = logits.shape[1]
    positive = target[:, None] == torch.arange(classes, device=logits.device)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    factor = torch.where(positive, alpha, 1.0 - alpha).to(dtype)
    if weight is not None:
        check_vector("weight", weight, classes)
        factor = factor * torch.cat((weight, weight.new_ones(1)))[target][:, None].to(dtype)
    return positive, factor
