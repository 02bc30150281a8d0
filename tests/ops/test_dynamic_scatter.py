"""Dynamic scatter against a loop in float64, its gradient, and mmcv's layer on top of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops.dynamic_scatter import dynamic_scatter

REDUCTIONS = ("mean", "max", "sum")


def scatter_by_loop(points: Tensor, coordinates: Tensor, reduction: str) -> tuple[list, list]:
    members: dict[tuple, list[Tensor]] = {}
    for point, coordinate in zip(points, coordinates.tolist()):
        if min(coordinate) >= 0:
            members.setdefault(tuple(coordinate), []).append(point)
    features = []
    for voxel in sorted(members):
        stacked = torch.stack(members[voxel])
        features.append({"mean": stacked.mean(0), "sum": stacked.sum(0), "max": stacked.amax(0)}[reduction].tolist())
    return features, [list(voxel) for voxel in sorted(members)]


def random_points(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, dtype=torch.float64), torch.randint(-1, 4, (count, 3))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(count=st.integers(0, 60), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_equals_a_loop(device: str, reduction: str, count: int, seed: int) -> None:
    torch.manual_seed(seed)
    points, coordinates = random_points(count)
    features, voxels = dynamic_scatter(points.to(device), coordinates.to(device), reduction)
    expected_features, expected_voxels = scatter_by_loop(points, coordinates, reduction)
    assert voxels.tolist() == expected_voxels
    torch.testing.assert_close(features.cpu(), torch.tensor(expected_features, dtype=torch.float64).view(-1, 3))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient(device: str, reduction: str) -> None:
    points, coordinates = (part.to(device) for part in random_points(30))
    points.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: dynamic_scatter(p, coordinates, reduction)[0], points)


def test_gradient_of_tied_maxima_goes_to_the_first() -> None:
    points = torch.tensor([[1.0], [2.0], [2.0]], requires_grad=True)
    dynamic_scatter(points, torch.zeros(3, 2, dtype=torch.int64), "max")[0].sum().backward()
    assert points.grad.tolist() == [[0.0], [1.0], [0.0]]


def test_points_outside_get_no_gradient() -> None:
    points = torch.ones(3, 2, requires_grad=True)
    coordinates = torch.tensor([[0, 1], [-1, -1], [0, 1]])
    dynamic_scatter(points, coordinates, "sum")[0].sum().backward()
    assert points.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_points_have_gradients(device: str, reduction: str) -> None:
    points = torch.zeros(0, 3, device=device, requires_grad=True)
    features, voxels = dynamic_scatter(points, torch.zeros(0, 4, dtype=torch.int64, device=device), reduction)
    assert features.shape == (0, 3)
    assert voxels.shape == (0, 4)
    assert torch.autograd.grad(features.sum(), points)[0].shape == (0, 3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_sum_in_float32(device: str, dtype: torch.dtype, reduction: str) -> None:
    """The sum of 3000 values of about 100 is no float16, their mean is one."""
    points = (100 + torch.rand(3000, 2, device=device)).to(dtype).requires_grad_()
    coordinates = torch.zeros(3000, 3, dtype=torch.int64, device=device)
    features, _ = dynamic_scatter(points, coordinates, reduction)
    wide = points.detach().float().requires_grad_()
    expected, _ = dynamic_scatter(wide, coordinates, reduction)
    assert features.dtype == dtype
    torch.testing.assert_close(features, expected.to(dtype))
    (gradient,) = torch.autograd.grad(features.sum(), points)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), wide)[0].to(dtype))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_runs_repeat_exactly(device: str, reduction: str) -> None:
    """Thousands of float32 points in few voxels: sums in an order that varies would show."""
    points, coordinates = torch.randn(20_000, 8, device=device), torch.randint(0, 3, (20_000, 3), device=device)
    first, *others = (dynamic_scatter(points, coordinates, reduction)[0] for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


def test_order_of_points_does_not_matter() -> None:
    points, coordinates = random_points(200)
    shuffled = torch.randperm(200)
    for reduction in REDUCTIONS:
        found = dynamic_scatter(points[shuffled], coordinates[shuffled], reduction)
        for one, other in zip(found, dynamic_scatter(points, coordinates, reduction)):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("average", [True, False])
def test_mmcv_layer_with_batches(device: str, average: bool) -> None:
    """mmcv's DynamicScatter goes through both of our entry points, forward and backward."""
    from mmcv.ops import DynamicScatter

    layer = DynamicScatter([1, 1, 1], [0, 0, 0, 4, 4, 4], average)
    points = torch.randn(40, 3, device=device, requires_grad=True)
    batch = torch.arange(40) // 20
    coordinates = torch.cat((batch[:, None], torch.randint(0, 3, (40, 3))), dim=1).int().to(device)
    features, voxels = layer(points, coordinates)
    expected, expected_voxels = dynamic_scatter(points, coordinates, "mean" if average else "max")
    torch.testing.assert_close(features, expected)
    assert torch.equal(voxels, expected_voxels)
    weights = torch.randn_like(features)
    (gradient,) = torch.autograd.grad((features * weights).sum(), points)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), points)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize(
    ("points", "coordinates", "reduction", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 3).int(), "mean", r"points must be .* got shape \(3,\) and dtype float32"),
        (
            torch.zeros(3, 2),
            torch.zeros(2, 3).int(),
            "mean",
            r"integers \[3, D\], got shape \(2, 3\)",
        ),
        (torch.zeros(3, 2), torch.zeros(3, 3), "mean", "dtype float32"),
        (torch.zeros(3, 2), torch.zeros(3, 3).int(), "median", "one of mean, max, sum, got 'median'"),
    ],
)
def test_wrong_arguments_are_named(points: Tensor, coordinates: Tensor, reduction: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dynamic_scatter(points, coordinates, reduction)
