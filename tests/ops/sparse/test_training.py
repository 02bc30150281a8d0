"""Sparse layers in the ways people train: activation checkpointing, torch.compile, autocast, several processes."""

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from perceptkd.engine.distributed import leave_processes
from perceptkd.ops.sparse import SparseConv3d, SparseInverseConv3d, SparseSequential, SparseTensor, SubMConv3d

RANKS = 2
COUNTS = (60, 0)


class Net(nn.Module):
    """Down and up again, with norm and activation."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = SparseSequential(SubMConv3d(3, 8, 3, indice_key="fine"), nn.BatchNorm1d(8), nn.ReLU())
        self.down = SparseSequential(SparseConv3d(8, 8, 3, 2, 1, indice_key="down"), nn.ReLU())
        self.up = SparseInverseConv3d(8, 4, 3, indice_key="down")

    def forward(self, tensor: SparseTensor) -> torch.Tensor:
        return self.up(self.down(self.entry(tensor))).features


class CheckpointedNet(Net):
    def forward(self, tensor: SparseTensor) -> torch.Tensor:
        middle = checkpoint(self.entry, tensor, use_reentrant=False)
        return self.up(checkpoint(self.down, middle, use_reentrant=False)).features


def seeded_net(kind: type[Net] = Net) -> Net:
    torch.manual_seed(0)
    return kind()


def sample(seed: int, *, count: int = 60) -> SparseTensor:
    """A tensor whose features take a gradient."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(8 * 8 * 8, generator=generator)[:count]
    coordinates = torch.stack((cells * 0, cells // 64, cells // 8 % 8, cells % 8), 1).int()
    features = torch.randn(count, 3, generator=generator)
    return SparseTensor(features.requires_grad_(), coordinates, (8, 8, 8), 1)


def gradients(net: nn.Module, tensor: SparseTensor) -> list[torch.Tensor]:
    """Output, and gradients of the features and of all weights."""
    output = net(tensor)
    output.square().sum().backward()
    return [output.detach(), tensor.features.grad, *(parameter.grad for parameter in net.parameters())]


def test_checkpointing_gives_the_same_gradients() -> None:
    expected = gradients(seeded_net(), sample(1))
    found = gradients(seeded_net(CheckpointedNet), sample(1))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.slow
def test_compiled_gives_the_same_gradients() -> None:
    """Every sparse layer breaks the graph, as its map is made of the data; what is dense between them compiles."""
    torch._dynamo.reset()
    expected = gradients(seeded_net(), sample(1))
    compiled = torch.compile(seeded_net(), backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, sample(1)), expected, rtol=1e-5, atol=1e-5)
    more = gradients(torch.compile(seeded_net(), backend="aot_eager"), sample(2, count=45))
    torch.testing.assert_close(more, gradients(seeded_net(), sample(2, count=45)), rtol=1e-5, atol=1e-5)


def test_autocast_multiplies_in_bfloat16_and_keeps_float32_weights() -> None:
    expected = gradients(seeded_net(), sample(1))
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(seeded_net(), sample(1))
    assert found[0].dtype == torch.bfloat16
    assert {value.dtype for value in found[1:]} == {torch.float32}
    torch.testing.assert_close(found[0].float(), expected[0], rtol=0.1, atol=0.02)


def test_two_processes_average_their_gradients(run_ranks: Callable[..., list[Any]], tmp_path: Path) -> None:
    """One of them has a frame without points, which must take part all the same."""
    first, second = run_ranks(__file__, tmp_path, count=RANKS, timeout_s=120)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    apart = [gradients(seeded_net(), sample(rank, count=count))[2:] for rank, count in enumerate(COUNTS)]
    expected = [(one + other) / RANKS for one, other in zip(*apart)]
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-6)


def run_process(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=timedelta(seconds=100)
    )
    net = nn.parallel.DistributedDataParallel(seeded_net())
    torch.save(gradients(net, sample(rank, count=COUNTS[rank]))[2:], folder / f"{rank}.pt")
    leave_processes()


if __name__ == "__main__":
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
