#!/usr/bin/env python3
"""Times hard voxelization on CPU against spconv's generator, on a real cloud of 198,130 points.

Both get the same points and make the same voxels, which is checked before timing. spconv's generator keeps one output
buffer and returns views of it; ours returns fresh tensors, whose page faults count.

Example:
    python benchmarks/voxelization.py --points /data/spconv/benchmark-pc.npz
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import SPCONV, Row, paired_row, single_row, time_ms, write_results

from perceptkd.engine.backends import backends
from perceptkd.ops.voxelize import dynamic_voxelize, hard_voxelize
from perceptkd.optional import require

VOXEL_SIZE_M = (0.1, 0.1, 0.1)
RANGE_M = (-80.0, -80.0, -2.0, 80.0, 80.0, 6.0)
MAX_VOXELS = 150_000
TARGET_MS = 10.0
PEER_TARGET = 1.5
PAIRS = 60
FIRST_CALL = """
import time, torch
points = torch.rand(1000, 4)
start = time.perf_counter()
from perceptkd.ops.voxelize import hard_voxelize
hard_voxelize(points, (0.1, 0.1, 0.1), (0, 0, 0, 1, 1, 1), 10, 1000)
print(time.perf_counter() - start)
"""


def load_points(path: Path) -> torch.Tensor:
    """The cloud with a fourth column, float32 [N, 4]."""
    xyz = np.load(path)["pc"].astype(np.float32)
    intensity = np.random.default_rng(0).random((len(xyz), 1), dtype=np.float32)
    return torch.from_numpy(np.concatenate([xyz, intensity], axis=1))


def against_spconv(points: torch.Tensor, max_points: int) -> Row:
    """One paired row; raises when the voxels differ."""
    spconv_utils = require("spconv.utils", package=SPCONV)
    from cumm import tensorview  # which spconv depends on

    generator = spconv_utils.Point2VoxelCPU3d(
        list(VOXEL_SIZE_M), list(RANGE_M), points.shape[1], MAX_VOXELS, max_points
    )
    view = tensorview.from_numpy(points.numpy())

    def ours() -> tuple[torch.Tensor, ...]:
        return hard_voxelize(points, VOXEL_SIZE_M, RANGE_M, max_points, MAX_VOXELS)

    def peer() -> tuple:
        return generator.point_to_voxel(view)

    for found, expected in zip(ours(), peer()):
        if not np.array_equal(found.numpy(), expected.numpy_view()):
            raise RuntimeError("our voxels differ from spconv's, so their times cannot be compared")
    voxels = len(ours()[2])
    return paired_row(
        f"hard voxelization, {max_points} points per voxel",
        ours,
        peer,
        peer_name="spconv Point2VoxelCPU3d",
        target=PEER_TARGET,
        pairs=PAIRS,
        warm_up=5,
        note=f"{len(points)} points to {voxels} voxels, identical output, {PAIRS} alternating pairs",
    )


def against_target(points: torch.Tensor) -> Row:
    """The time that has a target, judged at the upper end of the interval of its median."""
    times = [time_ms(lambda: hard_voxelize(points, VOXEL_SIZE_M, RANGE_M, 10, MAX_VOXELS)) for _ in range(PAIRS + 5)][
        5:
    ]
    medians = np.median(np.random.default_rng(0).choice(times, (2000, PAIRS)), axis=1)
    high = round(float(np.quantile(medians, 0.975)), 3)
    note = f"median {np.median(times):.2f} ms; the figure is the upper end of its 95 % interval over {PAIRS} calls"
    return single_row("hard voxelization, time", high, unit="ms", target=TARGET_MS, note=note)


def dynamic(points: torch.Tensor) -> Row:
    times = [time_ms(lambda: dynamic_voxelize(points, VOXEL_SIZE_M, RANGE_M)) for _ in range(PAIRS + 5)][5:]
    note = f"median of {PAIRS} calls"
    return single_row("dynamic voxelization, time", round(float(np.median(times)), 3), unit="ms", note=note)


def first_calls() -> list[Row]:
    """Import and first call in a new process: numba compiles, then finds its cache."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for state in ("numba compiles", "numba cache on disk"):
            environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
            result = subprocess.run(
                [sys.executable, "-c", FIRST_CALL], env=environment, capture_output=True, text=True, check=True
            )
            rows.append(single_row(f"first call, {state}", round(float(result.stdout), 2), unit="s", note="one run"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("PERCEPTKD_REAL_DATA")
    default = Path(data) / "spconv" / "benchmark-pc.npz" if data else None
    parser.add_argument("--points", type=Path, default=default, help="npz file with an array 'pc' [N, 3] in metres")
    arguments = parser.parse_args()
    if arguments.points is None or not arguments.points.is_file():
        parser.error(f"no point cloud at {arguments.points}; pass --points or set PERCEPTKD_REAL_DATA")
    torch.set_num_threads(2)
    points = load_points(arguments.points)
    rows = [against_target(points), *(against_spconv(points, count) for count in (1, 10, 32))]
    rows += [dynamic(points), *first_calls()]
    write_results("voxelization", rows, backends=backends())


if __name__ == "__main__":
    main()
