"""Rotated RoIAlign against a loop over bins and samples, its gradient, and mmcv's module on top of it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from perceptkd.ops import roi_align_rotated as module
from perceptkd.ops.roi_align import roi_align
from perceptkd.ops.roi_align_rotated import roi_align_rotated

ROIS = torch.tensor(
    [
        [0, 2.3, 1.7, 4.2, 3.1, 0.4],
        [1, 3.0, 2.5, 4.0, 2.0, -2.1],
        [1, 3.0, 2.5, 6.0, 5.0, 0.0],
        [0, -9.0, -9.0, 3.0, 2.0, 1.0],  # off the map
        [0, 0.0, 0.0, 2.0, 2.0, math.pi / 4],
        [0, 3.0, 2.0, 20.0, 14.0, 0.7],  # wider than the map
        [1, 2.0, 2.0, 0.0, 2.0, 1.0],  # no size
        [1, 6.0, 5.0, 1.0, 1.5, 8.0],
    ],
    dtype=torch.float64,
)


def sample(plane: np.ndarray, y: float, x: float) -> float:
    """Bilinear value by definition; a point up to a pixel outside is moved onto the border."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    return sum(
        max(0.0, 1 - abs(y - r)) * max(0.0, 1 - abs(x - c)) * plane[r, c] for r in range(height) for c in range(width)
    )


def samples_of_bin(
    roi: list[float], bin_: tuple, bins: tuple, scale: float, ratio: int, aligned: bool, clockwise: bool
) -> list[complex]:
    """Samples of a bin as x + iy: turning clockwise to the eye is turning by a positive angle, as y points down."""
    x, y, width, height = (value * scale for value in roi[:4])
    if aligned:
        x, y = x - 0.5, y - 0.5
    else:
        width, height = max(width, 1), max(height, 1)
    step_y, step_x = height / bins[0], width / bins[1]
    count_y, count_x = (ratio, ratio) if ratio > 0 else (math.ceil(step_y), math.ceil(step_x))
    turn = complex(math.cos(roi[4]), math.sin(roi[4]) if clockwise else -math.sin(roi[4]))
    return [
        complex(x, y)
        + turn
        * complex(
            -width / 2 + (bin_[1] + (j + 0.5) / count_x) * step_x,
            -height / 2 + (bin_[0] + (i + 0.5) / count_y) * step_y,
        )
        for i in range(count_y)
        for j in range(count_x)
    ]


def pool_by_definition(features: Tensor, rois: Tensor, bins: tuple, **options) -> Tensor:
    maps = features.double().cpu().numpy()
    output = np.zeros((len(rois), maps.shape[1], *bins))
    for r, (image, *roi) in enumerate(rois.tolist()):
        for index in np.ndindex(maps.shape[1], *bins):
            points = samples_of_bin(roi, index[1:], bins, **options)
            values = [sample(maps[int(image), index[0]], point.imag, point.real) for point in points]
            output[(r, *index)] = sum(values) / max(len(values), 1)
    return torch.from_numpy(output)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_equals_a_loop(device: str, ratio: int, clockwise: bool, aligned: bool) -> None:
    features = torch.randn(2, 6, 5, 2, dtype=torch.float64).permute(0, 3, 2, 1)
    options = {"aligned": aligned, "clockwise": clockwise}
    expected = pool_by_definition(features, ROIS, (2, 3), scale=1.0, ratio=ratio, **options)
    found = roi_align_rotated(features.to(device), ROIS.to(device), output_size=(2, 3), sampling_ratio=ratio, **options)
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("ratio", [0, 3])
def test_unturned_is_roi_align(ratio: int) -> None:
    features = torch.randn(2, 3, 12, 15)
    centre, size = torch.rand(20, 2) * 12, torch.rand(20, 2) * 9
    image = torch.randint(0, 2, (20, 1)).float()
    rotated = torch.cat((image, centre, size, torch.zeros(20, 1)), dim=1)
    straight = torch.cat((image, centre - size / 2, centre + size / 2), dim=1)
    options = {"output_size": (3, 4), "spatial_scale": 0.8, "sampling_ratio": ratio}
    torch.testing.assert_close(
        roi_align_rotated(features, rotated, **options), roi_align(features, straight, **options), atol=1e-4, rtol=1e-4
    )


def test_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    expected = roi_align_rotated(features, ROIS, output_size=(2, 2))
    monkeypatch.setattr(module, "PIXELS", 1)
    assert torch.equal(roi_align_rotated(features, ROIS, output_size=(2, 2)), expected)


@pytest.mark.parametrize("ratio", [0, 2])
def test_gradient(device: str, ratio: int) -> None:
    def pool(maps: Tensor) -> Tensor:
        return roi_align_rotated(maps, ROIS.to(device), output_size=(2, 2), sampling_ratio=ratio)

    features = torch.randn(2, 2, 5, 6, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(pool, features)


@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("aligned", [True, False])
def test_mmcv_module(device: str, aligned: bool, clockwise: bool) -> None:
    from mmcv.ops import RoIAlignRotated

    maps = torch.randn(2, 4, 9, 11, device=device, requires_grad=True)
    rois = ROIS.float().to(device)
    found = RoIAlignRotated((3, 2), 0.7, 2, aligned, clockwise)(maps, rois)
    expected = roi_align_rotated(
        maps, rois, output_size=(3, 2), spatial_scale=0.7, sampling_ratio=2, aligned=aligned, clockwise=clockwise
    )
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    gradients = [torch.autograd.grad(output, maps, upstream)[0] for output in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0
    none = RoIAlignRotated((3, 2), 0.7, 2, aligned, clockwise)(maps, rois[:0])
    assert none.shape == (0, 4, 3, 2)
    assert not torch.autograd.grad(none.sum(), maps)[0].any()


def test_not_finite_rois_pool_to_0() -> None:
    rois = torch.tensor([[0, 1, 1, 2, 2, math.nan], [0, math.inf, 1, 2, 2, 0.0], [0, 1, 1, math.inf, 2, 0]])
    for ratio in (0, 2):
        assert not roi_align_rotated(torch.ones(1, 1, 4, 4), rois, output_size=(2, 2), sampling_ratio=ratio).any()


def test_half_precision_none_and_wrong_arguments(device: str) -> None:
    maps = torch.randn(1, 3, 8, 8, device=device)
    roi = torch.tensor([[0, 4.3, 3.7, 5.1, 4.9, 0.3]], device=device)
    coarse = roi_align_rotated(maps.half(), roi, output_size=(2, 2))
    torch.testing.assert_close(coarse, roi_align_rotated(maps.half().float(), roi, output_size=(2, 2)).half())
    maps.requires_grad_()
    pooled = roi_align_rotated(maps, roi[:0], output_size=(2, 2))
    assert pooled.shape == (0, 3, 2, 2)
    assert not torch.autograd.grad(pooled.sum(), maps)[0].any()
    with pytest.raises(ValueError, match=r"rois must be .* \[N, 6\], got shape \(1, 5\) and dtype float32"):
        roi_align_rotated(maps, roi[:, :5], output_size=(2, 2))
