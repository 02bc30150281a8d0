#!/usr/bin/env python3
"""Our ops against mmcv's compiled ones on CPU, and BEV pooling as embedding_bag against lift, splat and scatter.

Both sides get the same inputs and must give the same result. Without --compiled the rows that need mmcv's compiled
module say that they were not measured; to build it where a compiler is at hand, unpack the source archive of
onedl-mmcv 2.3.6 and run MMCV_WITH_OPS=1 python setup.py build_ext --inplace in it.

Example:
    python benchmarks/ops.py --compiled onedl_mmcv-2.3.6/mmcv/_ext.cpython-311-x86_64-linux-gnu.so
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from measure import Row, paired_row, single_row, write_results
from torch import Tensor

from perceptkd.engine.backends import backends
from perceptkd.ops import mmcv_ext_functions
from perceptkd.ops.bev_pool import bev_pool, sort_by_cell

PEER = "compiled mmcv 2.3.6"
TARGET = 1.5
POOL_TARGET = 0.1
#: Runs an op of one side, ``call(name)`` being its function of that name, and returns its outputs.
Run = Callable[[Callable[[str], Callable[..., Any]]], list[Tensor]]


def load_compiled(path: Path) -> ModuleType:
    """mmcv's compiled module, under a name that does not hide ours."""
    spec = importlib.util.spec_from_file_location("_ext", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no compiled module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nms_run() -> Run:
    """5,000 boxes of an image, as a one-stage detector hands them over; scores differ, as equal ones have no order."""
    low = torch.rand(5000, 2) * 1000
    boxes, scores = torch.cat((low, low + 10 + torch.rand(5000, 2) * 150), dim=1), torch.randperm(5000) / 5000
    return lambda call: [call("nms")(boxes, scores, iou_threshold=0.5, offset=0)]


def roi_align_run() -> Run:
    """512 boxes of 7 x 7 bins on one level of a feature pyramid."""
    maps = torch.randn(2, 256, 100, 168)
    low = torch.rand(512, 2) * torch.tensor([600.0, 300.0])
    rois = torch.cat((torch.randint(0, 2, (512, 1)).float(), low, low + 20 + torch.rand(512, 2) * 80), dim=1)

    def run(call: Callable[[str], Callable[..., Any]]) -> list[Tensor]:
        output, nothing = maps.new_zeros(512, 256, 7, 7), maps.new_zeros(0)
        call("roi_align_forward")(
            maps, rois, output, nothing, nothing, aligned_height=7, aligned_width=7, spatial_scale=0.125,
            sampling_ratio=0, pool_mode=1, aligned=True,
        )  # fmt: skip
        return [output]

    return run


def points_in_boxes_run() -> Run:
    """40 boxes in a sweep of 30,000 points."""
    points = torch.rand(30000, 3) * torch.tensor([100.0, 100.0, 4.0])
    boxes = torch.cat((torch.rand(40, 3) * 100, 2 + torch.rand(40, 3) * 3, torch.rand(40, 1) * 6), dim=1)
    boxes[:, 2] = 0

    def run(call: Callable[[str], Callable[..., Any]]) -> list[Tensor]:
        inside = torch.zeros(40, 30000, dtype=torch.int32)
        call("points_in_boxes_cpu_forward")(boxes, points, inside)
        return [inside]

    return run


def voxelization_run() -> Run:
    """A sweep of 100,000 points in voxels of 0.2 m."""
    points = torch.rand(100000, 4) * torch.tensor([100.0, 100.0, 6.0, 1.0])
    size, bounds = torch.tensor([0.2, 0.2, 8.0]), torch.tensor([0.0, 0, 0, 100, 100, 8])

    def run(call: Callable[[str], Callable[..., Any]]) -> list[Tensor]:
        voxels, cells = points.new_zeros(60000, 10, 4), torch.zeros(60000, 3, dtype=torch.int32)
        counts, number = torch.zeros(60000, dtype=torch.int32), torch.zeros((), dtype=torch.int64)
        call("hard_voxelize_forward")(
            points, size, bounds, voxels, cells, counts, number,
            max_points=10, max_voxels=60000, NDim=3, deterministic=True,
        )  # fmt: skip
        return [voxels, cells, counts, number]

    return run


def rotated_boxes(count: int) -> Tensor:
    return torch.cat((torch.rand(count, 2) * 60, 1 + torch.rand(count, 2) * 4, torch.rand(count, 1) * 6), dim=1)


def rotated_overlap_run() -> Run:
    """1,000 boxes with 1,000, seen from above."""
    first, second = rotated_boxes(1000), rotated_boxes(1000)

    def run(call: Callable[[str], Callable[..., Any]]) -> list[Tensor]:
        overlap = torch.zeros(1000 * 1000)
        call("box_iou_rotated")(first, second, overlap, mode_flag=0, aligned=False)
        return [overlap]

    return run


OPS: dict[str, Callable[[], Run]] = {
    "nms, 5,000 boxes": nms_run,
    "roi_align, 512 boxes of 256 channels": roi_align_run,
    "points_in_boxes, 40 boxes, 30,000 points": points_in_boxes_run,
    "hard voxelization, 100,000 points": voxelization_run,
    "rotated IoU, 1,000 x 1,000 boxes": rotated_overlap_run,
}


def op_row(name: str, make: Callable[[], Run], compiled: ModuleType | None, pairs: int) -> Row:
    """One op on both sides, after a look at whether they agree."""
    if compiled is None:
        return single_row(name, None, unit="ms", note="not measured: no compiled mmcv was given")
    torch.manual_seed(0)
    run = make()

    def ours() -> list[Tensor]:
        return run(lambda op: mmcv_ext_functions.functions()[op])

    def peer() -> list[Tensor]:
        return run(lambda op: getattr(compiled, op))

    for found, expected in zip(ours(), peer(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=lambda text: f"{name}: {text}")
    return paired_row(name, ours, peer, peer_name=PEER, target=TARGET, pairs=pairs)


def bev_pool_rows(pairs: int) -> list[Row]:
    """BEVDet's shape: 6 cameras, 59 depths, maps of 16 x 44 with 64 channels, 128 x 128 cells."""
    torch.manual_seed(0)
    cameras, depths, height, width, channels, cells = 6, 59, 16, 44, 64, 128 * 128
    pixels = cameras * height * width
    depth, features = torch.rand(pixels, depths).softmax(1), torch.randn(pixels, channels)
    cell = torch.randint(-cells // 2, cells, (pixels * depths,))
    pixel = torch.arange(pixels).repeat_interleave(depths)

    def ours() -> Tensor:
        return bev_pool(depth.flatten(), features, pixel, cell, cells)

    order = sort_by_cell(cell, cells)

    def ours_sorted() -> Tensor:
        return bev_pool(depth.flatten(), features, pixel, cell, cells, order=order)

    inside = torch.nonzero(cell >= 0).squeeze(1)
    kept, kept_pixel = cell[inside], pixel[inside]

    def lift() -> Tensor:
        return (depth[:, :, None] * features[:, None]).view(-1, channels)

    def scatter(cell: Tensor, lifted: Tensor) -> Tensor:
        return torch.zeros(cells, channels).index_add_(0, cell, lifted)

    def lift_kept() -> Tensor:
        return features[kept_pixel].mul_(depth.flatten()[inside, None])

    once = "BEV pooling, cells looked at once for all frames"
    everything = "lift all points, index_add those inside"
    rows = []
    for name, pool, peer, peer_name, target in (
        (once, ours_sorted, lambda: scatter(kept, lift()[inside]), everything, POOL_TARGET),
        (f"{once}, best scatter", ours_sorted, lambda: scatter(kept, lift_kept()), "lift and index_add inside", None),
        ("BEV pooling with its sort", ours, lambda: scatter(cell[cell >= 0], lift()[cell >= 0]), everything, None),
    ):
        torch.testing.assert_close(pool(), peer(), atol=1e-4, rtol=1e-4)
        rows.append(paired_row(name, pool, peer, peer_name=peer_name, target=target, pairs=pairs))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiled", type=Path, help="mmcv's compiled module, mmcv/_ext.*.so")
    parser.add_argument("--pairs", type=int, default=30, help="alternations per row (default 30)")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    compiled = load_compiled(arguments.compiled) if arguments.compiled else None
    rows = [op_row(name, make, compiled, arguments.pairs) for name, make in OPS.items()]
    write_results("ops", [*rows, *bev_pool_rows(arguments.pairs)], backends=backends())


if __name__ == "__main__":
    main()
