#!/usr/bin/env python3
"""The hot ops on a GPU: spconv's own benchmark networks, single layers against the roofline, maps, voxels, BEV pooling.

spconv runs beside ours in the same process where it is installed with CUDA (pip install spconv-cu126); both rebuild
their kernel maps where the row is about networks or maps, and keep them where it is about one layer. Without a CUDA
device every row says that it was not measured.

PERCEPTKD_TRITON is set to on where Triton is installed, unless it is set already.

Examples:
    python benchmarks/gpu.py
    python benchmarks/gpu.py --points /data/spconv/benchmark-pc.npz
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import Row, paired_row, single_row, time_ms, write_results
from sparse_conv import RANGE_START_M, SHAPE, VOXEL_SIZE_M, load_points, load_spconv, occupied_cells
from torch import Tensor, nn

from perceptkd.engine.backends import backends
from perceptkd.ops import sparse
from perceptkd.ops.bev_pool import bev_pool, sort_by_cell
from perceptkd.ops.sparse.kernel_map import build_kernel_map
from perceptkd.ops.triton_kernels import VARIABLE
from perceptkd.ops.voxelize import hard_voxelize

PEER = "spconv CUDA"
SCATTER = "lift and index_add"
WIDTHS = (64, 96, 128, 160, 192, 224, 256)
LAYER_CHANNELS = (32, 64, 128)
COPIES = 8
#: Largest milliseconds that meet the goal, by row, on the GPUs of the Hopper generation.
TARGETS_MS = {
    "spconv basic, float16, forward": 4.0,
    "spconv basic, float16, backward": 6.0,
    "spconv large, float16, forward": 10.0,
    "spconv large, float16, backward": 18.0,
    "kernel map, submanifold 3": 0.06,
    "BEV pooling, cells looked at once for all frames": 0.03,
    "hard voxelization": 0.3,
}
LAYER_TARGET_MS = 0.04
#: Rows without a target.
FURTHER_ROWS = ("BEV pooling with its sort",)
#: Memory bandwidth in TB/s and dense float16 TFLOP/s, by a part of the device's name; data sheets of the SXM cards.
ROOFLINES = {"H200": (4.8, 989.0), "H100": (3.35, 989.0), "A100": (2.0, 312.0)}


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    device: str
    pairs: int
    spconv: Any | None

    @property
    def peer_note(self) -> str:
        """Why a row that spconv could stand in has no peer."""
        return "" if self.spconv else "no peer: spconv with CUDA is not installed"

    def synchronized(self, function: Callable[[], Any]) -> Callable[[], None]:
        """The function, waiting for the device."""

        def run() -> None:
            function()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return run

    def row(
        self, name: str, ours: Callable[[], Any], peer: Callable[[], Any] | None, *, note: str = "", against: str = PEER
    ) -> Row:
        """Times ours, beside the peer where there is one; ``met`` is about ours in milliseconds."""
        ours = self.synchronized(ours)
        for _ in range(3):
            ours()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = torch.tensor([time_ms(ours) for _ in range(self.pairs)])
        low, high = torch.quantile(times, torch.tensor([0.1, 0.9])).tolist()
        notes = [note, f"alone {low:.3f} to {high:.3f} ms (10 to 90 % of calls)"]
        if self.device == "cuda":
            notes.append(f"peak {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB with its inputs")
        note = "; ".join(filter(None, notes))
        target = LAYER_TARGET_MS if name.startswith("layer") and name.endswith("forward") else TARGETS_MS.get(name)
        if peer is None:
            return single_row(name, round(float(times.median()), 4), unit="ms", target=target, note=note)
        peer = self.synchronized(peer)
        row = paired_row(name, ours, peer, peer_name=against, target=None, pairs=self.pairs, note=note)
        return {**row, "target": target, "met": None if target is None else bool(row["ours"] <= target)}


def load_peer(device: str) -> Any | None:
    """spconv where it is installed, and on CUDA where it is built with it."""
    spconv = load_spconv()
    if spconv is not None and device == "cuda":
        from spconv.cppconstants import CPU_ONLY_BUILD

        return None if CPU_ONLY_BUILD else spconv
    return spconv


def stacked_network(library: Any) -> nn.Module:
    """spconv's benchmark network: two submanifold layers at each of seven widths, with pools between."""
    layers: list[nn.Module] = []
    before = 3
    for level, width in enumerate(WIDTHS):
        if level:
            layers.append(library.SparseMaxPool3d(2, 2))
        for channels in (before, width):
            layers.append(library.SubMConv3d(channels, width, 3, bias=False, indice_key=f"c{level}"))
        before = width
    return library.SparseSequential(*layers)


