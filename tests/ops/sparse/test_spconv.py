"""The same layers on spconv's CPU wheel: values, gradients, weights, order of the output."""

from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from perceptkd.ops import sparse
from perceptkd.ops.sparse import SparseTensor


def twins(spconv: ModuleType, name: str, *args, **kwargs):
    """One layer of ours and one of spconv with the same weights, moved through state_dict."""
    ours = getattr(sparse, name)(*args, **kwargs)
    theirs = getattr(spconv, name)(*args, **kwargs)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def both(spconv: ModuleType, tensor: SparseTensor):
    ours = tensor.replace_feature(tensor.features.detach().clone().requires_grad_())
    features = tensor.features.detach().clone().requires_grad_()
    return ours, spconv.SparseConvTensor(features, tensor.coordinates, tensor.spatial_shape, tensor.batch_size)


def outcome(dense: torch.Tensor, features: torch.Tensor, *layers: torch.nn.Module) -> list[torch.Tensor]:
    """A layer's output as a dense map, then the gradients of its input and of all weights."""
    cotangent = torch.randn(dense.shape, generator=torch.Generator().manual_seed(0))
    (dense * cotangent).sum().backward()
    return [dense, features.grad, *(weight.grad for layer in layers for weight in layer.parameters())]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SubMConv3d", {"kernel_size": 3}),
        ("SubMConv3d", {"kernel_size": 5}),
        ("SubMConv3d", {"kernel_size": 3, "dilation": 2}),
        ("SubMConv3d", {"kernel_size": 1}),
        ("SparseConv3d", {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("SparseConv3d", {"kernel_size": 3, "stride": 2, "padding": (0, 1, 1)}),
        ("SparseConv3d", {"kernel_size": (3, 1, 1), "stride": (2, 1, 1)}),
        ("SparseConv3d", {"kernel_size": 2, "stride": 2, "bias": False}),
        ("SparseConv3d", {"kernel_size": 1}),
        ("SparseConvTranspose3d", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ],
)
def test_one_layer(name, options, spconv, make_tensor) -> None:
    tensor = make_tensor((7, 9, 8), 2, 4, dtype=torch.float32)
    layer, reference = twins(spconv, name, 4, 6, **options)
    ours, theirs = both(spconv, tensor)
    found = outcome(layer(ours).to_dense(), ours.features, layer)
    expected = outcome(reference(theirs).dense(), theirs.features, reference)
    assert len(found) == (3 if options.get("bias") is False else 4)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_down_and_up(spconv, make_tensor) -> None:
    tensor = make_tensor((7, 9, 8), 2, 4, dtype=torch.float32)
    down, down_reference = twins(spconv, "SparseConv3d", 4, 6, 3, 2, 1, indice_key="down")
    up, up_reference = twins(spconv, "SparseInverseConv3d", 6, 4, 3, indice_key="down")
    ours, theirs = both(spconv, tensor)
    found = outcome(up(down(ours)).to_dense(), ours.features, down, up)
    expected = outcome(up_reference(down_reference(theirs)).dense(), theirs.features, down_reference, up_reference)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_two_dimensions(spconv, make_tensor) -> None:
    tensor = make_tensor((9, 8), 2, 4, dtype=torch.float32)
    layer, reference = twins(spconv, "SubMConv2d", 4, 6, 3)
    ours, theirs = both(spconv, tensor)
    found = outcome(layer(ours).to_dense(), ours.features, layer)
    expected = outcome(reference(theirs).dense(), theirs.features, reference)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_max_pool(spconv, make_tensor) -> None:
    """On features above zero only: on CPU, spconv starts every maximum at zero."""
    tensor = make_tensor((6, 8, 8), 2, 4, dtype=torch.float32)
    tensor = tensor.replace_feature(tensor.features.abs())
    ours, theirs = both(spconv, tensor)
    pooled, reference = sparse.SparseMaxPool3d(2, 2)(ours), spconv.SparseMaxPool3d(2, 2)(theirs)
    found, expected = outcome(pooled.to_dense(), ours.features), outcome(reference.dense(), theirs.features)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
