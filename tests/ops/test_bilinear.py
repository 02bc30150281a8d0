"""Bilinear sampling as weighted sums of rows: what the corners weigh, and the sums with their gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceptkd.ops.bilinear import bilinear_corners, pixel_rows, scatter_weighted_rows, weighted_rows

SIZE = (3, 4)
coordinates = st.one_of(st.floats(-3, 6), st.integers(-3, 6).map(float))


def read(y: float, x: float, border: str) -> torch.Tensor:
    """Weight of every pixel [H, W]: 1 minus its distance to the point, along each axis, where positive."""
    if border == "edge":
        if not (-1 <= y <= SIZE[0] and -1 <= x <= SIZE[1]):
            return torch.zeros(SIZE, dtype=torch.float64)
        y, x = min(max(y, 0), SIZE[0] - 1), min(max(x, 0), SIZE[1] - 1)
    rows = (1 - (torch.arange(SIZE[0], dtype=torch.float64) - y).abs()).clamp(min=0)
    columns = (1 - (torch.arange(SIZE[1], dtype=torch.float64) - x).abs()).clamp(min=0)
    return rows[:, None] * columns


@given(y=coordinates, x=coordinates, border=st.sampled_from(["zeros", "edge"]))
@settings(max_examples=200, deadline=None)
def test_corners_weigh_what_the_tent_does(y: float, x: float, border: str) -> None:
    points = torch.tensor([y, x], dtype=torch.float64)
    indices, weights = bilinear_corners(points[0], points[1], *SIZE, border=border)
    found = torch.zeros(SIZE, dtype=torch.float64).view(-1).index_add(0, indices, weights)
    torch.testing.assert_close(found.view(SIZE), read(y, x, border))


@pytest.mark.parametrize("border", ["zeros", "edge"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_no_position_weighs_nothing_and_has_no_gradient(device: str, border: str, bad: float) -> None:
    y = torch.tensor([bad, 1.0], device=device, requires_grad=True)
    x = torch.tensor([1.0, bad], device=device, requires_grad=True)
    indices, weights = bilinear_corners(y, x, *SIZE, border=border)
    assert ((indices >= 0) & (indices < 12)).all()
    assert not weights.any()
    gradients = torch.autograd.grad(weights, (y, x), torch.randn_like(weights))
    assert not torch.stack(gradients).any()


@pytest.mark.parametrize(("y", "slope"), [(-0.5, 0.0), (0.0, 3.0), (1.0, 6.0), (2.0, 0.0), (2.5, 0.0)])
def test_edge_gradient_is_that_of_the_clamped_value(y: float, slope: float) -> None:
    point = torch.tensor([y], requires_grad=True)
    indices, weights = bilinear_corners(point, torch.zeros(1), 3, 1, border="edge")
    weighted_rows(torch.tensor([[2.0], [5.0], [11.0]]), indices, weights).sum().backward()
    assert point.grad.item() == slope


def test_pixel_rows_are_in_the_order_of_the_corners_indices() -> None:
    features = torch.randn(2, 5, *SIZE)
    rows = pixel_rows(features)
    assert torch.equal(rows[1 * 12 + 2 * 4 + 3], features[1, :, 2, 3])


@pytest.mark.parametrize(("bags", "uses", "channels"), [(5, 4, 3), (1, 1, 1), (0, 4, 3)])
def test_sums_and_gradients(device: str, bags: int, uses: int, channels: int) -> None:
    rows = torch.randn(6, channels, dtype=torch.float64, device=device, requires_grad=True)
    indices = torch.randint(6, (bags, uses), device=device)
    weights = torch.randn(bags, uses, dtype=torch.float64, device=device, requires_grad=True)
    found = weighted_rows(rows, indices, weights)
    torch.testing.assert_close(found, (weights[:, :, None] * rows[indices]).sum(1))
    assert torch.autograd.gradcheck(lambda r, w: weighted_rows(r, indices, w), (rows, weights))


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_alone_and_strided_tensors(device: str, wanted: int) -> None:
    tensors = [torch.randn(3, 6, device=device).T, torch.randn(4, 5, device=device).T]
    indices = torch.randint(6, (4, 5), device=device).T
    tensors[wanted].requires_grad_()
    expected = (tensors[1][:, :, None] * tensors[0][indices]).sum(1)
    found = weighted_rows(tensors[0], indices, tensors[1])
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(3, 5, device=device).T
    gradients = [torch.autograd.grad(output, tensors[wanted], upstream)[0] for output in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_summed_in_float32(device: str, dtype: torch.dtype) -> None:
    """4097 is none of either type's numbers, so that adding one by one would stop short."""
    rows = torch.ones(1, 2, device=device, dtype=dtype)
    found = weighted_rows(rows, torch.zeros(1, 8192, device=device).long(), torch.ones(1, 8192, device=device))
    assert found.dtype == dtype
    assert found.tolist() == [[8192.0, 8192.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scattered_gradients_add_up(device: str, dtype: torch.dtype) -> None:
    """Bag by bag they are the gradient by the rows; the bags here are strided and repeat their rows."""
    rows = torch.randn(6, 3, dtype=dtype, device=device, requires_grad=True)
    indices = torch.randint(0, 6, (5, 8), device=device).T
    weights = torch.randn(5, 8, dtype=dtype, device=device).T
    upstream = torch.randn(3, 8, dtype=dtype, device=device).T
    (expected,) = torch.autograd.grad(weighted_rows(rows, indices, weights), rows, upstream)
    found = torch.ones(6, 3, dtype=dtype, device=device)
    for some in (slice(0, 5), slice(5, 5), slice(5, 8)):
        scatter_weighted_rows(upstream[some], indices[some], weights[some], found)
    torch.testing.assert_close(found, expected + 1)
