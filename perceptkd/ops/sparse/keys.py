"""Cells of a batch of grids as sorted integers, and the checks that make such keys safe."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

AXES = {1: "bx", 2: "byx", 3: "bzyx"}
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


def linear_keys(coordinates: Tensor, spatial_shape: Sequence[int], batch_size: int) -> Tensor:
    """Numbers the cells of a batch of grids in row-major order, so that rows of sparse tensors match by one integer.

    Args:
        coordinates: integers [N, D + 1], columns (b, z, y, x) or (b, y, x).
        spatial_shape: D grid sizes in the order of the columns.
        batch_size: number of grids.

    Returns:
        int64 [N]; equal keys are equal cells, and a larger key is a later cell.

    >>> linear_keys(torch.tensor([[0, 0, 2], [1, 3, 0]]), (4, 5), 2).tolist()
    [2, 35]
    """
    shape = check_grid(spatial_shape, batch_size)
    check_coordinates(coordinates, shape, batch_size)
    return pack_keys(coordinates, shape)


def pack_keys(coordinates: Tensor, pitch: Sequence[int]) -> Tensor:
    """Row-major keys, int64 [N], of checked coordinates in a grid whose axes are ``pitch`` cells long."""
    columns = coordinates.long().unbind(1)
    keys = columns[0]
    for column, length in zip(columns[1:], pitch):
        keys = keys * length + column
    return keys


def unpack_keys(keys: Tensor, spatial_shape: Sequence[int]) -> Tensor:
    """The coordinates, int32 [N, D + 1], of row-major keys."""
    columns = []
    for length in reversed(spatial_shape):
        columns.append(keys % length)
        keys = torch.div(keys, length, rounding_mode="floor")
    return torch.stack([keys, *reversed(columns)], dim=1).int()


def check_grid(spatial_shape: Sequence[int] | Tensor, batch_size: int) -> tuple[int, ...]:
    """Returns the grid's shape as integers; raises ValueError when its cells cannot be numbered."""
    shape = tuple(int(length) for length in spatial_shape)
    if len(shape) not in AXES:
        raise ValueError(f"spatial_shape must have 1 to 3 axes, got {shape}")
    if min(shape) < 1 or batch_size < 1:
        raise ValueError(f"spatial_shape and batch_size must be positive, got {shape} and {batch_size}")
    if max(*shape, batch_size) > INT32_MAX:
        raise ValueError(f"int32 overflow: spatial_shape {shape} or batch_size {batch_size} exceeds {INT32_MAX}")
    if math.prod(shape) * batch_size > INT64_MAX:
        raise ValueError(f"int64 overflow: {batch_size} grids of {shape} have more than {INT64_MAX} cells")
    return shape


def check_coordinates(coordinates: Tensor, spatial_shape: tuple[int, ...], batch_size: int) -> None:
    """Raises unless the coordinates are integers inside the grid; the error names the axis, the row and the value."""
    columns = len(spatial_shape) + 1
    if coordinates.dim() != 2 or coordinates.shape[1] != columns:
        names = ", ".join(AXES[len(spatial_shape)])
        raise ValueError(
            f"coordinates must have shape [N, {columns}] ({names}) for the grid {spatial_shape}, "
            f"got {tuple(coordinates.shape)}"
        )
    if coordinates.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"coordinates must be int32 (or int64), got {coordinates.dtype}; convert them with .int()")
    if len(coordinates) == 0:
        return
    limits = (batch_size, *spatial_shape)
    lowest, highest = torch.stack(torch.aminmax(coordinates, dim=0)).tolist()
    for axis, (low, high, limit) in enumerate(zip(lowest, highest, limits)):
        if low < 0 or high >= limit:
            _raise_outside(coordinates[:, axis], AXES[len(spatial_shape)][axis], low if low < 0 else high, limit)


def _raise_outside(column: Tensor, axis: str, value: int, limit: int) -> None:
    row = int(torch.nonzero(column == value)[0, 0])
    kind = "int32 overflow" if abs(value) > INT32_MAX else "coordinate out of range"
    remedy = "raise batch_size" if axis == "b" else "drop such rows or enlarge spatial_shape"
    raise ValueError(f"{kind}: {axis} = {value} in row {row}, the grid allows 0 to {limit - 1}; {remedy}")
