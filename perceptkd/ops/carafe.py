"""Content-aware reassembly of features (Wang et al., CARAFE, 2019): upsampling with a kernel for each output pixel."""

from functools import partial

import torch
from torch import Tensor

from perceptkd.ops.bilinear import pixel_rows, weighted_rows
from perceptkd.ops.checks import check_same_device, check_tensor
from perceptkd.ops.chunks import chunk
from perceptkd.ops.recompute import recomputed_gradients

#: Pixels that are summed at once, counting each use: 48 MiB of indices and weights. A single sample's may be more.
_PIXELS = 2**22


def carafe(features: Tensor, masks: Tensor, *, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Output pixel (y, x) is the sum of the pixels around (y // scale, x // scale) by its own kernel.

    Args:
        features: [N, C, H, W].
        masks: [N, groups * kernel_size ** 2, scale * H, scale * W], the kernels row by row.
        kernel_size: odd; a kernel's tap outside the map reads 0.
        group_size: number of groups (mmcv's name), equal parts of the channels with their own kernels.
        scale_factor: of the upsampling.

    Returns:
        [N, C, scale * H, scale * W] in the dtype of ``features``, summed in float32 or better; differentiable by both.

    >>> features = torch.tensor([[[[1.0, 2.0]]]])
    >>> masks = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 1, 2, 4)
    >>> carafe(features, masks, kernel_size=1, group_size=1, scale_factor=2)[0, 0, 0].tolist()
    [1.0, 2.0, 6.0, 8.0]
    """
    _check(features, masks, kernel_size, group_size, scale_factor)
    parts = _parts(features, masks)
    return torch.cat([_reassemble(features[part], masks[part], kernel_size, scale_factor) for part in parts])


def carafe_gradients(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    *,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`carafe` by features and masks, computed part by part of the batch."""
    _check(features, masks, kernel_size, group_size, scale_factor)
    reassemble = partial(_reassemble, kernel_size=kernel_size, scale=scale_factor)
    gradients = [
        recomputed_gradients(reassemble, [features[part], masks[part]], grad_output[part])
        for part in _parts(features, masks)
    ]
    grad_features, grad_masks = (torch.cat(parts) for parts in zip(*gradients))
    return grad_features, grad_masks


def _parts(features: Tensor, masks: Tensor) -> list[slice]:
    return chunk(len(features), masks[:1].numel(), _PIXELS)


def _reassemble(features: Tensor, masks: Tensor, kernel_size: int, scale: int) -> Tensor:
    """One part of the batch."""
    samples, channels, height, width = features.shape
    groups = masks.shape[1] // kernel_size**2
    taps = torch.arange(kernel_size, device=features.device) - kernel_size // 2
    rows = torch.arange(height * scale, device=features.device)[:, None] // scale + taps
    columns = torch.arange(width * scale, device=features.device)[:, None] // scale + taps
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    pixels = rows.clamp(0, height - 1)[:, None, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    kernels = masks.unflatten(1, (groups, -1)).permute(0, 3, 4, 1, 2)
    weights = torch.where(inside.flatten(2)[:, :, None], kernels, 0)
    first_pixel = torch.arange(samples, device=features.device).view(-1, 1, 1, 1, 1) * (height * width)
    group = torch.arange(groups, device=features.device)[:, None]
    indices = (pixels.flatten(2)[:, :, None] + first_pixel) * groups + group
    table = pixel_rows(features).reshape(-1, channels // groups)
    summed = weighted_rows(table, indices.flatten(0, 3), weights.flatten(0, 3))
    return summed.view(samples, *masks.shape[2:], channels).permute(0, 3, 1, 2)


def _check(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> None:
    check_tensor("features", features, ("N", "C", "H", "W"))
    samples, channels, height, width = features.shape
    if channels % group_size:
        raise ValueError(f"{channels} channels of features cannot be cut into {group_size} groups")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    check_tensor("masks", masks, (samples, group_size * kernel_size**2, height * scale_factor, width * scale_factor))
    check_same_device(features=features, masks=masks)
