#!/usr/bin/env python3
"""Times the folded edge convolution on CPU against the layer on written-out edges, forward and backward.

Both compute the same edges, which is checked before timing. Sizes are those of PointDistiller: 1000 of
6000 pillars with 64 channels, each with 128 neighbours, to 32 channels.

Example:
    python benchmarks/edge_conv.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measure import Row, paired_row, write_results
from torch import Tensor

from perceptkd.engine.backends import backends
from perceptkd.ops.edge_conv import EDGES, edge_conv

NODES, CENTRES, NEIGHBOURS, IN_CHANNELS, OUT_CHANNELS = 6000, 1000, 128, 64, 32


def written_out(features: Tensor, weight: Tensor, centre: Tensor, neighbour: Tensor, *, edge: str) -> Tensor:
    near, far = features.index_select(0, neighbour), features.index_select(0, centre)
    first = {"cat": near, "sub": far - near, "dgcnn": near - far}[edge]
    return torch.cat([first, far], dim=1) @ weight.T


def against_written_out(edge: str, pairs: int) -> Row:
    """One paired row; raises when the edges differ."""
    torch.manual_seed(0)
    features = torch.randn(NODES, IN_CHANNELS, requires_grad=True)
    weight = torch.randn(OUT_CHANNELS, 2 * IN_CHANNELS, requires_grad=True)
    centre = torch.randperm(NODES)[:CENTRES].repeat_interleave(NEIGHBOURS)
    neighbour = torch.randint(0, NODES, (CENTRES * NEIGHBOURS,))

    def step(layer: Callable[..., Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            output = layer(features, weight, centre, neighbour, edge=edge)
            torch.autograd.grad(output.square().mean(), (features, weight))
            return output.detach()

        return run

    ours, peer = step(edge_conv), step(written_out)
    if not torch.allclose(ours(), peer(), atol=1e-3):
        raise RuntimeError("the folded edges differ from the written-out ones, so their times cannot be compared")
    name = f"edge convolution '{edge}', forward and backward"
    note = f"{CENTRES * NEIGHBOURS} edges, identical output, {pairs} alternating pairs"
    return paired_row(
        name, ours, peer, peer_name="linear layer on written-out edges", target=None, pairs=pairs, note=note
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rows = [against_written_out(edge, arguments.pairs) for edge in EDGES]
    write_results("edge_conv", rows, backends=backends())


if __name__ == "__main__":
    main()
