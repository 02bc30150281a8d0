"""Sparse convolution on Triton against the torch backend: every kind of layer, values and gradients."""

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")

from perceptkd.ops.sparse import (
    SparseConv3d,
    SparseConvTranspose2d,
    SparseInverseConv3d,
    SparseSequential,
    SparseTensor,
    SubMConv2d,
    SubMConv3d,
    triton_backend,
)
from perceptkd.ops.sparse.backend import VARIABLE


def random_cells(shape: tuple[int, ...], *, density: float) -> Tensor:
    """Occupied cells of two samples, in random order of rows."""
    cells = (torch.rand(2, *shape) < density).nonzero().int()
    return cells[torch.randperm(len(cells))]


LAYERS = {
    "submanifold": ((5, 6, 7), lambda: SubMConv3d(5, 20, 3)),
    "submanifold, dilated": ((9, 8), lambda: SubMConv2d(3, 40, 5, dilation=2)),
    "more cells than a key has bits": ((5, 6, 7), lambda: SubMConv3d(3, 4, 5)),
    "strided": ((6, 7, 8), lambda: SparseConv3d(17, 6, 3, stride=2, padding=1)),
    "transposed": ((7, 6), lambda: SparseConvTranspose2d(4, 5, 3, stride=2)),
    "down and up": (
        (6, 7, 8),
        lambda: SparseSequential(
            SparseConv3d(4, 6, 3, stride=2, indice_key="down"), SparseInverseConv3d(6, 3, 3, indice_key="down")
        ),
    ),
}


def run(
    layer: nn.Module, cells: Tensor, features: Tensor, shape: tuple[int, ...], backend: str, device: str
) -> list[Tensor]:
    """Output and gradients of the features and of every parameter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, backend)
        layer, inputs = layer.to(device), features.to(device).requires_grad_()
        output = layer(SparseTensor(inputs, cells.to(device), shape, 2)).features
        upstream = torch.linspace(-1, 1, output.numel(), device=device).view_as(output).to(output.dtype)
        gradients = torch.autograd.grad(output, [inputs, *layer.parameters()], upstream)
    return [output.detach().cpu(), *(gradient.cpu() for gradient in gradients)]


@pytest.mark.parametrize("is_sorted", [True, False], ids=["rows by pattern", "rows as they come"])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_torch_backend(kernel_device: str, name: str, is_sorted: bool, monkeypatch) -> None:
    monkeypatch.setattr(triton_backend, "SORTED_FROM_CHANNELS", 1 if is_sorted else 1000)
    shape, build = LAYERS[name]
    layer, cells = build(), random_cells(shape, density=0.4)
    channels = next(layer.parameters()).shape[-1] if name != "down and up" else 4
    features = torch.randn(len(cells), channels)
    found = run(layer, cells, features, shape, "triton", kernel_device)
    for mine, expected in zip(found, run(layer, cells, features, shape, "torch", "cpu"), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


def test_half_types_sum_in_float32_and_runs_repeat_exactly(kernel_device: str) -> None:
    """4096 products of 1/16 would stop growing at 128 in float16 steps of 1/8; in float32 their sum is exact."""
    layer = SubMConv3d(4096, 1, 1, bias=False).half()
    nn.init.constant_(layer.weight, 1 / 16)
    cells = torch.zeros(1, 4, dtype=torch.int32)
    found = run(layer, cells, torch.ones(1, 4096).half(), (2, 2, 2), "triton", kernel_device)
    assert found[0].item() == 256
    again = run(layer, cells, torch.ones(1, 4096).half(), (2, 2, 2), "triton", kernel_device)
    assert all(torch.equal(a, b) for a, b in zip(found, again))


def test_no_voxels(kernel_device: str) -> None:
    none = torch.zeros(0, 4, dtype=torch.int32)
    found = run(SubMConv3d(3, 4, 3), none, torch.zeros(0, 3), (4, 4, 4), "triton", kernel_device)
    assert found[0].shape == (0, 4)
    assert all((gradient == 0).all() for gradient in found[1:])
