"""Multi-scale deformable attention (Zhu et al., Deformable DETR, 2021, eq. 3).

Each head of a query reads a few points on each of several maps, bilinearly, and sums them by its attention weights:
one weighted sum of 4 * levels * points rows of the values. On CUDA a Triton kernel reads them one by one.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from perceptkd.ops.bilinear import bilinear_corners, weighted_rows
from perceptkd.ops.checks import check_same_device, check_tensor
from perceptkd.ops.chunks import chunk
from perceptkd.ops.recompute import recomputed_gradients
from perceptkd.ops.triton_kernels import runs_on_triton

#: Pixels that are summed at once, counting each use: at about 50 bytes of indices and weights, 100 MiB.
_PIXELS = 2**21

#: Height, width and first key of a level.
Level = tuple[int, int, int]


def ms_deform_attn(
    value: Tensor, spatial_shapes: Tensor, level_start: Tensor, locations: Tensor, attention: Tensor
) -> Tensor:
    """Attention of queries to points on maps. Differentiable by the floating point tensors.

    Args:
        value: [B, keys, heads, dim], the pixels of all levels, each level's row by row.
        spatial_shapes: int64 [levels, 2], (height, width) of each level.
        level_start: int64 [levels], the key where each level starts.
        locations: [B, queries, heads, levels, points, 2] as (x, y): 0 is the left or upper border of the first pixel,
            1 the right or lower border of the last one. Outside the map is 0.
        attention: [B, queries, heads, levels, points].

    Returns:
        [B, queries, heads * dim] in the dtype of ``value``, summed in float32 or better.

    >>> value = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)  # one map of 1 x 2 pixels
    >>> middle = torch.full((1, 1, 1, 1, 1, 2), 0.5)
    >>> ms_deform_attn(value, torch.tensor([[1, 2]]), torch.tensor([0]), middle, torch.ones(1, 1, 1, 1, 1)).item()
    2.0
    """
    levels = _check(value, spatial_shapes, level_start, locations, attention)
    if runs_on_triton(value):
        from perceptkd.ops.triton_kernels.ms_deform_attn import DeformableAttention

        return DeformableAttention.apply(value, spatial_shapes, level_start, locations, attention).to(value.dtype)
    output = [
        torch.cat([_attend(value[part], locations[part, some], attention[part, some], levels) for some in queries], 1)
        for part, queries in _parts(locations)
    ]
    return torch.cat(output)


def ms_deform_attn_gradients(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start: Tensor,
    locations: Tensor,
    attention: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`ms_deform_attn` by value, locations and attention, computed part by part of the queries."""
    levels = _check(value, spatial_shapes, level_start, locations, attention)
    if runs_on_triton(value):
        from perceptkd.ops.triton_kernels import ms_deform_attn as kernels

        by_value, by_locations, by_attention = kernels.attend_gradients(
            grad_output, value, spatial_shapes, level_start, locations, attention
        )
        return by_value.to(value.dtype), by_locations.to(locations.dtype), by_attention.to(attention.dtype)
    grad_value = torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
    grad_locations, grad_attention = torch.empty_like(locations), torch.empty_like(attention)
    attend = partial(_attend, levels=levels)
    for part, queries in _parts(locations):
        for some in queries:
            inputs = [value[part], locations[part, some], attention[part, some]]
            gradients = recomputed_gradients(attend, inputs, grad_output[part, some])
            grad_value[part] += gradients[0]
            grad_locations[part, some], grad_attention[part, some] = gradients[1:]
    return grad_value.to(value.dtype), grad_locations, grad_attention


def _parts(locations: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Parts of the batch and of its queries that are computed at once."""
    samples, queries, *rest = locations.shape[:5]
    pixels = 4 * torch.Size(rest).numel()
    for part in chunk(samples, queries * pixels, _PIXELS):
        yield part, chunk(queries, (part.stop - part.start) * pixels, _PIXELS)


def _attend(value: Tensor, locations: Tensor, attention: Tensor, levels: list[Level]) -> Tensor:
    samples, keys, heads, dim = value.shape
    locations = locations.to(torch.promote_types(locations.dtype, torch.float32))
    indices, weights = [], []
    for (height, width, start), points, factors in zip(levels, locations.unbind(3), attention.unbind(3)):
        x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
        pixels, shares = bilinear_corners(y, x, height, width, border="zeros")
        indices.append(pixels.flatten(3) + start)
        weights.append((shares * factors[..., None]).flatten(3))
    first_key = torch.arange(samples, device=value.device).view(-1, 1, 1, 1) * keys
    rows = (torch.cat(indices, 3) + first_key) * heads + torch.arange(heads, device=value.device)[:, None]
    summed = weighted_rows(value.reshape(-1, dim), rows.flatten(0, 2), torch.cat(weights, 3).flatten(0, 2))
    return summed.view(samples, attention.shape[1], heads * dim)


def _check(
    value: Tensor, spatial_shapes: Tensor, level_start: Tensor, locations: Tensor, attention: Tensor
) -> list[Level]:
    """Returns the levels; reading their sizes waits for a GPU."""
    check_tensor("value", value, ("B", "keys", "heads", "dim"))
    check_tensor("spatial_shapes", spatial_shapes, ("levels", 2), kind="integer")
    samples, keys, heads, _ = value.shape
    count = len(spatial_shapes)
    check_tensor("level_start", level_start, (count,), kind="integer")
    check_tensor("locations", locations, (samples, "queries", heads, count, "points", 2))
    check_tensor("attention", attention, tuple(locations.shape[:5]))
    check_same_device(
        value=value, spatial_shapes=spatial_shapes, level_start=level_start, locations=locations, attention=attention
    )
    levels = [(*size, start) for size, start in zip(spatial_shapes.tolist(), level_start.tolist())]
    if not levels or any(start < 0 or start + height * width > keys for height, width, start in levels):
        raise ValueError(f"value must hold the keys of every level (height, width, start) of {levels}, got {keys} keys")
    return levels
