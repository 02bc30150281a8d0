"""RoIPool against a loop over the pixels of each bin, its gradient, and mmcv's module on top of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import roi_pool as module
from perceptkd.ops.roi_pool import roi_pool

ROIS = torch.tensor(
    [
        [0, 0, 0, 5, 4],
        [1, 1, 1, 3, 2],
        [1, 2, 2, 2, 2],  # one pixel
        [0, -9, -9, -4, -3],  # off the map
        [1, 7, 1, 12, 3],
        [0, -3, -2, 9, 8],  # wider than the map
        [0, 4, 3, 2, 3],  # no width
        [1, 4, 1, 3, 4],
        [0, 0.4, 1.6, 3.3, 3.9],
    ],
    dtype=torch.float64,
)


def pool_by_definition(features: Tensor, rois: Tensor, bins: tuple, scale: float) -> tuple[Tensor, Tensor]:
    maps = features.double().cpu().numpy()
    height, width = maps.shape[2:]
    values = np.zeros((len(rois), maps.shape[1], *bins))
    pixels = np.full(values.shape, -1)
    for r, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        left, top = x1 * scale, y1 * scale
        roi_width, roi_height = (x2 + 1) * scale - left, (y2 + 1) * scale - top
        if roi_width <= 0 or roi_height <= 0:
            continue
        for c, i, j in np.ndindex(maps.shape[1], *bins):
            first_row, last_row = top + i * (roi_height / bins[0]), top + (i + 1) * (roi_height / bins[0])
            first_column, last_column = left + j * (roi_width / bins[1]), left + (j + 1) * (roi_width / bins[1])
            for row in range(height):
                for column in range(width):
                    covers_row = math.floor(first_row) <= row < math.ceil(last_row)
                    covers_column = math.floor(first_column) <= column < math.ceil(last_column)
                    value = maps[int(image), c, row, column]
                    is_larger = pixels[r, c, i, j] < 0 or value > values[r, c, i, j]
                    if covers_row and covers_column and is_larger:
                        values[r, c, i, j], pixels[r, c, i, j] = value, row * width + column
    return torch.from_numpy(values), torch.from_numpy(pixels).int()


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_equals_a_loop(device: str, scale: float) -> None:
    """Small integers: bins have equal pixels, of which the first counts; negative ones are larger than nothing."""
    features = torch.randint(-4, 0, (2, 3, 6, 5)).double().transpose(2, 3)
    expected = pool_by_definition(features, ROIS, (2, 3), scale)
    found = roi_pool(features.to(device), ROIS.to(device), output_size=(2, 3), spatial_scale=scale)
    for part, expected_part in zip(found, expected):
        assert torch.equal(part.cpu(), expected_part)
    assert (expected[1] >= 0).any()
    assert (expected[1] < 0).any()


corner = st.integers(-10, 24)


@given(rois=st.lists(st.tuples(st.integers(0, 1), corner, corner, corner, corner), max_size=5), rows=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_any_rois(rois: list[tuple], rows: int) -> None:
    torch.manual_seed(0)
    features = torch.randint(0, 9, (2, 2, 5, 6)).double()
    table = torch.tensor(rois, dtype=torch.float64).view(-1, 5)
    expected = pool_by_definition(features, table, (rows, 2), 0.25)
    found = roi_pool(features, table, output_size=(rows, 2), spatial_scale=0.25)
    assert all(torch.equal(part, expected_part) for part, expected_part in zip(found, expected))


def test_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(2, 2, 5, 6)
    expected = roi_pool(features, ROIS, output_size=(2, 2))
    monkeypatch.setattr(module, "VALUES", 1)
    assert all(torch.equal(*parts) for parts in zip(roi_pool(features, ROIS, output_size=(2, 2)), expected))


def test_gradient(device: str) -> None:
    features = torch.randn(2, 2, 5, 6, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda maps: roi_pool(maps, ROIS.to(device), output_size=(2, 2))[0], features)


def test_mmcv_module(device: str) -> None:
    from mmcv.ops import RoIPool

    maps = torch.randn(2, 4, 9, 11, device=device, requires_grad=True)
    rois = ROIS.float().to(device) * torch.tensor([1, 2, 2, 2, 2], device=device)
    found = RoIPool((3, 2), 0.7)(maps, rois)
    expected = roi_pool(maps, rois, output_size=(3, 2), spatial_scale=0.7)[0]
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    gradients = [torch.autograd.grad(output, maps, upstream)[0] for output in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0
    none = RoIPool((3, 2), 0.7)(maps, rois[:0])
    assert none.shape == (0, 4, 3, 2)
    assert not torch.autograd.grad(none.sum(), maps)[0].any()


def test_half_precision_none_and_wrong_arguments(device: str) -> None:
    maps = torch.randn(1, 3, 8, 8, device=device)
    roi = torch.tensor([[0.0, 1, 2, 6, 7]], device=device)
    coarse = roi_pool(maps.half(), roi, output_size=(2, 2))[0]
    assert torch.equal(coarse, roi_pool(maps, roi, output_size=(2, 2))[0].half())
    maps.requires_grad_()
    values, pixels = roi_pool(maps, roi[:0], output_size=(2, 2))
    assert values.shape == pixels.shape == (0, 3, 2, 2)
    assert not torch.autograd.grad(values.sum(), maps)[0].any()
    values, pixels = roi_pool(maps, torch.full_like(roi, math.nan), output_size=(2, 2))
    assert not values.any()
    assert (pixels == -1).all()
    with pytest.raises(ValueError, match=r"rois must be .* \[N, 5\], got shape \(1, 4\) and dtype float32"):
        roi_pool(maps, roi[:, :4], output_size=(2, 2))


def test_bins_of_a_whole_number_of_pixels_in_float32(device: str) -> None:
    """21 pixels in 7 bins are 3 each; 21 times the rounded seventh is more, and would make every bin a row too long."""
    maps = torch.arange(21.0, device=device).view(1, 1, 21, 1).expand(1, 1, 21, 21).contiguous()
    rois = torch.tensor([[0.0, 0, 0, 20, 20]], device=device)
    pooled, _ = roi_pool(maps, rois, output_size=(7, 7))
    assert pooled[0, 0, :, 0].tolist() == [2, 5, 8, 11, 14, 17, 20]
