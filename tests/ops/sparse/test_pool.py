"""Pools against dense pooling and against their definition."""

import pytest
import torch
import torch.nn.functional as F

from perceptkd.ops.sparse import (
    SparseAvgPool2d,
    SparseAvgPool3d,
    SparseGlobalAvgPool,
    SparseGlobalMaxPool,
    SparseMaxPool2d,
    SparseMaxPool3d,
    SparseTensor,
    SubMConv3d,
)

POOLS = [(2, None, 0, 1), (3, 2, 1, 1), (3, 1, 1, 1), (2, 1, 0, 2)]


@pytest.mark.parametrize(("kernel_size", "stride", "padding", "dilation"), POOLS)
@pytest.mark.parametrize(
    ("pool_type", "dense_pool", "shape"),
    [(SparseMaxPool2d, F.max_pool2d, (9, 8)), (SparseMaxPool3d, F.max_pool3d, (6, 7, 8))],
)
def test_max_pool_equals_dense_where_empty_is_minus_infinity(
    device, pool_type, dense_pool, shape, kernel_size, stride, padding, dilation, make_tensor, occupied_cells
) -> None:
    tensor = make_tensor(shape, requires_grad=True).to(device)
    output = pool_type(kernel_size, stride, padding, dilation)(tensor)
    filled = tensor.to_dense().masked_fill(occupied_cells(tensor) == 0, -torch.inf)
    dense = dense_pool(filled, kernel_size, stride, padding, dilation)
    expected = torch.where(dense.isinf(), 0, dense)
    assert torch.equal(output.to_dense(), expected)
    assert len(output) == int((~dense[:, 0].isinf()).sum())
    cotangent = torch.randn_like(expected)
    (ours,) = torch.autograd.grad((output.to_dense() * cotangent).sum(), tensor.features)
    (theirs,) = torch.autograd.grad((expected * cotangent).sum(), tensor.features)
    torch.testing.assert_close(ours, theirs)


def test_max_pool_splits_no_gradient_among_equals() -> None:
    coordinates = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1]]).int()
    features = torch.zeros(3, 1, requires_grad=True)
    SparseMaxPool2d(2)(SparseTensor(features, coordinates, (2, 2), 1)).features.sum().backward()
    assert features.grad.flatten().tolist() == [1, 0, 0]


def test_max_pool_passes_nan_on(make_tensor) -> None:
    tensor = make_tensor((4, 4))
    tensor.features[0] = torch.nan
    assert bool(SparseMaxPool2d(4)(tensor).features.isnan().any())


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(2, None, 0), (3, 2, 1)])
@pytest.mark.parametrize(
    ("pool_type", "dense_conv", "shape"),
    [(SparseAvgPool2d, F.conv2d, (9, 8)), (SparseAvgPool3d, F.conv3d, (6, 7, 8))],
)
def test_average_is_over_occupied_cells(
    device, pool_type, dense_conv, shape, kernel_size, stride, padding, make_tensor, occupied_cells
) -> None:
    tensor = make_tensor(shape, channels=1, requires_grad=True).to(device)
    output = pool_type(kernel_size, stride, padding)(tensor)
    ones = torch.ones(1, 1, *[kernel_size] * len(shape), dtype=torch.float64, device=device)
    options = {"stride": stride or kernel_size, "padding": padding}
    total = dense_conv(tensor.to_dense(), ones, **options)
    count = dense_conv(occupied_cells(tensor), ones, **options)
    expected = torch.where(count > 0, total / count.clamp(min=1), 0)
    torch.testing.assert_close(output.to_dense(), expected)
    cotangent = torch.randn_like(expected)
    (ours,) = torch.autograd.grad((output.to_dense() * cotangent).sum(), tensor.features)
    (theirs,) = torch.autograd.grad((expected * cotangent).sum(), tensor.features)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_average_keeps_the_type(dtype, make_tensor) -> None:
    assert SparseAvgPool3d(2)(make_tensor(dtype=dtype)).features.dtype == dtype


def test_global_pools_reduce_each_sample(make_tensor) -> None:
    tensor = make_tensor((3, 4, 5), 3, 2, empty=[1])
    maximum, mean = SparseGlobalMaxPool()(tensor), SparseGlobalAvgPool()(tensor)
    for sample in range(3):
        rows = tensor.features[tensor.coordinates[:, 0] == sample]
        if sample == 1:
            assert torch.equal(maximum[1], torch.zeros(2, dtype=torch.float64))
            assert torch.equal(mean[1], torch.zeros(2, dtype=torch.float64))
        else:
            torch.testing.assert_close(maximum[sample], rows.amax(0))
            torch.testing.assert_close(mean[sample], rows.mean(0))


def test_a_taken_key_is_refused(make_tensor) -> None:
    tensor = SubMConv3d(3, 3, 3, indice_key="key").double()(make_tensor())
    with pytest.raises(ValueError, match="'key' is taken"):
        SparseMaxPool3d(2, indice_key="key")(tensor)


def test_pools_of_an_empty_tensor_are_empty() -> None:
    empty = SparseTensor(torch.ones(0, 4), torch.zeros(0, 4).int(), (4, 4, 4), 2)
    assert len(SparseMaxPool3d(2)(empty)) == len(SparseAvgPool3d(2)(empty)) == 0
    assert torch.equal(SparseGlobalMaxPool()(empty), torch.zeros(2, 4))
