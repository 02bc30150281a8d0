"""Sequences of sparse and dense modules."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from perceptkd.ops.sparse import (
    SparseConv3d,
    SparseConvTranspose3d,
    SparseInverseConv3d,
    SparseSequential,
    SparseTensor,
    SubMConv3d,
    ToDense,
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch):
    """Counts how often a batch norm or a ReLU runs, without touching a module."""
    ran = []
    for name in ("batch_norm", "relu"):
        function = getattr(torch.nn.functional, name)
        counted = lambda *args, function=function, **options: ran.append(1) or function(*args, **options)  # noqa: E731
        monkeypatch.setattr(torch.nn.functional, name, counted)
    return ran


def test_dense_modules_get_the_features(make_tensor) -> None:
    tensor = make_tensor(dtype=torch.float32)
    layers = SparseSequential(SubMConv3d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), ToDense(), nn.Flatten(1, 2))
    expected = torch.relu(layers[1](layers[0](tensor).features))
    result = layers(tensor)
    assert result.shape == (2, 20, 6, 7)
    torch.testing.assert_close(result.view(2, 4, 5, 6, 7), tensor.replace_feature(expected).to_dense())


def block(conv: nn.Module, norm: nn.Module | None = None) -> SparseSequential:
    """Convolution, norm with statistics as after a training, ReLU; in eval mode."""
    norm = nn.BatchNorm1d(4, eps=1e-3) if norm is None else norm
    for name, value in norm.named_parameters():
        value.data = torch.rand_like(value) + (name == "weight")
    norm.running_mean = torch.randn(4)
    norm.running_var = torch.rand(4) + 0.5
    return SparseSequential(conv, norm, nn.ReLU()).eval()


def one_by_one(layers: SparseSequential, tensor: SparseTensor) -> torch.Tensor:
    conv, norm, relu = layers
    return relu(norm(conv(tensor).features))


@pytest.mark.parametrize(
    "conv",
    [
        lambda: SubMConv3d(3, 4, 3),
        lambda: SubMConv3d(3, 4, 3, bias=False),
        lambda: SubMConv3d(3, 4, 1),
        lambda: SparseConv3d(3, 4, 3, 2, 1, bias=False),
        lambda: SparseConvTranspose3d(3, 4, 2, 2),
    ],
)
@pytest.mark.parametrize("norm", [lambda: None, lambda: nn.BatchNorm1d(4, affine=False)])
def test_norm_and_relu_run_as_part_of_the_convolution(make_tensor, conv, norm, calls) -> None:
    layers, tensor = block(conv(), norm()), make_tensor(dtype=torch.float32, requires_grad=True)
    expected = one_by_one(layers, tensor)
    wanted = torch.autograd.grad(expected.square().sum(), [tensor.features, *layers.parameters()])
    calls.clear()
    found = layers(tensor).features
    assert not calls
    gradients = torch.autograd.grad(found.square().sum(), [tensor.features, *layers.parameters()])
    torch.testing.assert_close([found, *gradients], [expected, *wanted], rtol=1e-4, atol=1e-5)


def test_an_inverse_convolution_folds_too(make_tensor) -> None:
    tensor = make_tensor(dtype=torch.float32)
    coarse = SparseConv3d(3, 3, 3, 2, 1, indice_key="down")(tensor)
    layers = block(SparseInverseConv3d(3, 4, 3, indice_key="down"))
    torch.testing.assert_close(layers(coarse).features, one_by_one(layers, coarse), rtol=1e-4, atol=1e-5)


def test_bfloat16_layers_fold_in_their_own_type(make_tensor) -> None:
    layers, tensor = block(SubMConv3d(3, 4, 3)), make_tensor(dtype=torch.float32)
    expected = layers(tensor).features
    layers[0].bfloat16()
    found = layers(tensor.to(torch.bfloat16)).features
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_hooks_see_what_they_are_put_on(make_tensor, index: int) -> None:
    """Taps of a teacher in eval mode; the features they keep must not be changed afterwards."""
    layers, tensor = block(SubMConv3d(3, 4, 3)), make_tensor(dtype=torch.float32)
    conv = layers[0](tensor).features
    expected = [conv, layers[1](conv), torch.relu(layers[1](conv))]
    seen = []
    layers[index].register_forward_hook(lambda module, args, output: seen.append(getattr(output, "features", output)))
    torch.testing.assert_close(layers(tensor).features, expected[2])
    torch.testing.assert_close(seen, [expected[index]])


def test_hooks_on_all_modules_see_them_all(make_tensor) -> None:
    layers, tensor, seen = block(SubMConv3d(3, 4, 3)), make_tensor(dtype=torch.float32), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module))
    try:
        layers(tensor)
    finally:
        handle.remove()
    assert seen == [*layers, layers]


class DoubledNorm(nn.BatchNorm1d):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(features)


def test_a_forward_of_ones_own_is_called(make_tensor) -> None:
    tensor = make_tensor(dtype=torch.float32)
    layers = block(SubMConv3d(3, 4, 3), DoubledNorm(4))
    torch.testing.assert_close(layers(tensor).features, one_by_one(layers, tensor))
    layers = block(SubMConv3d(3, 4, 3))
    layers[1].forward = lambda features: features + 1
    torch.testing.assert_close(layers(tensor).features, one_by_one(layers, tensor))


def test_a_module_that_comes_twice_runs_twice(make_tensor) -> None:
    tensor, relu = make_tensor(dtype=torch.float32), nn.ReLU()
    layers = SparseSequential(nn.Linear(3, 4), relu, nn.Linear(4, 4), relu)
    assert list(layers) == [layers[0], relu, layers[2], relu]
    torch.testing.assert_close(layers(tensor).features, relu(layers[2](relu(layers[0](tensor.features)))))


def test_training_does_not_fold(make_tensor, calls) -> None:
    layers, tensor = block(SubMConv3d(3, 4, 3)).train(), make_tensor(dtype=torch.float32)
    layers(tensor)
    assert len(calls) == 2


def test_names_as_in_torch() -> None:
    by_position = SparseSequential(nn.ReLU(), nn.ReLU())
    by_dict = SparseSequential(OrderedDict(first=nn.ReLU()), second=nn.ReLU())
    assert [name for name, _ in by_position.named_children()] == ["0", "1"]
    assert [name for name, _ in by_dict.named_children()] == ["first", "second"]
    by_dict.add(nn.ReLU())
    assert len(by_dict) == 3
    with pytest.raises(ValueError, match="named 'first' already"):
        by_dict.add(nn.ReLU(), "first")


def test_batch_norm_survives_an_empty_batch() -> None:
    """A frame without points must not put NaN into the running statistics, and must stay in the graph."""
    layers = SparseSequential(SubMConv3d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU())
    empty = SparseTensor(torch.ones(0, 3), torch.zeros(0, 4).int(), (4, 4, 4), 1)
    layers(empty).features.sum().backward()
    assert bool(layers[1].running_mean.isfinite().all())
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in layers.parameters())
