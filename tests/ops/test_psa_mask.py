"""PSA masks against a loop over positions and windows, their gradient, and mmcv's module on top of them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from perceptkd.ops import psa_mask as module
from perceptkd.ops.psa_mask import psa_mask

#: Odd, even, as large as the map may need, larger, a single weight.
MASKS = [(3, 5), (2, 4), (7, 5), (9, 11), (1, 1), (4, 3)]


def spread_by_definition(windows: Tensor, mask_size: tuple[int, int], mode: str) -> Tensor:
    source = windows.cpu().numpy()
    count, _, height, width = source.shape
    output = np.zeros((count, height * width, height, width))
    for n, h, w, i, j in np.ndindex(count, height, width, *mask_size):
        y, x = h + i - (mask_size[0] - 1) // 2, w + j - (mask_size[1] - 1) // 2
        if 0 <= y < height and 0 <= x < width:
            value = source[n, i * mask_size[1] + j, h, w]
            if mode == "collect":
                output[n, y * width + x, h, w] = value
            else:
                output[n, h * width + w, y, x] = value
    return torch.from_numpy(output)


@pytest.mark.parametrize("mask_size", MASKS)
@pytest.mark.parametrize("mode", ["collect", "distribute"])
def test_equals_a_loop(device: str, mode: str, mask_size: tuple[int, int]) -> None:
    windows = torch.randn(2, 4, 3, mask_size[0] * mask_size[1], dtype=torch.float64).permute(0, 3, 1, 2)
    found = psa_mask(windows.to(device), mask_size=mask_size, mode=mode)
    assert torch.equal(found.cpu(), spread_by_definition(windows, mask_size, mode))


@pytest.mark.parametrize("mode", ["collect", "distribute"])
def test_parts_give_the_same(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = torch.randn(2, 15, 4, 3)
    expected = psa_mask(windows, mask_size=(3, 5), mode=mode)
    monkeypatch.setattr(module, "_INDICES", 1)
    assert torch.equal(psa_mask(windows, mask_size=(3, 5), mode=mode), expected)


@pytest.mark.parametrize("mode", ["collect", "distribute"])
def test_gradient(device: str, mode: str) -> None:
    windows = torch.randn(2, 12, 4, 3, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda part: psa_mask(part, mask_size=(3, 4), mode=mode), windows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_moved_as_they_are(device: str, dtype: torch.dtype) -> None:
    windows = torch.randn(2, 15, 4, 3, device=device, dtype=dtype, requires_grad=True)
    spread = psa_mask(windows, mask_size=(3, 5), mode="collect")
    assert spread.dtype == dtype
    assert torch.equal(spread.float(), psa_mask(windows.float(), mask_size=(3, 5), mode="collect"))
    assert torch.autograd.grad(spread.sum(), windows)[0].dtype == dtype


@pytest.mark.parametrize("mask_size", MASKS)
@pytest.mark.parametrize("mode", ["collect", "distribute"])
def test_mmcv_module(device: str, mode: str, mask_size: tuple[int, int]) -> None:
    from mmcv.ops import PSAMask

    windows = torch.randn(2, mask_size[0] * mask_size[1], 4, 5, device=device, requires_grad=True)
    found = PSAMask(mode, mask_size)(windows)
    expected = psa_mask(windows, mask_size=mask_size, mode=mode)
    assert torch.equal(found, expected)
    upstream = torch.randn_like(found)
    by_mmcv, by_autograd = (torch.autograd.grad(output, windows, upstream)[0] for output in (found, expected))
    assert torch.equal(by_mmcv, by_autograd)
    assert by_mmcv.any()


def test_empty_and_wrong_arguments() -> None:
    windows = torch.zeros(0, 9, 4, 3, requires_grad=True)
    spread = psa_mask(windows, mask_size=(3, 3), mode="collect")
    assert spread.shape == (0, 12, 4, 3)
    assert torch.autograd.grad(spread.sum(), windows)[0].shape == windows.shape
    assert psa_mask(torch.zeros(2, 9, 0, 3), mask_size=(3, 3), mode="distribute").shape == (2, 0, 0, 3)
    with pytest.raises(ValueError, match=r"windows must be .* \[N, 9, H, W\], got shape \(1, 8, 4, 3\)"):
        psa_mask(torch.zeros(1, 8, 4, 3), mask_size=(3, 3), mode="collect")
    with pytest.raises(ValueError, match="mode must be 'collect' or 'distribute', got 'both'"):
        psa_mask(torch.zeros(1, 9, 4, 3), mask_size=(3, 3), mode="both")
