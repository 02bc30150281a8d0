"""Match rows of two sparse tensors by where they are: each encoder orders its voxels in its own way."""

from typing import Any

import torch
from torch import Tensor

from perceptkd.core.errors import InputError


def match_sparse(student: Any, teacher: Any) -> tuple[Tensor, Tensor]:
    """Rows of both tensors that are the same voxel of the same sample.

    Args:
        student: A sparse tensor of ours or of spconv, or int coordinates [N, D] (sample first).
        teacher: The other one [M, D], over the same grid.

    Returns:
        Row numbers into ``student`` and into ``teacher``, both [K], in the student's order.

    >>> a = torch.tensor([[0, 0, 1], [0, 2, 2], [1, 0, 1]])
    >>> b = torch.tensor([[1, 0, 1], [0, 0, 1]])
    >>> [rows.tolist() for rows in match_sparse(a, b)]
    [[0, 2], [1, 0]]
    """
    shapes = [tuple(t.spatial_shape) for t in (student, teacher) if hasattr(t, "spatial_shape")]
    if len(set(shapes)) > 1:
        raise InputError(f"Sparse taps of grids {shapes[0]} and {shapes[1]} have no common voxels; tap equal strides")
    first, second = _coordinates(student), _coordinates(teacher)
    if first.shape[1] != second.shape[1]:
        raise InputError(f"Sparse taps with {first.shape[1]} and {second.shape[1]} coordinates cannot be matched")
    if not len(first) or not len(second):
        empty = first.new_empty(0, dtype=torch.long)
        return empty, empty
    limits = torch.maximum(first.amax(dim=0), second.amax(dim=0)) + 1
    first_keys, second_keys = coordinate_keys(first, limits), coordinate_keys(second, limits)
    sorted_keys, order = second_keys.sort()
    place = torch.searchsorted(sorted_keys, first_keys).clamp(max=len(sorted_keys) - 1)
    rows = (sorted_keys[place] == first_keys).nonzero(as_tuple=True)[0]
    return rows, order[place[rows]]


def keep_common(student: Any, teacher: Any) -> tuple[Any, Any]:
    """Both sparse tensors, of ours or of spconv, cut down to the voxels that both have, row by row the same one.

    Returns:
        Sparse tensors of the types given, with K rows in the student's order.
    """
    both = zip((student, teacher), match_sparse(student, teacher))
    first, second = (
        type(tensor)(tensor.features[rows], tensor.indices[rows], tensor.spatial_shape, tensor.batch_size)
        for tensor, rows in both
    )
    return first, second


def count_points(points: Tensor, voxels: Tensor) -> Tensor:
    """How many points each voxel has.

    Args:
        points: The voxel of every point [P, D] (sample first), negative for a point that is in none.
        voxels: Different coordinates [M, D].

    Returns:
        Integers [M].

    >>> count_points(torch.tensor([[0, 1], [0, 2], [0, 1], [0, -1]]), torch.tensor([[0, 1], [1, 1]])).tolist()
    [2, 0]
    """
    occupied, counts = points[(points >= 0).all(dim=1)].unique(dim=0, return_counts=True)
    rows, found = match_sparse(voxels, occupied)
    return counts.new_zeros(len(voxels)).index_copy(0, rows, counts[found])


def coordinate_keys(coordinates: Tensor, limits: Tensor) -> Tensor:
    """One integer per row of non-negative coordinates [N, D] below ``limits`` [D], different for different rows."""
    if coordinates.min() < 0:
        raise ValueError("Sparse coordinates must not be negative")
    keys = torch.zeros(len(coordinates), dtype=torch.long, device=coordinates.device)
    for column, limit in zip(coordinates.long().unbind(dim=1), limits.long()):
        keys = keys * limit + column
    return keys


def _coordinates(tensor: Any) -> Tensor:
    if isinstance(tensor, Tensor):
        return tensor
    return tensor.coordinates if hasattr(tensor, "coordinates") else tensor.indices
