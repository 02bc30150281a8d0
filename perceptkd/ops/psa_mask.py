"""Point-wise spatial attention: from windows around positions to the whole map (Zhao et al., PSANet, 2018)."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.checks import check_tensor
from perceptkd.ops.chunks import chunk
from perceptkd.ops.roi_parts import Pair

Mode = Literal["collect", "distribute"]

#: Indices that are computed at once: 8 MiB.
_INDICES = 2**20


def psa_mask(windows: Tensor, *, mask_size: Pair, mode: Mode) -> Tensor:
    """Spreads the window of every position over the map. Differentiable, once.

    Args:
        windows: [N, mask_H * mask_W, H, W]: for position (h, w), its weights for the positions around, row by row; the
            centre is element ((mask_H - 1) // 2, (mask_W - 1) // 2) of the window.
        mask_size: (mask_H, mask_W).
        mode: 'collect' puts the weight of (h, w) for (y, x) at [n, y * W + x, h, w], 'distribute' at
            [n, h * W + w, y, x].

    Returns:
        [N, H * W, H, W]; 0 where the window does not reach.

    >>> windows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).view(1, 3, 1, 2)
    >>> psa_mask(windows, mask_size=(1, 3), mode="distribute").view(2, 2).tolist()
    [[3.0, 5.0], [2.0, 4.0]]
    """
    check_tensor("windows", windows, ("N", mask_size[0] * mask_size[1], "H", "W"))
    if mode not in ("collect", "distribute"):
        raise ValueError(f"mode must be 'collect' or 'distribute', got {mode!r}")
    spread = _Spread.apply(windows, mask_size)
    return (spread if mode == "collect" else spread.transpose(1, 2)).unflatten(2, windows.shape[2:])


def psa_mask_gradient(grad_output: Tensor, *, mask_size: Pair, mode: Mode) -> Tensor:
    """Gradient of :func:`psa_mask` by its windows."""
    flat = grad_output.flatten(2)
    return _to_windows(flat if mode == "collect" else flat.transpose(1, 2), mask_size, grad_output.shape)


class _Spread(torch.autograd.Function):
    """Windows [N, mask_H * mask_W, H, W] to [N, other position, position]; every element moves to at most one place."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, mask_size: Pair) -> Tensor:
        ctx.mask_size, ctx.shape = mask_size, windows.shape
        height, width = windows.shape[2:]
        row, column = _window_corners(windows.shape, mask_size, windows.device)
        return _take(windows.flatten(2), mask_size, (height, width), -row, -column)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return _to_windows(grad_output, ctx.mask_size, ctx.shape), None


def _to_windows(spread: Tensor, mask_size: Pair, shape: torch.Size) -> Tensor:
    """The way back from [N, other position, position] to windows, for maps [_, _, H, W] of ``shape``."""
    height, width = shape[2:]
    row, column = _window_corners(shape, mask_size, spread.device)
    return _take(spread, (height, width), mask_size, row, column).unflatten(2, (height, width))


def _window_corners(shape: torch.Size, mask_size: Pair, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column in the map of the first element of each position's window, int64 [H * W]."""
    position = torch.arange(shape[2] * shape[3], device=device)
    return position // shape[3] - (mask_size[0] - 1) // 2, position % shape[3] - (mask_size[1] - 1) // 2


def _take(values: Tensor, source: Pair, target: Pair, row: Tensor, column: Tensor) -> Tensor:
    """Shifts a grid by another step for each position.

    Args:
        values: [N, source_H * source_W, P].
        source: (height, width) of the grid that is read.
        target: of the grid that is returned.
        row: int64 [P], where the target's first element lies in the source.
        column: as ``row``.

    Returns:
        [N, target_H * target_W, P], 0 where the source has no element.
    """
    output = values.new_empty(len(values), target[0] * target[1], len(row))
    for some in chunk(output.shape[1], len(row), _INDICES):
        element = torch.arange(output.shape[1], device=values.device)[some, None]
        rows, columns = element // target[1] + row, element % target[1] + column
        is_inside = (rows >= 0) & (rows < source[0]) & (columns >= 0) & (columns < source[1])
        indices = torch.where(is_inside, rows * source[1] + columns, 0)
        output[:, some] = torch.where(is_inside, values.gather(1, indices.expand(len(values), -1, -1)), 0)
    return output
