"""RoIAlign against a loop over bins and samples, its gradients, and mmcv's module on top of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import roi_align as module
from perceptkd.ops.roi_align import roi_align

ROIS = torch.tensor(
    [
        [0, 0.3, 0.7, 4.2, 3.1],
        [1, 1.0, 1.0, 5.0, 4.0],
        [1, 0.0, 0.0, 6.0, 5.0],
        [0, -9.0, -9.0, -4.0, -3.0],  # off the map
        [1, 20.0, 1.0, 30.0, 4.0],
        [0, -0.5, -0.5, 0.5, 0.5],  # samples on the limit of one pixel outside, where aligned is False
        [0, -3.0, -2.0, 9.0, 8.0],  # wider than the map
        [1, 2.0, 2.0, 2.0, 2.0],  # no size
        [0, 2.5, 1.0, 2.5, 4.0],
        [0, 5.9, 4.9, 6.4, 5.6],  # past the lower right corner
        [1, 0.0, 0.0, 1.0, 1.0],
        [1, 0.0, 0.0, 1.0, 1.0],
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


def samples_of_bin(roi: list[float], bin_: tuple, bins: tuple, scale: float, ratio: int, aligned: bool) -> list:
    """Rows and columns of a bin's samples, in mmcv's order."""
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (value * scale - shift for value in roi)
    height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
    step_y, step_x = height / bins[0], width / bins[1]
    count_y, count_x = (ratio, ratio) if ratio > 0 else (math.ceil(step_y), math.ceil(step_x))
    rows = [y1 + bin_[0] * step_y + (i + 0.5) * step_y / count_y for i in range(count_y)]
    columns = [x1 + bin_[1] * step_x + (j + 0.5) * step_x / count_x for j in range(count_x)]
    return [(y, x) for y in rows for x in columns]


def roi_align_by_definition(features: Tensor, rois: Tensor, bins: tuple, mode: str, **options) -> Tensor:
    maps = features.double().cpu().numpy()
    output = np.zeros((len(rois), maps.shape[1], *bins))
    for r, (image, *roi) in enumerate(rois.tolist()):
        for index in np.ndindex(maps.shape[1], *bins):
            points = samples_of_bin(roi, index[1:], bins, **options)
            values = [sample(maps[int(image), index[0]], *point) for point in points]
            if values:
                output[(r, *index)] = max(values) if mode == "max" else sum(values) / len(values)
    return torch.from_numpy(output)


@pytest.fixture
def features() -> Tensor:
    """Not contiguous."""
    return torch.randn(2, 6, 5, 3, dtype=torch.float64).permute(0, 3, 2, 1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_equals_a_loop(device: str, features: Tensor, mode: str, ratio: int, aligned: bool) -> None:
    options = {"ratio": ratio, "aligned": aligned, "scale": 1.0}
    expected = roi_align_by_definition(features, ROIS, (2, 3), mode, **options)
    arguments = {"output_size": (2, 3), "sampling_ratio": ratio, "aligned": aligned, "mode": mode}
    found = roi_align(features.to(device), ROIS.to(device), **arguments)
    torch.testing.assert_close(found.cpu(), expected)
    assert found.is_contiguous()


boxes = st.tuples(
    st.integers(0, 1), st.floats(-8, 40), st.floats(-8, 40), st.floats(0, 50, width=32), st.floats(0, 50, width=32)
)


@given(
    rois=st.lists(boxes, max_size=5),
    ratio=st.integers(0, 2),
    aligned=st.booleans(),
    mode=st.sampled_from(("avg", "max")),
)
@settings(max_examples=25, deadline=None)
def test_any_rois(rois: list[tuple], ratio: int, aligned: bool, mode: str) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    table = torch.tensor([(i, x, y, x + w, y + h) for i, x, y, w, h in rois], dtype=torch.float64).view(-1, 5)
    options = {"ratio": ratio, "aligned": aligned, "scale": 0.25}
    expected = roi_align_by_definition(maps, table, (2, 2), mode, **options)
    found = roi_align(
        maps, table, output_size=(2, 2), spatial_scale=0.25, sampling_ratio=ratio, aligned=aligned, mode=mode
    )
    torch.testing.assert_close(found, expected)


def test_parts_give_the_same(features: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the parts are that RoIs are computed in."""
    whole = [roi_align(features, ROIS, output_size=(2, 2), mode=mode) for mode in ("avg", "max")]
    monkeypatch.setattr(module, "PIXELS", 1)
    monkeypatch.setattr(module, "VALUES", 1)
    for mode, expected in zip(("avg", "max"), whole):
        assert torch.equal(roi_align(features, ROIS, output_size=(2, 2), mode=mode), expected)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradient(device: str, features: Tensor, mode: str, ratio: int) -> None:
    def pool(maps: Tensor) -> Tensor:
        return roi_align(maps, ROIS.to(device), output_size=(2, 2), sampling_ratio=ratio, mode=mode)

    assert torch.autograd.gradcheck(pool, features.to(device).requires_grad_())


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_mmcv_module(device: str, mode: str, ratio: int, aligned: bool) -> None:
    from mmcv.ops import RoIAlign

    maps = torch.randn(2, 4, 9, 11, device=device, requires_grad=True)
    rois = ROIS.float().to(device) * torch.tensor([1, 2, 2, 2, 2], device=device)
    found = RoIAlign((3, 2), 0.7, ratio, mode, aligned)(maps, rois)
    expected = roi_align(
        maps, rois, output_size=(3, 2), spatial_scale=0.7, sampling_ratio=ratio, mode=mode, aligned=aligned
    )
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    gradients = [torch.autograd.grad(output, maps, upstream)[0] for output in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


def test_largest_sample_is_the_first_of_equals(device: str) -> None:
    """On a flat map every sample is the largest."""
    roi = torch.tensor([[0.0, 0, 0, 4, 4]], device=device)
    alignment = module.Alignment((1, 1), 1.0, 2, False)
    values, y, x = module.roi_align_max(torch.ones(1, 1, 6, 6, device=device), roi, alignment)
    assert (float(values), float(y), float(x)) == (1, 1, 1)


def test_bins_without_samples_are_0_and_get_no_gradient() -> None:
    maps = torch.ones(1, 1, 4, 4, requires_grad=True)
    rois = torch.tensor([[0.0, 1, 1, 1, 3], [0, math.nan, 0, 2, 2], [0, 0, 0, math.inf, 2], [math.nan, 0, 0, 2, 2]])
    for mode in ("avg", "max"):
        pooled = roi_align(maps, rois, output_size=(2, 2), mode=mode)
        (gradient,) = torch.autograd.grad(pooled.sum(), maps)
        assert not pooled.any()
        assert not gradient.any()
    assert not roi_align(maps, rois[1:], output_size=(2, 2), sampling_ratio=2).any()


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(device: str, mode: str, dtype: torch.dtype) -> None:
    """Coordinates and sums are float32: only the features are coarse."""
    maps = torch.randn(1, 3, 8, 8, device=device).to(dtype).requires_grad_()
    rois = torch.tensor([[0, 1.3, 0.7, 6.1, 7.9]], device=device)
    found = roi_align(maps, rois, output_size=(2, 2), mode=mode)
    exact = roi_align(maps.float(), rois, output_size=(2, 2), mode=mode)
    torch.testing.assert_close(found, exact.to(dtype))
    assert torch.autograd.grad(found.sum(), maps)[0].dtype == dtype


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_no_rois(device: str, mode: str, ratio: int) -> None:
    from mmcv.ops import RoIAlign

    maps = torch.randn(1, 4, 6, 6, device=device, requires_grad=True)
    none = torch.zeros(0, 5, device=device)
    for pooled in (
        roi_align(maps, none, output_size=(2, 3), mode=mode, sampling_ratio=ratio),
        RoIAlign((2, 3), 1.0, ratio, mode)(maps, none),
    ):
        assert pooled.shape == (0, 4, 2, 3)
        assert not torch.autograd.grad(pooled.sum(), maps)[0].any()


def test_wrong_arguments_are_named() -> None:
    maps, rois = torch.zeros(1, 2, 4, 4), torch.zeros(3, 5)
    with pytest.raises(ValueError, match=r"features must be .* \[N, C, H, W\], got shape \(2, 4, 4\)"):
        roi_align(maps[0], rois, output_size=(2, 2))
    with pytest.raises(ValueError, match=r"rois must be .* \[N, 5\], got shape \(3, 4\) and dtype float32"):
        roi_align(maps, rois[:, :4], output_size=(2, 2))
    with pytest.raises(ValueError, match="mode must be 'avg' or 'max', got 'mean'"):
        roi_align(maps, rois, output_size=(2, 2), mode="mean")
    with pytest.raises(ValueError, match=r"output_size must be at least 1 by 1, got \(0, 2\)"):
        roi_align(maps, rois, output_size=(0, 2))
