"""Gathering and grouping of features against loops, their gradients, and mmcv's modules on top."""

import pytest
import torch
from torch import Tensor

from perceptkd.ops.group_points import (
    gather_points,
    gather_points_gradient,
    group_points,
    group_points_gradient,
    stack_group_points,
    stack_group_points_gradient,
)

COUNTS = [4, 0, 3], [2, 1, 2]


def test_gather_equals_a_loop(device: str) -> None:
    features, indices = torch.rand(2, 3, 7, dtype=torch.float64), torch.randint(0, 7, (2, 9))
    expected = [
        [[row[k] for k in chosen] for row in cloud] for cloud, chosen in zip(features.tolist(), indices.tolist())
    ]
    found = gather_points(features.to(device), indices.to(device))
    assert found.tolist() == expected
    assert torch.equal(gather_points(features.to(device), indices.int().to(device)), found)


def test_group_equals_a_loop(device: str) -> None:
    features, indices = torch.rand(2, 3, 7, dtype=torch.float64), torch.randint(0, 7, (2, 5, 4), dtype=torch.int32)
    expected = [
        [[[row[k] for k in group] for group in groups] for row in cloud]
        for cloud, groups in zip(features.tolist(), indices.tolist())
    ]
    assert group_points(features.to(device), indices.to(device)).tolist() == expected


