"""The same layers on spconv's CPU wheel: values, gradients, weights, order of the output."""

from types import ModuleType

import pytest
import torch

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


def compare(ours, theirs, layers, references, inputs) -> None:
    """Outputs as dense maps, then all gradients."""
    cotangent = torch.randn_like(ours.to_dense())
    torch.testing.assert_close(ours.to_dense(), theirs.dense(), rtol=1e-4, atol=1e-5)
    (ours.to_dense() * cotangent).sum().backward()
    (theirs.dense() * cotangent).sum().backward()
    torch.testing.assert_close(inputs[0].features.grad, inputs[1].features.grad, rtol=1e-4, atol=1e-5)
    for layer, reference in zip(layers, references):
        for mine, other in zip(layer.parameters(), reference.parameters()):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)


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
    compare(layer(ours), reference(theirs), [layer], [reference], (ours, theirs))


def test_down_and_up(spconv, make_tensor) -> None:
    tensor = make_tensor((7, 9, 8), 2, 4, dtype=torch.float32)
    down, down_reference = twins(spconv, "SparseConv3d", 4, 6, 3, 2, 1, indice_key="down")
    up, up_reference = twins(spconv, "SparseInverseConv3d", 6, 4, 3, indice_key="down")
    ours, theirs = both(spconv, tensor)
    compare(up(down(ours)), up_reference(down_reference(theirs)), [down, up], [down_reference, up_reference],
            (ours, theirs))  # fmt: skip


def test_two_dimensions(spconv, make_tensor) -> None:
    tensor = make_tensor((9, 8), 2, 4, dtype=torch.float32)
    layer, reference = twins(spconv, "SubMConv2d", 4, 6, 3)
    ours, theirs = both(spconv, tensor)
    compare(layer(ours), reference(theirs), [layer], [reference], (ours, theirs))


def test_max_pool(spconv, make_tensor) -> None:
    """On features above zero only: on CPU, spconv starts every maximum at zero."""
    tensor = make_tensor((6, 8, 8), 2, 4, dtype=torch.float32)
    tensor = tensor.replace_feature(tensor.features.abs())
    ours, theirs = both(spconv, tensor)
    pooled, reference = sparse.SparseMaxPool3d(2, 2)(ours), spconv.SparseMaxPool3d(2, 2)(theirs)
    compare(pooled, reference, [], [], (ours, theirs))