def copies_beside_each_other(cells: Tensor, count: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Several copies of a cloud in one larger grid along x."""
    moved = [cells + torch.tensor([0, 0, 0, SHAPE[2] * copy], dtype=torch.int32) for copy in range(count)]
    return torch.cat(moved), (*SHAPE[:2], SHAPE[2] * count)


def network_rows(name: str, cells: Tensor, shape: tuple[int, int, int], setting: Setting) -> list[Row]:
    """Forward, and backward alone, in float16 on CUDA; every call rebuilds the maps."""
    dtype = torch.float16 if setting.device == "cuda" else torch.float32
    cells = cells.to(setting.device)
    features = torch.randn(len(cells), 3, device=setting.device, dtype=dtype)

    def outputs(network: nn.Module, make: Callable[..., Any]) -> Callable[[], Tensor]:
        return lambda: network(make(features, cells, list(shape), 1)).features

    def backward(forward: Callable[[], Tensor]) -> Callable[[], None]:
        output = forward()
        upstream = torch.randn_like(output)
        return lambda: output.backward(upstream, retain_graph=True)

    ours = outputs(stacked_network(sparse).to(setting.device, dtype), sparse.SparseTensor)
    peer = None
    if setting.spconv is not None:
        peer = outputs(stacked_network(setting.spconv).to(setting.device, dtype), setting.spconv.SparseConvTensor)
    note = "; ".join(filter(None, [f"{len(cells)} voxels, maps rebuilt", setting.peer_note]))
    return [
        setting.row(f"spconv {name}, float16, forward", ours, peer, note=note),
        setting.row(f"spconv {name}, float16, backward", backward(ours), backward(peer) if peer else None, note=note),
    ]


def layer_names(channels: int) -> list[str]:
    return [f"layer, {channels} channels, bfloat16, {part}" for part in ("forward", "by features", "by weights")]


def layer_rows(cells: Tensor, channels: int, setting: Setting) -> list[Row]:
    """One submanifold layer with its map kept: forward, and each gradient alone."""
    dtype = torch.bfloat16
    cells = cells.to(setting.device)
    features = torch.randn(len(cells), channels, device=setting.device, dtype=dtype, requires_grad=True)
    layer = sparse.SubMConv3d(channels, channels, 3, bias=False).to(setting.device, dtype)
    tensor = sparse.SparseTensor(features, cells, SHAPE, 1)
    output = layer(tensor).features
    upstream = torch.randn_like(features)
    kernel_map, _ = build_kernel_map(tensor.sites, layer.geometry)
    note = roofline_note(sum(len(rows) for rows, _ in kernel_map.pairs), len(cells), channels)
    forward, by_features, by_weights = layer_names(channels)
    rows = [setting.row(forward, torch.no_grad()(lambda: layer(tensor)), None, note=note)]
    for name, leaf in ((by_features, features), (by_weights, layer.weight)):

        def gradient(leaf: Tensor = leaf) -> tuple[Tensor, ...]:
            return torch.autograd.grad(output, leaf, upstream, retain_graph=True)

        rows.append(setting.row(name, gradient, None))
    return rows


def roofline_note(pairs: int, rows: int, channels: int) -> str:
    """How long the forward pass takes at least: each row read and written once, each pair multiplied."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    known = next((figures for part, figures in ROOFLINES.items() if part in name), None)
    if known is None:
        return f"{pairs} pairs; no roofline for {name}"
    move_us = (2 * rows * channels * 2 + 27 * channels**2 * 2) / known[0] / 1e6
    multiply_us = 2 * pairs * channels**2 / known[1] / 1e6
    return f"{pairs} pairs; at least {max(move_us, multiply_us):.1f} us on {name}"


def map_row(cells: Tensor, setting: Setting) -> Row:
    """Building the map of a submanifold layer."""
    cells = cells.to(setting.device)
    features = torch.zeros(len(cells), 1, device=setting.device)
    layer = sparse.SubMConv3d(1, 1, 3)

    def ours() -> None:
        kernel_map, _ = build_kernel_map(sparse.SparseTensor(features, cells, SHAPE, 1).sites, layer.geometry)
        _ = kernel_map.neighbours.order

    peer = None
    if setting.spconv is not None and setting.device == "cuda":
        algorithm, ones = setting.spconv.ConvAlgo.MaskImplicitGemm, [1, 1, 1]

        def peer() -> None:
            setting.spconv.ops.get_indice_pairs_implicit_gemm(
                cells, 1, list(SHAPE), algorithm, [3, 3, 3], ones, ones, ones, [0, 0, 0], True
            )

    note = "; ".join(filter(None, [f"{len(cells)} voxels", setting.peer_note]))
    return setting.row("kernel map, submanifold 3", ours, peer, note=note)


def voxel_row(points: Tensor, setting: Setting) -> Row:
    points = points.to(setting.device).contiguous()
    sizes = (VOXEL_SIZE_M,) * 3
    stop = [start + cells * VOXEL_SIZE_M for start, cells in zip(RANGE_START_M, reversed(SHAPE))]
    bounds, most_points, most_voxels = (*RANGE_START_M, *stop), 10, 150_000
    peer = None
    if setting.spconv is not None:
        from spconv.pytorch.utils import PointToVoxel

        peer = PointToVoxel(
            list(sizes), list(bounds), points.shape[1], most_voxels, most_points, torch.device(setting.device)
        )
    return setting.row(
        "hard voxelization",
        lambda: hard_voxelize(points, sizes, bounds, most_points, most_voxels),
        peer and (lambda: peer(points)),
        note="; ".join(filter(None, [f"{len(points)} points", setting.peer_note])),
    )


def bev_pool_rows(setting: Setting) -> list[Row]:
    """BEVDet's shape: 6 cameras, 59 depths, maps of 16 x 44 with 64 channels, 128 x 128 cells."""
    depths, pixels, channels, cells = 59, 6 * 16 * 44, 64, 128 * 128
    depth = torch.rand(pixels * depths, device=setting.device)
    features = torch.randn(pixels, channels, device=setting.device)
    cell = torch.randint(-cells // 2, cells, (pixels * depths,), device=setting.device)
    pixel = torch.arange(pixels, device=setting.device).repeat_interleave(depths)
    order, inside = sort_by_cell(cell, cells), torch.nonzero(cell >= 0).squeeze(1)
    kept = cell[inside]

    def scatter(cell: Tensor, inside: Tensor) -> Tensor:
        lifted = (depth.view(pixels, depths, 1) * features[:, None]).view(-1, channels)
        return features.new_zeros(cells, channels).index_add_(0, cell, lifted[inside])

    return [
        setting.row(
            name,
            lambda given=given: bev_pool(depth, features, pixel, cell, cells, order=given),
            peer,
            against=SCATTER,
        )
        for name, given, peer in (
            ("BEV pooling, cells looked at once for all frames", order, lambda: scatter(kept, inside)),
            (FURTHER_ROWS[0], None, lambda: scatter(cell[cell >= 0], cell >= 0)),
        )
    ]


def measure(points: Tensor, setting: Setting) -> list[Row]:
    """All rows."""
    cells = occupied_cells(points.numpy())
    rows = network_rows("basic", cells, SHAPE, setting)
    rows += network_rows("large", *copies_beside_each_other(cells, COPIES), setting)
    for channels in LAYER_CHANNELS:
        rows += layer_rows(cells, channels, setting)
    return [*rows, map_row(cells, setting), voxel_row(points, setting), *bev_pool_rows(setting)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("PERCEPTKD_REAL_DATA")
    default = Path(data) / "spconv" / "benchmark-pc.npz" if data else None
    parser.add_argument(
        "--points", type=Path, default=default, help=".npz with 'pc', or .npy (default: a SimWorld sweep)"
    )
    parser.add_argument("--pairs", type=int, default=50, help="alternations per row (default 50)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if torch.cuda.is_available():
        os.environ.setdefault(VARIABLE, "on" if importlib.util.find_spec("triton") else "off")
        points = torch.from_numpy(load_points(arguments.points)).float()
        rows = measure(points, Setting("cuda", arguments.pairs, load_peer("cuda")))
    else:
        names = [*TARGETS_MS, *FURTHER_ROWS, *(name for channels in LAYER_CHANNELS for name in layer_names(channels))]
        rows = [single_row(name, None, unit="ms", note="not measured: no CUDA device") for name in names]
    write_results("gpu", rows, backends={**backends(), "sparse": sparse.chosen_backend("cuda")})


if __name__ == "__main__":
    main()
