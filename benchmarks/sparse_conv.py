"""Sparse convolution against spconv on CPU: kernel maps, layers forward and backward, and SECOND's whole encoder.

Both sides run on the same cells, keep their map between calls where the row is about one layer, and rebuild all maps
where the row is about maps or about the encoder. spconv's CPU wheel has float32 only, so bfloat16 rows compare with its
float32. Without a cloud of points a sweep of SimWorld is cast.

Examples:
    python benchmarks/sparse_conv.py
    python benchmarks/sparse_conv.py --points /data/spconv/benchmark-pc.npz
"""

from __future__ import annotations

import argparse
import copy
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import SPCONV, Row, paired_row, single_row, time_ms, write_results
from torch import Tensor, nn

import perceptkd.compat  # noqa: F401
from perceptkd.datasets.simworld import WorldSpec, build_scene, cast_lidar
from perceptkd.engine.backends import backends
from perceptkd.ops.sparse import (
    SparseConv3d,
    SparseModule,
    SparseSequential,
    SparseTensor,
    SubMConv3d,
    chosen_backend,
)
from perceptkd.ops.sparse.kernel_map import build_kernel_map
from perceptkd.optional import MissingDependencyError, require

VOXEL_SIZE_M = 0.1
RANGE_START_M = (-80.0, -80.0, -2.0)
SHAPE = (80, 1600, 1600)
CHANNELS = (16, 32, 64, 128)
#: Largest ratio ours / spconv that meets the goal: on par in float32, clearly faster in bfloat16 from 64 channels.
TARGETS = {"float32": lambda channels: 1.0, "bfloat16": lambda channels: 0.65 if channels >= 64 else None}
MAP_TARGET = 0.4
ENCODER_TARGET = 0.8
PEER_CALLS = 5
Outcome = Callable[[], list[Tensor]]
Forward = Callable[[list[nn.Module], Tensor, Tensor], Tensor]


def load_points(path: Path | None) -> np.ndarray:
    """The cloud in a file, or that of a sweep of SimWorld, [N, 3 or more] in metres."""
    if path is None:
        scene = build_scene(WorldSpec(seed=0, scene_name="scene-0061", num_keyframes=2))
        return cast_lidar(scene, 0.0).points
    stored = np.load(path)
    return stored["pc"] if path.suffix == ".npz" else stored


def occupied_cells(points: np.ndarray) -> Tensor:
    """The occupied cells of a cloud, int32 [N, 4], sorted."""
    cells = np.floor((points[:, :3] - RANGE_START_M) / VOXEL_SIZE_M)[:, ::-1]
    cells = np.unique(cells[((cells >= 0) & (cells < SHAPE)).all(1)], axis=0)
    return torch.from_numpy(np.pad(cells, ((0, 0), (1, 0)))).int()


def load_spconv() -> Any | None:
    """spconv, its backward made to run without CUDA; None where it is not installed."""
    try:
        spconv = require("spconv.pytorch", package=SPCONV)
    except MissingDependencyError:
        return None
    if not torch.cuda.is_available():
        spconv.ops.get_current_stream = lambda: 0
    return spconv


def row(
    name: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any] | None,
    target: float | None,
    pairs: int,
    note: str = "",
) -> Row:
    """A pair of timings, or a row that says that there is no peer."""
    if peer is None:
        return single_row(name, None, unit="ms", note=f"spconv is not installed; pip install {SPCONV}")
    return paired_row(name, ours, peer, peer_name="spconv CPU float32", target=target, pairs=pairs, note=note)


def map_rows(cells: Tensor, spconv: Any | None, pairs: int) -> list[Row]:
    """Building the map of a layer, ours with everything that its first forward needs."""
    features = torch.zeros(len(cells), 1)
    rows = []
    for name, layer in (("submanifold 3", SubMConv3d(1, 1, 3)), ("stride 2", SparseConv3d(1, 1, 3, 2, 1))):
        is_submanifold = isinstance(layer, SubMConv3d)

        def ours(layer: Any = layer) -> None:
            kernel_map, _ = build_kernel_map(SparseTensor(features, cells, SHAPE, 1).sites, layer.geometry)
            _ = kernel_map.plan

        def theirs(layer: Any = layer, submanifold: bool = is_submanifold) -> None:
            sizes = [list(s) for s in (layer.kernel_size, layer.stride, (1, 1, 1), layer.dilation, (0, 0, 0))]
            spconv.ops.get_indice_pairs(cells, 1, list(SHAPE), spconv.ConvAlgo.Native, *sizes, submanifold)

        rows.append(row(f"kernel map, {name}", ours, theirs if spconv else None, MAP_TARGET, pairs))
    return rows


