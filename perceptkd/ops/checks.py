"""Argument checks shared by the ops: the error names the argument, its shape and its dtype."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["floating point", "integer"]
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def describe(tensor: Tensor) -> str:
    """Shape and dtype of a tensor as errors print them."""
    return f"shape {tuple(tensor.shape)} and dtype {str(tensor.dtype).removeprefix('torch.')}"


def check_rows(name: str, tensor: Tensor, columns: int | None = None, *, at_least: int = 1) -> None:
    """Raises ValueError unless ``tensor`` is a floating point matrix with the wanted number of columns.

    Args:
        name: the argument's name, for the error.
        tensor: what was passed.
        columns: exact number of columns; None to ask only for ``at_least``.
        at_least: smallest number of columns when ``columns`` is None.
    """
    wanted = f"[N, {columns}]" if columns is not None else f"[N, >={at_least}]"
    fits = tensor.dim() == 2 and (tensor.shape[1] == columns if columns is not None else tensor.shape[1] >= at_least)
    if not fits or not tensor.is_floating_point():
        raise ValueError(f"{name} must be a floating point tensor {wanted}, got {describe(tensor)}")


def check_vector(name: str, tensor: Tensor, length: int) -> None:
    """Raises ValueError unless ``tensor`` is a vector of ``length`` elements."""
    if tensor.dim() != 1 or tensor.shape[0] != length:
        raise ValueError(f"{name} must be a vector of {length} elements, got {describe(tensor)}")


def check_tensor(name: str, tensor: Tensor, shape: Sequence[int | str], *, kind: Kind = "floating point") -> None:
    """Raises ValueError unless ``tensor`` has the wanted kind of dtype and shape.

    Args:
        name: the argument's name, for the error.
        tensor: what was passed.
        shape: the size of each dimension, or a letter where any size will do (the same one for the same letter).
        kind: of the dtype.

    >>> check_tensor("points", torch.zeros(2, 5, 2), ("B", "N", 3))
    Traceback (most recent call last):
    ValueError: points must be a floating point tensor [B, N, 3], got shape (2, 5, 2) and dtype float32
    """
    is_kind = tensor.is_floating_point() if kind == "floating point" else tensor.dtype in _INTEGERS
    sizes = dict(zip(shape, tensor.shape))
    fits = tensor.dim() == len(shape) and all(
        size == (sizes[wanted] if isinstance(wanted, str) else wanted) for wanted, size in zip(shape, tensor.shape)
    )
    if not fits or not is_kind:
        listed = ", ".join(str(size) for size in shape)
        article = "an" if kind == "integer" else "a"
        raise ValueError(f"{name} must be {article} {kind} tensor [{listed}], got {describe(tensor)}")


def check_same_device(**tensors: Tensor) -> None:
    """Raises ValueError when the named tensors do not all lie on one device."""
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        listed = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"the arguments must lie on one device, got {listed}; move them with .to(device)")
