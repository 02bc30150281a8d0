"""Ball query, one program per centre; it stops at the last point needed."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from perceptkd.ops.triton_kernels import on_its_device

_BLOCK = 512


@on_its_device
def query(points: Tensor, centres: Tensor, bounds: Tensor, samples: int, empty: int) -> Tensor:
    """The first points within ``bounds``, as :func:`perceptkd.ops.ball_query.ball_query` has them for one cloud.

    Args:
        points: [N, 3] contiguous.
        centres: [M, 3] contiguous, of the same dtype.
        bounds: smallest and largest squared distance [2], in that dtype.
        samples: points per centre.
        empty: first index of a centre without points.

    Returns:
        int32 [M, samples].
    """
    found = torch.empty((len(centres), samples), dtype=torch.int32, device=points.device)
    if found.numel():
        grid = (len(centres),)
        slots = triton.next_power_of_2(samples)
        _query_kernel[grid](
            points,
            centres,
            bounds,
            found,
            len(points),
            samples,
            empty,
            SLOTS=slots,
            BLOCK=_BLOCK,
            enable_fp_fusion=False,
        )
    return found


@triton.jit
def _query_kernel(points, centres, bounds, found, count, samples, empty, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    centre_x, centre_y, centre_z = (
        tl.load(centres + 3 * row),
        tl.load(centres + 3 * row + 1),
        tl.load(centres + 3 * row + 2),
    )
    low, high = tl.load(bounds), tl.load(bounds + 1)
    found += row.to(tl.int64) * samples
    size = 0
    first = count
    start = 0
    while (start < count) & (size < samples):
        index = start + tl.arange(0, BLOCK)
        exists = index < count
        x = centre_x - tl.load(points + 3 * index, mask=exists)
        y = centre_y - tl.load(points + 3 * index + 1, mask=exists)
        z = centre_z - tl.load(points + 3 * index + 2, mask=exists)
        distance2 = x * x + y * y + z * z
        is_near = exists & ((distance2 == 0) | ((distance2 >= low) & (distance2 < high)))
        slot = size + tl.cumsum(is_near.to(tl.int32), 0) - 1
        tl.store(found + slot, index, mask=is_near & (slot < samples))
        first = tl.minimum(first, tl.min(tl.where(is_near, index, count), 0))
        size += tl.sum(is_near.to(tl.int32), 0)
        start += BLOCK
    slot = tl.arange(0, SLOTS)
    rest = tl.where(first < count, first, tl.where(slot == 0, empty, 0))
    tl.store(found + slot, rest, mask=(slot >= size) & (slot < samples))