def first_call_rows(cells: Tensor) -> list[Row]:
    """The first map and the first convolution of this process: numba loads its functions, memory is touched."""
    layer = SubMConv3d(16, 16, 3)
    tensor = SparseTensor(torch.randn(len(cells), 16), cells, SHAPE, 1)
    first_map = time_ms(lambda: build_kernel_map(tensor.sites, layer.geometry))
    kernel_map, _ = build_kernel_map(tensor.sites, layer.geometry)
    neighbours = sum(len(rows) for rows, _ in kernel_map.pairs) / len(cells)
    first_layer = time_ms(lambda: layer(tensor))
    return [
        single_row("neighbours per voxel, its own cell too", round(neighbours, 2), unit="cells"),
        single_row("first kernel map of a process", round(first_map, 1), unit="ms", note="one call"),
        single_row("first layer of a process, 16 channels", round(first_layer, 1), unit="ms", note="one call"),
    ]


def error_of(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    largest = expected.detach().abs().max().clamp_min(1e-30)
    return float((found.to(expected.dtype) - expected).detach().abs().max() / largest)


def on_one_thread(outcome: Outcome) -> list[Tensor]:
    """What a function of spconv gives where its sums cannot race."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return outcome()
    finally:
        torch.set_num_threads(threads)


def check_same(ours: Outcome, peer: Outcome, layers: int = 1) -> None:
    """Ends the run where ours is not what spconv computes on one thread, up to the rounding of our type per layer."""
    for found, right in zip(ours(), on_one_thread(peer), strict=True):
        bound = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}[found.dtype] * layers
        if not (error := error_of(found, right)) <= bound:  # NaN too
            raise SystemExit(f"the results differ by {error:g}, allowed {bound:g}: the timings would mean nothing")


def race_note(peer: Callable[[], Tensor]) -> str:
    """How often spconv's output on the threads of this run is not that on one."""
    (expected,) = on_one_thread(lambda: [peer()])
    errors = [error_of(peer(), expected) for _ in range(PEER_CALLS)]
    wrong = sum(error > 1e-5 for error in errors)
    if not wrong:
        return ""
    return (
        f"{wrong} of {PEER_CALLS} of spconv's own outputs on {torch.get_num_threads()} threads are wrong, by up to "
        f"{100 * max(errors):.0f} % of the largest value"
    )


def layer_rows(cells: Tensor, channels: int, dtype: torch.dtype, spconv: Any | None, pairs: int) -> list[Row]:
    """A submanifold layer 3 x 3 x 3 with its map cached: forward, and forward with both gradients."""
    wide = torch.randn(len(cells), channels)
    features = wide.to(dtype).requires_grad_()
    layer = SubMConv3d(channels, channels, 3, bias=False).to(dtype)
    tensor = SparseTensor(features, cells, SHAPE, 1)
    cotangent = torch.randn_like(features)

    def forward() -> None:
        with torch.no_grad():
            layer(tensor)

    def train() -> None:
        layer(tensor).features.backward(cotangent)

    peer_forward = peer_train = None
    note = ""
    if spconv is not None:
        peer = spconv.SubMConv3d(channels, channels, 3, bias=False, indice_key="map")
        source = spconv.SparseConvTensor(wide.requires_grad_(), cells, list(SHAPE), 1)
        peer.weight.data.copy_(layer.weight.data)
        source.indice_dict = peer(source).indice_dict
        peer_cotangent = cotangent.float()

        def outcome() -> list[Tensor]:
            output = layer(tensor).features
            return [output, *torch.autograd.grad(output, [features, layer.weight], cotangent)]

        def peer_outcome() -> list[Tensor]:
            output = peer(source).features
            return [output, *torch.autograd.grad(output, [wide, peer.weight], peer_cotangent)]

        check_same(outcome, peer_outcome)
        note = race_note(lambda: peer(source).features)

        def peer_forward() -> None:
            with torch.no_grad():
                peer(source)

        def peer_train() -> None:
            peer(source).features.backward(peer_cotangent)

    name = str(dtype).removeprefix("torch.")
    target = TARGETS[name](channels)
    return [
        row(f"submanifold 3, {channels} channels, {name}, forward", forward, peer_forward, target, pairs, note),
        row(f"submanifold 3, {channels} channels, {name}, forward + backward", train, peer_train, target, pairs, note),
    ]


def build_encoder() -> nn.Module:
    """The sparse encoder of mmdet3d's SECOND, on the grid of this script."""
    import mmdet3d.models  # noqa: F401
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope("mmdet3d")
    return MODELS.build(
        {
            "type": "SparseEncoder",
            "in_channels": 4,
            "sparse_shape": SHAPE,
            "order": ("conv", "norm", "act"),
            "encoder_paddings": ((0,), (1, 1, 1), (1, 1, 1), ((0, 1, 1), 1, 1)),
        }
    )


def as_spconv(module: nn.Module, spconv: Any) -> nn.Module:
    """The same layers of spconv, with the same weights."""
    if isinstance(module, SparseSequential):
        return spconv.SparseSequential(*(as_spconv(child, spconv) for child in module))
    if not isinstance(module, SparseModule):
        return copy.deepcopy(module)
    options = {name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation", "indice_key")}
    if type(module).__name__.startswith("SubM"):
        del options["stride"]
    options |= {"bias": module.bias is not None}
    layer = getattr(spconv, type(module).__name__)(module.in_channels, module.out_channels, **options)
    layer.load_state_dict(module.state_dict())
    return layer


def run_through(layers: list[nn.Module], tensor: Any) -> Tensor:
    for layer in layers:
        tensor = layer(tensor)
    return tensor.dense()


def encoder_outcome(
    forward: Forward, layers: list[nn.Module], features: Tensor, cells: Tensor, upstream: Tensor
) -> list[Tensor]:
    """The output, and its gradients by features and by all weights.

    In float64, where no rounding takes values across a ReLU's zero; of 30 m x 30 m, as float64 is slow.
    """
    inside = ((cells[:, 2:] - SHAPE[1] // 2).abs() < 15 / VOXEL_SIZE_M).all(1)
    layers = [copy.deepcopy(layer).double() for layer in layers]
    features = features[inside].double().requires_grad_()
    output = forward(layers, features, cells[inside])
    weights = [parameter for layer in layers for parameter in layer.parameters()]
    return [output, *torch.autograd.grad(output, [features, *weights], upstream.double())]


def encoder_rows(cells: Tensor, spconv: Any | None, pairs: int) -> list[Row]:
    """SECOND's encoder in float32 with all kernel maps, from cells to the map seen from above."""
    encoder = build_encoder()
    parts = [encoder.conv_input, *encoder.encoder_layers, encoder.conv_out]
    features = torch.randn(len(cells), 4)

    def ours(layers: list[nn.Module] = parts, features: Tensor = features, cells: Tensor = cells) -> Tensor:
        return run_through(layers, SparseTensor(features, cells, SHAPE, 1))

    upstream = torch.randn_like(ours())

    def step(forward: Callable[[], Tensor], layers: list[nn.Module]) -> None:
        forward().backward(upstream)
        for layer in layers:
            layer.zero_grad()

    peer, note = None, ""
    peers: list[nn.Module] = []
    if spconv is not None:
        peers = [as_spconv(part, spconv) for part in parts]

        def peer(layers: list[nn.Module] = peers, features: Tensor = features, cells: Tensor = cells) -> Tensor:
            return run_through(layers, spconv.SparseConvTensor(features, cells, list(SHAPE), 1))

        depth = sum(isinstance(module, SubMConv3d | SparseConv3d) for module in encoder.modules())
        inputs = (features, cells, upstream)
        check_same(lambda: encoder_outcome(ours, parts, *inputs), lambda: encoder_outcome(peer, peers, *inputs), depth)
        for layer in (*parts, *peers):
            layer.eval()
        check_same(lambda: [torch.no_grad()(ours)()], lambda: [torch.no_grad()(peer)()], depth)
        note = race_note(peer)

    rows = []
    for name, training in (("forward + backward", True), ("prediction", False)):
        for layer in (*parts, *peers):
            layer.train(training)
        notes = (
            note if training else "; ".join(filter(None, [note, "ours folds batch norms and ReLUs, spconv does not"]))
        )
        if training:
            pair = (lambda: step(ours, parts)), (lambda: step(peer, peers)) if peer else None
        else:
            pair = torch.no_grad()(ours), torch.no_grad()(peer) if peer else None
        rows.append(row(f"SECOND's encoder, float32, {name}", *pair, ENCODER_TARGET, pairs, notes))
    return rows


def main() -> None:
    """Measures, prints and stores all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("PERCEPTKD_REAL_DATA")
    default = Path(data) / "spconv" / "benchmark-pc.npz" if data else None
    parser.add_argument(
        "--points", type=Path, default=default, help=".npz with 'pc', or .npy (default: a SimWorld sweep)"
    )
    parser.add_argument("--channels", type=int, nargs="+", default=list(CHANNELS))
    parser.add_argument("--pairs", type=int, default=30, help="alternations per row")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    cells, spconv = occupied_cells(load_points(arguments.points)), load_spconv()
    cloud = arguments.points.name if arguments.points else "a SimWorld sweep"
    rows = [single_row("voxels", len(cells), unit="cells", note=f"{VOXEL_SIZE_M} m cells of {cloud}")]
    rows += first_call_rows(cells)
    rows += map_rows(cells, spconv, arguments.pairs)
    for channels in arguments.channels:
        for dtype in (torch.float32, torch.bfloat16):
            rows += layer_rows(cells, channels, dtype, spconv, arguments.pairs)
    rows += encoder_rows(cells, spconv, arguments.pairs)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append(single_row("peak memory of this process", round(memory), unit="MiB", note="ours and spconv together"))
    write_results("sparse_conv", rows, backends={**backends(), "sparse": chosen_backend("cpu")})


if __name__ == "__main__":
    main()
