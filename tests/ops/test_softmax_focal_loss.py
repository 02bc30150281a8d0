"""Softmax focal loss against its formula, its gradient, and mmcv's module on top of it."""

import math

import pytest
import torch
from torch import Tensor

from perceptkd.ops.softmax_focal_loss import (
    focal_loss_of_softmax,
    focal_loss_of_softmax_gradient,
    softmax_focal_loss,
)


def loss_by_definition(logits: list[float], label: int, gamma: float, alpha: float, weight: list[float]) -> float:
    if label < 0:
        return 0.0
    p = math.exp(logits[label]) / sum(math.exp(logit) for logit in logits)
    return -weight[label] * alpha * (1 - p) ** gamma * math.log(p)


@pytest.fixture
def case(device: str) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.randn(7, 4, dtype=torch.float64) * 3
    target = torch.tensor([0, 3, 1, -1, 2, 2, 0])
    return logits.to(device), target.to(device), torch.rand(4, dtype=torch.float64).to(device)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_equals_the_formula(case: tuple, gamma: float) -> None:
    logits, target, weight = case
    expected = [
        loss_by_definition(row, label, gamma, 0.3, weight.tolist())
        for row, label in zip(logits.tolist(), target.tolist())
    ]
    options = {"gamma": gamma, "alpha": 0.3, "weight": weight}
    for found in (
        softmax_focal_loss(logits, target, **options),
        focal_loss_of_softmax(logits.softmax(1), target, **options),
    ):
        torch.testing.assert_close(found.cpu(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradient(case: tuple, gamma: float) -> None:
    logits, target, weight = case
    options = {"gamma": gamma, "alpha": 0.3, "weight": weight}
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda part: softmax_focal_loss(part, target, **options), logits)
    (expected,) = torch.autograd.grad(softmax_focal_loss(logits, target, **options).sum(), logits)
    slope, gradient = focal_loss_of_softmax_gradient(logits.detach().softmax(1), target, **options)
    torch.testing.assert_close(gradient, expected)
    assert slope[3] == 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_sure_predictions_stay_finite(device: str, gamma: float) -> None:
    """Probabilities of exactly 0 and 1, right and wrong."""
    logits = torch.tensor([[300.0, 0.0], [300.0, 0.0]], device=device, requires_grad=True)
    target = torch.tensor([0, 1], device=device)
    loss = softmax_focal_loss(logits, target, gamma=gamma, alpha=1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(loss, torch.tensor([0.0, 300.0], device=device))
    expected = torch.tensor([[0.0, 0.0], [1.0, -1.0]], device=device)
    torch.testing.assert_close(gradient, expected)
    _, found = focal_loss_of_softmax_gradient(logits.detach().softmax(1), target, gamma=gamma, alpha=1.0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_mmcv_module(device: str, reduction: str, weighted: bool) -> None:
    from mmcv.ops import SoftmaxFocalLoss

    logits = torch.randn(7, 3, device=device, requires_grad=True)
    target = torch.randint(0, 3, (7,), device=device)
    weight = torch.rand(3, device=device) if weighted else None
    loss = SoftmaxFocalLoss(2.0, 0.25, weight, reduction)(logits, target)
    ours = softmax_focal_loss(logits, target, weight=weight)
    expected = {"mean": ours.mean(), "sum": ours.sum()}[reduction]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(part * 3, logits)[0] for part in (loss, expected)))


def test_half_precision_empty_and_wrong_arguments(device: str) -> None:
    logits, target = torch.randn(5, 3, device=device).half(), torch.tensor([0, 1, 2, -1, 0], device=device)
    found = softmax_focal_loss(logits, target)
    torch.testing.assert_close(found, softmax_focal_loss(logits.float(), target).half())
    none, no_target = torch.zeros(0, 3, device=device, requires_grad=True), target[:0]
    loss = softmax_focal_loss(none, no_target)
    assert loss.shape == focal_loss_of_softmax(none, no_target, gamma=2.0, alpha=0.25).shape == (0,)
    assert torch.autograd.grad(loss.sum(), none)[0].shape == (0, 3)
    shapes = [part.shape for part in focal_loss_of_softmax_gradient(none, no_target, gamma=2.0, alpha=0.25)]
    assert shapes == [(0,), (0, 3)]
    with pytest.raises(ValueError, match=r"logits must be .* \[N, >=1\], got shape \(3,\) and dtype float32"):
        softmax_focal_loss(torch.zeros(3), torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"target must be a vector of 4 elements, got shape \(3,\)"):
        softmax_focal_loss(torch.zeros(4, 3), torch.zeros(3).long())
    with pytest.raises(ValueError, match="weight must be a vector of 3 elements"):
        softmax_focal_loss(torch.zeros(4, 3), torch.zeros(4).long(), weight=torch.zeros(2))
