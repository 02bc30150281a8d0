"""Our layers on spconv's multiplication against the torch backend."""

import pytest
import torch
from torch import nn

from perceptkd.ops.sparse import SparseConv3d, SparseConvTranspose3d, SparseInverseConv3d, SparseTensor, SubMConv3d
from perceptkd.ops.sparse import spconv_backend as module
from perceptkd.ops.sparse.backend import VARIABLE
from perceptkd.optional import MissingDependencyError

pytest.importorskip("spconv.pytorch", reason="spconv is not installed")


def outcome(layers: list[nn.Module], tensor: SparseTensor) -> list[torch.Tensor]:
    """Output and gradients of the features and of all weights."""
    result = tensor
    for layer in layers:
        result = layer(result)
    cotangent = torch.linspace(-1, 1, result.features.numel()).view_as(result.features)
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    gradients = torch.autograd.grad(result.features, [tensor.features, *parameters], cotangent)
    return [result.features.detach(), *gradients]


@pytest.mark.parametrize(
    "build",
    [
        lambda: [SubMConv3d(3, 4, 3)],
        lambda: [SubMConv3d(3, 4, (1, 3, 5), bias=False)],
        lambda: [SparseConv3d(3, 4, 3, 2, 1)],
        lambda: [SparseConvTranspose3d(3, 4, 2, 2)],
        lambda: [SparseConv3d(3, 4, 3, 2, 1, indice_key="down"), SparseInverseConv3d(4, 2, 3, indice_key="down")],
    ],
)
def test_equals_the_torch_backend(build, make_tensor, monkeypatch) -> None:
    layers, tensor = build(), make_tensor(dtype=torch.float32, requires_grad=True)
    monkeypatch.setenv(VARIABLE, "torch")
    expected = outcome(layers, tensor)
    monkeypatch.setenv(VARIABLE, "spconv")
    torch.testing.assert_close(outcome(layers, tensor), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_threads_lose_no_sum(two_threads, monkeypatch) -> None:
    """spconv's own threads are off by a fifth on a cloud of this size."""
    torch.manual_seed(0)
    cells = torch.randperm(40**3)[:30000]
    coordinates = torch.stack((cells * 0, cells // 1600, cells // 40 % 40, cells % 40), dim=1).int()
    tensor = SparseTensor(torch.randn(len(cells), 64, requires_grad=True), coordinates, (40, 40, 40), 1)
    layer = SubMConv3d(64, 64, 3)
    monkeypatch.setenv(VARIABLE, "torch")
    expected = outcome([layer], tensor)
    monkeypatch.setenv(VARIABLE, "spconv")
    for _ in range(3):
        torch.testing.assert_close(outcome([layer], tensor), expected, rtol=1e-3, atol=1e-3)
    assert torch.get_num_threads() == 2


def test_no_sites_at_all(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "spconv")
    features = torch.ones(0, 3, requires_grad=True)
    layer = SubMConv3d(3, 4, 3)
    found = outcome([layer], SparseTensor(features, torch.zeros(0, 4).int(), (4, 4, 4), 1))
    assert [value.shape for value in found] == [(0, 4), (0, 3), layer.weight.shape, (4,)]
    assert not any(value.any() for value in found)


def test_types_that_spconv_has_not_are_refused(monkeypatch, make_tensor) -> None:
    monkeypatch.setenv(VARIABLE, "spconv")
    with pytest.raises(TypeError, match=r"spconv takes torch.float32 or torch.float64 on cpu, got torch.bfloat16; set"):
        SubMConv3d(3, 4, 3).bfloat16()(make_tensor(dtype=torch.bfloat16))


def test_a_missing_spconv_is_told(monkeypatch, make_tensor) -> None:
    monkeypatch.setenv(VARIABLE, "spconv")

    def missing(name: str, **options: str) -> None:
        raise MissingDependencyError(f"{name} is not installed: pip install {options['package']}")

    monkeypatch.setattr(module, "require", missing)
    with pytest.raises(MissingDependencyError, match="pip install spconv"):
        SubMConv3d(3, 4, 3)(make_tensor(dtype=torch.float32))
