"""Interpolation from three neighbours against a loop, its gradients, and mmcv and mmdet3d on top."""

import pytest
import torch
from torch import Tensor

from perceptkd.ops.nearest import three_nn
from perceptkd.ops.three_interpolate import three_interpolate


def random_case(dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Some targets use one source more than once."""
    indices = torch.randint(0, 6, (2, 9, 3), dtype=torch.int32, device=device)
    return torch.rand(2, 4, 6, dtype=dtype, device=device), indices, torch.rand(2, 9, 3, dtype=dtype, device=device)


def test_equals_a_loop(device: str) -> None:
    features, indices, weights = random_case(torch.float64, device)
    expected = torch.zeros(2, 4, 9, dtype=torch.float64)
    for batch in range(2):
        for target in range(9):
            for k in range(3):
                source = int(indices[batch, target, k])
                expected[batch, :, target] += features[batch, :, source].cpu() * float(weights[batch, target, k])
    torch.testing.assert_close(three_interpolate(features, indices, weights).cpu(), expected)


def test_gradcheck(device: str) -> None:
    features, indices, weights = random_case(torch.float64, device)
    inputs = features.requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradcheck(lambda rows, factors: three_interpolate(rows, indices, factors), inputs)


def test_mmcv_function_and_its_backward(device: str) -> None:
    from mmcv.ops import three_interpolate as mmcv_three_interpolate

    features, indices, weights = random_case(torch.float32, device)
    features.requires_grad_()
    theirs, ours = mmcv_three_interpolate(features, indices, weights), three_interpolate(features, indices, weights)
    assert torch.equal(theirs, ours)
    factor = torch.rand_like(ours)
    (gradient,) = torch.autograd.grad((theirs * factor).sum(), features)
    (expected,) = torch.autograd.grad((ours * factor).sum(), features)
    torch.testing.assert_close(gradient, expected)


def test_a_field_that_is_constant_stays_so(device: str) -> None:
    """mmdet3d's PointFPModule, whose weights sum to 1; a single source is all that there is, three times."""
    from mmdet3d.models.layers import PointFPModule

    module = PointFPModule([4, 4]).to(device)
    module.mlps = torch.nn.Identity()
    targets = torch.rand(2, 20, 3, device=device)
    for sources in (1, 30):
        features = torch.full((2, 4, sources), 2.5, device=device)
        found = module(targets, torch.rand(2, sources, 3, device=device), None, features)
        torch.testing.assert_close(found, torch.full((2, 4, 20), 2.5, device=device))


def test_targets_on_sources_take_their_features(device: str) -> None:
    features, sources = torch.rand(2, 4, 12, device=device), torch.rand(2, 12, 3, device=device)
    distances2, indices = three_nn(sources, sources)
    weights = (distances2 == 0).float()
    torch.testing.assert_close(three_interpolate(features, indices, weights), features)


def test_half_types_empty_input_and_wrong_arguments() -> None:
    features, indices, weights = random_case(torch.float32, "cpu")
    found = three_interpolate(features.half(), indices, weights.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), three_interpolate(features, indices, weights), atol=4e-3, rtol=2e-3)
    assert three_interpolate(torch.zeros(0, 4, 6), indices[:0], weights[:0]).shape == (0, 4, 9)
    found = three_interpolate(features.requires_grad_(), indices[:, :0], weights[:, :0])
    assert found.shape == (2, 4, 0)
    assert not torch.autograd.grad(found.sum(), features)[0].any()
    with pytest.raises(ValueError, match=r"indices must be an integer tensor \[2, N, 3\], got shape \(2, 9, 2\)"):
        three_interpolate(features, indices[..., :2], weights)
    with pytest.raises(ValueError, match=r"weights must be .* \[2, 9, 3\], got shape \(2, 8, 3\) and dtype float32"):
        three_interpolate(features, indices, weights[:, :8])
