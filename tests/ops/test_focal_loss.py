"""Sigmoid focal loss against its formula, its gradient, and mmcv's module on top of it."""

import math

import pytest
import torch

from perceptkd.ops.focal_loss import sigmoid_focal_loss, sigmoid_focal_loss_gradient


def focal_by_definition(logit: float, is_positive: bool, gamma: float, alpha: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    p_t, alpha_t = (p, alpha) if is_positive else (1 - p, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * math.log(p_t)


def test_equals_the_formula(device: str) -> None:
    logits = torch.randn(6, 3, dtype=torch.float64) * 3
    target = torch.tensor([0, 1, 2, 3, 3, 0])
    expected = [
        [focal_by_definition(x, column == int(t), 2.0, 0.25) for column, x in enumerate(row)]
        for row, t in zip(logits.tolist(), target)
    ]
    found = sigmoid_focal_loss(logits.to(device), target.to(device))
    torch.testing.assert_close(found.cpu(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_gradient_is_autograds(device: str, gamma: float) -> None:
    logits = (torch.randn(8, 4, dtype=torch.float64, device=device) * 4).requires_grad_()
    target, weight = torch.randint(0, 5, (8,), device=device), torch.rand(4, dtype=torch.float64, device=device)
    options = {"gamma": gamma, "alpha": 0.3, "weight": weight}
    assert torch.autograd.gradcheck(lambda part: sigmoid_focal_loss(part, target, **options), logits)
    (expected,) = torch.autograd.grad(sigmoid_focal_loss(logits, target, **options).sum(), logits)
    found = sigmoid_focal_loss_gradient(logits, target, **options)
    torch.testing.assert_close(found, expected)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[-200.0, 200.0], [200.0, -200.0]])
    target = torch.tensor([0, 0])
    assert torch.isfinite(sigmoid_focal_loss(logits, target)).all()
    assert torch.isfinite(sigmoid_focal_loss_gradient(logits, target)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_compute_in_float32(device: str, dtype: torch.dtype) -> None:
    logits, target = (torch.randn(200, 5, device=device) * 4).to(dtype), torch.randint(0, 6, (200,), device=device)
    weight = torch.rand(5, device=device)
    for function in (sigmoid_focal_loss, sigmoid_focal_loss_gradient):
        found = function(logits, target, weight=weight)
        assert found.dtype == dtype
        torch.testing.assert_close(found, function(logits.float(), target, weight=weight).to(dtype))


def test_class_weight_applies_by_target_and_spares_background() -> None:
    logits, target = torch.zeros(2, 2), torch.tensor([1, 2])
    plain = sigmoid_focal_loss(logits, target)
    weighted = sigmoid_focal_loss(logits, target, weight=torch.tensor([5.0, 3.0]))
    torch.testing.assert_close(weighted, plain * torch.tensor([[3.0], [1.0]]))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_mmcv_module(device: str, reduction: str) -> None:
    from mmcv.ops import SigmoidFocalLoss

    logits = torch.randn(7, 3, device=device, requires_grad=True)
    target = torch.randint(0, 4, (7,), device=device)
    loss = SigmoidFocalLoss(2.0, 0.25, reduction=reduction)(logits, target)
    ours = sigmoid_focal_loss(logits, target)
    expected = {"none": ours, "mean": ours.sum() / 7, "sum": ours.sum()}[reduction]
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(gradient, expected_gradient)


def test_agrees_with_mmdets_own_form() -> None:
    """mmdet computes the same on CPU from one-hot targets."""
    import torch.nn.functional as F
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    logits, target = torch.randn(9, 4), torch.randint(0, 5, (9,))
    one_hot = F.one_hot(target, 5)[:, :4].float()
    expected = py_sigmoid_focal_loss(logits, one_hot, reduction="none")
    torch.testing.assert_close(sigmoid_focal_loss(logits, target), expected)


def test_empty_and_wrong_arguments() -> None:
    logits, target = torch.zeros(0, 3, requires_grad=True), torch.zeros(0).long()
    loss = sigmoid_focal_loss(logits, target)
    assert loss.shape == sigmoid_focal_loss_gradient(logits, target).shape == (0, 3)
    assert torch.autograd.grad(loss.sum(), logits)[0].shape == (0, 3)
    with pytest.raises(ValueError, match=r"target must be a vector of 4 elements, got shape \(4, 3\) and dtype int64"):
        sigmoid_focal_loss(torch.zeros(4, 3), torch.zeros(4, 3).long())
    with pytest.raises(ValueError, match=r"weight must be a vector of 3 elements"):
        sigmoid_focal_loss(torch.zeros(4, 3), torch.zeros(4).long(), weight=torch.zeros(2))
