"""The folded edge convolution against the layer on written-out edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops.edge_conv import EDGES, edge_conv


def written_out(features: Tensor, weight: Tensor, centre: Tensor, neighbour: Tensor, edge: str) -> Tensor:
    """Both ends side by side, then the layer."""
    near, far = features[neighbour], features[centre]
    first = {"cat": near, "sub": far - near, "dgcnn": near - far}[edge]
    return torch.cat([first, far], dim=1) @ weight.T


@settings(max_examples=60, deadline=None)
@given(
    nodes=st.integers(1, 30),
    edges=st.integers(0, 60),
    channels=st.integers(1, 9),
    seed=st.integers(0, 1000),
    edge=st.sampled_from(EDGES),
)
def test_folded_equals_written_out(nodes: int, edges: int, channels: int, seed: int, edge: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((nodes, channels), (5, 2 * channels))
    ]
    ends = [torch.randint(0, nodes, (edges,), generator=generator) for _ in range(2)]
    found, expected = edge_conv(*inputs, *ends, edge=edge), written_out(*inputs, *ends, edge)
    assert found.shape == (edges, 5)
    assert torch.allclose(found, expected, atol=1e-12)
    towards = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((output * towards).sum(), inputs) for output in (found, expected)]
    assert all(torch.allclose(*pair, atol=1e-12) for pair in zip(*gradients))


@pytest.mark.parametrize("edge", EDGES)
def test_single_precision_is_as_exact_as_written_out(edge: str) -> None:
    features, weight = torch.randn(500, 64), torch.randn(32, 128) / 8
    ends = torch.randint(0, 500, (2, 4000))
    assert torch.allclose(edge_conv(features, weight, *ends, edge=edge), written_out(features, weight, *ends, edge),
                          atol=2e-5)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(3)}, r"features must be a floating point tensor \[M, C\]"),
        ({"weight": torch.zeros(4, 5)}, r"weight must be a floating point tensor \[C', 4\]"),
        ({"neighbour": torch.zeros(2)}, r"neighbour must be an integer tensor \[2\]"),
        ({"edge": "idendity"}, "edge must be one of"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    arguments = {
        "features": torch.zeros(3, 2), "weight": torch.zeros(4, 4), "centre": torch.tensor([0, 1]),
        "neighbour": torch.tensor([2, 1]), **change,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        edge_conv(**arguments)
