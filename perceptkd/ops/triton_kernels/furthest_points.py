"""Furthest point sampling, one program per cloud, which walks over all points for every sample."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from perceptkd.ops.triton_kernels import on_its_device

_BLOCK = 2048


@on_its_device
def sample(columns: Tensor, count: int, furthest: float) -> Tensor:
    """Indices int32 [B, count] of points as columns [B, 3, N], contiguous, floating point.

    Args:
        columns: the points.
        count: points to sample.
        furthest: squared distances beyond this count as equal.
    """
    clouds, _, points = columns.shape
    indices = torch.zeros((clouds, count), dtype=torch.int32, device=columns.device)
    if clouds and count > 1:
        nearest = columns.new_full((clouds, points), furthest)
        block = min(_BLOCK, triton.next_power_of_2(points))
        _sample_kernel[(clouds,)](
            columns, nearest, indices, points, count, BLOCK=block, num_warps=8, enable_fp_fusion=False
        )
    return indices


@triton.jit
def _sample_kernel(columns, nearest, indices, points, count, BLOCK: tl.constexpr):
    cloud = tl.program_id(0).to(tl.int64)
    columns += cloud * 3 * points
    nearest += cloud * points
    indices += cloud * count
    chosen = 0
    for step in range(1, count):
        chosen_x = tl.load(columns + chosen)
        chosen_y = tl.load(columns + points + chosen)
        chosen_z = tl.load(columns + 2 * points + chosen)
        best = tl.full((BLOCK,), -1, nearest.dtype.element_ty)
        place = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, points, BLOCK):
            index = start + tl.arange(0, BLOCK)
            exists = index < points
            x = tl.load(columns + index, mask=exists) - chosen_x
            y = tl.load(columns + points + index, mask=exists) - chosen_y
            z = tl.load(columns + 2 * points + index, mask=exists) - chosen_z
            distance2 = x * x + y * y + z * z
            # no barrier: a minimum that is taken twice is the same, and the reduction below synchronises the program
            before = tl.load(nearest + index, mask=exists)
            now = tl.where(distance2 < before, distance2, before)
            tl.store(nearest + index, now, mask=exists)
            is_better = exists & (now > best)
            best = tl.where(is_better, now, best)
            place = tl.where(is_better, index, place)
        chosen = tl.min(tl.where(best == tl.max(best, 0), place, points), 0)
        tl.store(indices + step, chosen)
