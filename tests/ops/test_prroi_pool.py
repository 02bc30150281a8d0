"""Precise RoI pooling against numerical integration of the bilinear surface, its gradients, and mmcv's module."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from perceptkd.ops import prroi_pool as module
from perceptkd.ops.prroi_pool import prroi_pool

ROIS = torch.tensor(
    [
        [0, 0.3, 0.7, 4.2, 3.1],
        [1, 1.0, 1.0, 5.0, 4.0],  # edges on pixels
        [1, -2.5, -3.0, 9.0, 8.0],  # wider than the map
        [0, -9.0, -9.0, -4.0, -3.0],  # off the map
        [0, 1.2, 1.1, 1.5, 1.3],  # within a pixel
        [1, 2.0, 2.0, 2.0, 4.0],  # no width
        [0, 4.0, 1.0, 2.0, 3.0],
        [0, 4.6, 3.7, 5.6, 4.9],  # over the border
    ],
    dtype=torch.float64,
)


def tent_integral(start: float, stop: float, pixel: int) -> float:
    """Integral of max(0, 1 - |t - pixel|): Gauss-Legendre with one node is exact on each straight piece."""
    knots = sorted({min(max(knot, start), stop) for knot in (start, stop, pixel - 1, pixel, pixel + 1)})
    return sum((b - a) * max(0.0, 1 - abs((a + b) / 2 - pixel)) for a, b in pairwise(knots))


def pool_by_definition(features: Tensor, rois: Tensor, bins: tuple, scale: float) -> Tensor:
    maps = features.double().cpu().numpy()
    output = np.zeros((len(rois), maps.shape[1], *bins))
    for r, (image, *roi) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (value * scale for value in roi)
        height, width = max(y2 - y1, 0) / bins[0], max(x2 - x1, 0) / bins[1]
        if height * width == 0:
            continue
        for i, j in np.ndindex(*bins):
            rows = [tent_integral(y1 + i * height, y1 + (i + 1) * height, row) for row in range(maps.shape[2])]
            columns = [tent_integral(x1 + j * width, x1 + (j + 1) * width, c) for c in range(maps.shape[3])]
            output[r, :, i, j] = np.einsum("chw,h,w->c", maps[int(image)], rows, columns) / (height * width)
    return torch.from_numpy(output)


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_equals_the_integral(device: str, scale: float) -> None:
    features = torch.randn(2, 6, 5, 3, dtype=torch.float64).permute(0, 3, 2, 1)
    expected = pool_by_definition(features, ROIS, (2, 3), scale)
    found = prroi_pool(features.to(device), ROIS.to(device), output_size=(2, 3), spatial_scale=scale)
    torch.testing.assert_close(found.cpu(), expected)


def test_is_the_limit_of_dense_samples() -> None:
    """A second definition: the mean over 200 x 200 points of the surface inside the map."""
    from perceptkd.ops.roi_align import roi_align

    features = torch.randn(1, 2, 8, 9, dtype=torch.float64)
    roi = torch.tensor([[0, 1.3, 0.9, 6.2, 6.6]], dtype=torch.float64)
    shifted = roi + torch.tensor([0, 0.5, 0.5, 0.5, 0.5])  # RoIAlign's pixels have their centres at halves
    dense = roi_align(features, shifted, output_size=(2, 2), sampling_ratio=200)
    torch.testing.assert_close(prroi_pool(features, roi, output_size=(2, 2)), dense, atol=1e-4, rtol=1e-4)


def test_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    expected = prroi_pool(features, ROIS, output_size=(2, 2))
    monkeypatch.setattr(module, "PIXELS", 1)
    assert torch.equal(prroi_pool(features, ROIS, output_size=(2, 2)), expected)


def test_gradients_by_features_and_rois(device: str) -> None:
    """RoIs off the pixel grid and of some size, where the pooling is smooth."""
    features = torch.randn(2, 2, 5, 6, dtype=torch.float64, device=device, requires_grad=True)
    geometry = ROIS[[0, 2, 3, 4, 7]][:, 1:].to(device).requires_grad_()
    image = ROIS[[0, 2, 3, 4, 7]][:, :1].to(device)

    def pool(maps: Tensor, corners: Tensor) -> Tensor:
        rois = torch.cat((image, corners), dim=1)
        return prroi_pool(maps, rois, output_size=(2, 3), spatial_scale=0.9)

    assert torch.autograd.gradcheck(pool, (features, geometry))


def test_gradient_by_a_roi_on_the_pixel_grid_is_that_beside_it() -> None:
    """The pooling has a continuous derivative, also where an edge crosses a pixel."""
    features = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    gradients = []
    for shift in (-1e-7, 0.0, 1e-7):
        roi = torch.tensor([[0, 1.0, 1.0, 5.0, 4.0]], dtype=torch.float64) + shift * torch.tensor([0, 1, 1, 1, 1])
        roi.requires_grad_()
        pooled = prroi_pool(features, roi, output_size=(3, 2))
        gradients.append(torch.autograd.grad((pooled * pooled).sum(), roi)[0])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[2], gradients[1], atol=1e-5, rtol=1e-5)


def test_mmcv_module(device: str) -> None:
    from mmcv.ops import PrRoIPool

    maps = torch.randn(2, 4, 9, 11, device=device, requires_grad=True)
    rois = ROIS.float().to(device).requires_grad_()
    found = PrRoIPool((3, 2), 0.7)(maps, rois)
    expected = prroi_pool(maps, rois, output_size=(3, 2), spatial_scale=0.7)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    by_mmcv, by_autograd = (torch.autograd.grad(output, (maps, rois), upstream) for output in (found, expected))
    torch.testing.assert_close(by_mmcv, by_autograd)
    assert all(gradient.abs().sum() > 0 for gradient in by_mmcv)
    none = torch.zeros(0, 5, device=device, requires_grad=True)
    assert not torch.autograd.grad(PrRoIPool((3, 2), 0.7)(maps, none).sum(), maps)[0].any()
    assert not by_mmcv[1][:, 0].any()


def test_half_precision_none_and_wrong_arguments(device: str) -> None:
    maps = torch.randn(1, 3, 8, 8, device=device)
    roi = torch.tensor([[0.0, 1.3, 2.1, 6.2, 7.4]], device=device)
    coarse = prroi_pool(maps.half(), roi, output_size=(2, 2))
    torch.testing.assert_close(coarse, prroi_pool(maps.half().float(), roi, output_size=(2, 2)).half())
    maps.requires_grad_()
    none = roi[:0].clone().requires_grad_()
    pooled = prroi_pool(maps, none, output_size=(2, 2))
    assert pooled.shape == (0, 3, 2, 2)
    by_maps, by_rois = torch.autograd.grad(pooled.sum(), (maps, none))
    assert not by_maps.any()
    assert by_rois.shape == (0, 5)
    broken = torch.tensor([[0.0, 0, 0, math.inf, 2], [math.nan, 0, 0, 2, 2]], device=device, requires_grad=True)
    pooled = prroi_pool(maps, broken, output_size=(2, 2))
    assert not pooled.any()
    assert not torch.autograd.grad(pooled.sum(), broken)[0].any()
    with pytest.raises(ValueError, match=r"rois must be .* \[N, 5\], got shape \(1, 4\) and dtype float32"):
        prroi_pool(maps, roi[:, :4], output_size=(2, 2))