def stacked_case(dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three clouds of 4, 0 and 3 points; some indices lie outside of their own cloud, before, after and far after."""
    indices = torch.tensor([[0, 3, 3], [-1, 4, 2], [0, 0, 0], [2, 0, 3], [1, 100, 2]], dtype=torch.int32)
    counts = [torch.tensor(values, dtype=torch.int32, device=device) for values in COUNTS]
    return torch.rand(7, 2, dtype=dtype, device=device), counts[0], indices.to(device), counts[1]


def test_stacked_group_equals_a_loop(device: str) -> None:
    features, feature_counts, indices, index_counts = stacked_case(torch.float64, device)
    expected = []
    clouds, groups = features.cpu().split(COUNTS[0]), indices.cpu().split(COUNTS[1])
    for cloud, rows in zip(clouds, groups):
        for row in rows.tolist():
            expected.append([[float(cloud[k, c]) if 0 <= k < len(cloud) else 0.0 for k in row] for c in range(2)])
    assert stack_group_points(features, feature_counts, indices, index_counts).tolist() == expected


def test_gradcheck(device: str) -> None:
    features = torch.rand(2, 3, 5, dtype=torch.float64, device=device, requires_grad=True)
    indices = torch.randint(0, 5, (2, 4, 3), device=device)
    assert torch.autograd.gradcheck(lambda values: gather_points(values, indices[..., 0]), features)
    assert torch.autograd.gradcheck(lambda values: group_points(values, indices), features)
    stacked, *rest = stacked_case(torch.float64, device)
    assert torch.autograd.gradcheck(lambda values: stack_group_points(values, *rest), stacked.requires_grad_())


def test_gradients_are_autograds(device: str) -> None:
    features = torch.rand(2, 3, 5, dtype=torch.float64, device=device, requires_grad=True)
    indices = torch.randint(0, 5, (2, 4, 3), device=device)
    for function, gradient, chosen in (
        (gather_points, gather_points_gradient, indices[..., 0]),
        (group_points, group_points_gradient, indices),
    ):
        output = function(features, chosen)
        grad_output = torch.rand_like(output)
        (expected,) = torch.autograd.grad(output, features, grad_output)
        torch.testing.assert_close(gradient(grad_output, chosen, 5), expected)
    stacked, *rest = stacked_case(torch.float64, device)
    output = stack_group_points(stacked.requires_grad_(), *rest)
    grad_output = torch.rand_like(output)
    (expected,) = torch.autograd.grad(output, stacked, grad_output)
    torch.testing.assert_close(stack_group_points_gradient(grad_output, *rest, 7), expected)


def test_gradients_of_half_types_are_summed_in_float32(device: str) -> None:
    """float16 cannot count beyond 2048 by ones."""
    ones, nought = (
        torch.ones(1, 1, 4096, dtype=torch.float16, device=device),
        torch.zeros(1, 4096, device=device).long(),
    )
    assert gather_points_gradient(ones, nought, 2).tolist() == [[[4096.0, 0.0]]]
    count, rows = torch.tensor([2], device=device), torch.tensor([1], device=device)
    gradient = stack_group_points_gradient(ones, count, nought, rows, 2)
    assert gradient.dtype == torch.float16
    assert gradient.tolist() == [[4096.0], [0.0]]


def test_mmcv_functions_and_their_backward(device: str) -> None:
    from mmcv.ops import gather_points as mmcv_gather
    from mmcv.ops import grouping_operation

    features = torch.rand(2, 3, 20, device=device, requires_grad=True)
    indices = torch.randint(0, 20, (2, 6, 4), dtype=torch.int32, device=device)
    stacked, *rest = stacked_case(torch.float32, device)
    stacked.requires_grad_()
    cases = [
        (features, mmcv_gather(features, indices[..., 0].contiguous()), gather_points(features, indices[..., 0])),
        (features, grouping_operation(features, indices), group_points(features, indices)),
        (stacked, grouping_operation(stacked, rest[1], rest[0], rest[2]), stack_group_points(stacked, *rest)),
    ]
    for leaf, theirs, ours in cases:
        assert torch.equal(theirs, ours)
        weight = torch.rand_like(ours)
        (gradient,) = torch.autograd.grad((theirs * weight).sum(), leaf)
        (expected,) = torch.autograd.grad((ours * weight).sum(), leaf)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("max_radius", [0.4, None])
def test_mmcv_query_and_group(device: str, max_radius: float | None) -> None:
    """The offsets that QueryAndGroup returns are shorter than the radius, and lead to the points it grouped."""
    from mmcv.ops import QueryAndGroup

    cloud, features = torch.rand(2, 100, 3, device=device), torch.rand(2, 5, 100, device=device, requires_grad=True)
    centres = cloud[:, :10].contiguous()
    grouper = QueryAndGroup(max_radius, 8, return_grouped_xyz=True, return_grouped_idx=True)
    grouped, grouped_xyz, indices = grouper(cloud, centres, features)
    assert grouped.shape == (2, 8, 10, 8)
    assert torch.equal(grouped_xyz, group_points(cloud.transpose(1, 2), indices))
    assert torch.equal(grouped[:, 3:], group_points(features, indices))
    if max_radius is not None:
        assert (grouped[:, :3].norm(dim=1) < max_radius).all()
    grouped.sum().backward()
    uses = torch.stack([torch.bincount(row.flatten(), minlength=100) for row in indices])
    torch.testing.assert_close(features.grad, uses[:, None].expand(-1, 5, -1).float())


def test_empty_input() -> None:
    assert gather_points(torch.zeros(2, 3, 0), torch.zeros(2, 0).long()).shape == (2, 3, 0)
    features = torch.zeros(2, 3, 5, requires_grad=True)
    gathered = gather_points(features, torch.zeros(2, 0).long())
    assert gathered.shape == (2, 3, 0)
    assert not torch.autograd.grad(gathered.sum(), features)[0].any()
    assert not gather_points_gradient(torch.zeros(2, 3, 0), torch.zeros(2, 0).long(), 5).any()
    assert group_points(torch.zeros(0, 3, 5), torch.zeros(0, 4, 2).long()).shape == (0, 3, 4, 2)
    none = torch.zeros(0, dtype=torch.int32)
    assert stack_group_points(torch.zeros(0, 3), none, torch.zeros(0, 2).int(), none).shape == (0, 3, 2)
    counts = torch.tensor([0]), torch.tensor([2])
    assert not stack_group_points(torch.zeros(0, 3), counts[0], torch.zeros(2, 2).int(), counts[1]).any()


def test_wrong_arguments_are_named() -> None:
    features, indices = torch.zeros(2, 3, 5), torch.zeros(2, 4).long()
    with pytest.raises(ValueError, match=r"features must be .* \[B, C, N\], got shape \(3, 5\) and dtype float32"):
        gather_points(features[0], indices)
    with pytest.raises(
        ValueError, match=r"indices must be an integer tensor \[2, M\], got shape \(2, 4\) and dtype float"
    ):
        gather_points(features, indices.float())
    with pytest.raises(ValueError, match=r"indices must be an integer tensor \[2, M, K\], got shape \(2, 4\)"):
        group_points(features, indices)
    stacked, feature_counts, groups, index_counts = stacked_case(torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"sum to the 6 features and index_counts to the rows .* got 7 and 5"):
        stack_group_points(stacked[:6], feature_counts, groups, index_counts)
