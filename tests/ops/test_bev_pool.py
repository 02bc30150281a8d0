"""BEV pooling against a loop, its gradients, and its behaviour in bf16."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops.bev_pool import bev_pool, sort_by_cell

CELLS = 6


def random_case(points: int, rows: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights, features = torch.rand(points, dtype=torch.float64), torch.randn(rows, 3, dtype=torch.float64)
    return weights, features, torch.randint(0, rows, (points,)), torch.randint(-2, CELLS, (points,))


def pool_by_loop(weights: Tensor, features: Tensor, feature_index: Tensor, cell_index: Tensor) -> Tensor:
    pooled = torch.zeros(CELLS, features.shape[1], dtype=torch.float64)
    for weight, row, cell in zip(weights.tolist(), feature_index.tolist(), cell_index.tolist()):
        if cell >= 0:
            pooled[cell] += weight * features[row]
    return pooled


@given(points=st.integers(0, 60), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_equals_a_loop(points: int, seed: int) -> None:
    torch.manual_seed(seed)
    case = random_case(points)
    torch.testing.assert_close(bev_pool(*case, CELLS), pool_by_loop(*case))


def test_one_order_serves_all_frames_of_a_rig() -> None:
    weights, features, feature_index, cell_index = random_case(50)
    order = sort_by_cell(cell_index, CELLS)
    for frame in range(2):
        case = weights + frame, features * (frame + 1), feature_index, cell_index
        assert torch.equal(bev_pool(*case, CELLS, order=order), bev_pool(*case, CELLS))


def test_an_order_of_another_rig_is_refused() -> None:
    weights, features, feature_index, cell_index = random_case(50)
    for order in (sort_by_cell(cell_index[:40], CELLS), sort_by_cell(cell_index, CELLS + 1)):
        with pytest.raises(ValueError, match=r"make one with sort_by_cell"):
            bev_pool(weights, features, feature_index, cell_index, CELLS, order=order)


def test_an_order_made_in_a_prediction_serves_a_training() -> None:
    weights, features, feature_index, cell_index = random_case(50)
    with torch.inference_mode():
        order = sort_by_cell(cell_index.clone(), CELLS)
    weights.requires_grad_()
    bev_pool(weights, features, feature_index, cell_index, CELLS, order=order).sum().backward()
    assert weights.grad.any()


def test_gradients_to_depth_and_features() -> None:
    weights, features, feature_index, cell_index = random_case(30)
    weights.requires_grad_()
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda w, f: bev_pool(w, f, feature_index, cell_index, CELLS), (weights, features))


def test_no_points_rows_or_cells() -> None:
    nowhere = torch.zeros(0, dtype=torch.int64)
    weights, features = torch.zeros(0, requires_grad=True), torch.ones(5, 3, requires_grad=True)
    pooled = bev_pool(weights, features, nowhere, nowhere, CELLS)
    assert pooled.tolist() == [[0.0] * 3] * CELLS
    by_weights, by_features = torch.autograd.grad(pooled.sum(), (weights, features))
    assert by_weights.shape == (0,)
    assert not by_features.any()
    assert bev_pool(weights, features[:0], nowhere, nowhere, CELLS).tolist() == [[0.0] * 3] * CELLS
    assert bev_pool(weights, features, nowhere, nowhere, 0).shape == (0, 3)


def test_points_outside_get_no_gradient() -> None:
    weights, features, feature_index, cell_index = random_case(30)
    weights.requires_grad_()
    bev_pool(weights, features, feature_index, cell_index, CELLS).sum().backward()
    assert (weights.grad[cell_index < 0] == 0).all()
    assert (weights.grad[cell_index >= 0] != 0).all()


def test_order_of_points_does_not_matter_and_runs_repeat_exactly() -> None:
    weights, features, feature_index, cell_index = random_case(500)
    pooled = bev_pool(weights, features, feature_index, cell_index, CELLS)
    assert torch.equal(pooled, bev_pool(weights, features, feature_index, cell_index, CELLS))
    shuffled = torch.randperm(500)
    again = bev_pool(weights[shuffled], features, feature_index[shuffled], cell_index[shuffled], CELLS)
    torch.testing.assert_close(again, pooled)


def test_bf16_sums_in_float32() -> None:
    """4096 times 1/16 is 256; a running bf16 sum would stop at 16, where 1/16 is half a step."""
    weights = torch.full((4096,), 1 / 16, dtype=torch.bfloat16, requires_grad=True)
    features = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    nowhere = torch.zeros(4096, dtype=torch.int64)
    pooled = bev_pool(weights, features, nowhere, nowhere, 1)
    assert pooled.dtype == torch.bfloat16
    assert pooled.item() == 256
    pooled.sum().backward()
    assert weights.grad.dtype == features.grad.dtype == torch.bfloat16
    assert features.grad.item() == 256


def test_wrong_arguments_are_named() -> None:
    weights, features, feature_index, cell_index = random_case(4)
    with pytest.raises(ValueError, match=r"feature_index must be a vector of 4 elements, got shape \(3,\)"):
        bev_pool(weights, features, feature_index[:3], cell_index, CELLS)
    with pytest.raises(ValueError, match=r"features must be .*, got shape \(15,\) and dtype float64"):
        bev_pool(weights, features.flatten(), feature_index, cell_index, CELLS)
    with pytest.raises(ValueError, match="holds cell 9, but there are 6 cells"):
        bev_pool(weights, features, feature_index, torch.tensor([0, 9, 1, 2]), CELLS)
    with pytest.raises(ValueError, match=r"cell_index must be a vector of 4 elements, got shape \(3,\)"):
        bev_pool(weights, features, feature_index, cell_index[:3], CELLS)


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    case, upstream = random_case(1000), torch.randn(CELLS, 3, dtype=torch.float64)
    results = []
    for device in ("cuda", "cpu"):
        weights, features, *indices = (part.to(device) for part in case)
        pooled = bev_pool(weights.requires_grad_(), features.requires_grad_(), *indices, CELLS)
        gradients = torch.autograd.grad(pooled, (weights, features), upstream.to(device))
        results.append([part.detach().cpu() for part in (pooled, *gradients)])
    torch.testing.assert_close(*results)
