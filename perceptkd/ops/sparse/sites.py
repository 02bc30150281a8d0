"""The occupied cells of a sparse tensor: everything about it but its features."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from perceptkd.ops.grouping import argsort_keys
from perceptkd.ops.sparse.keys import AXES, check_coordinates, check_grid, pack_keys


@dataclass(frozen=True)
class Order:
    """The permutation that sorts rows by cell.

    Attributes:
        forward: int32 [N], ``rows[forward]`` is sorted.
        inverse: int32 [N], ``rows[forward][inverse]`` is ``rows``.
    """

    forward: Tensor
    inverse: Tensor


class Sites:
    """N distinct cells of a batch of grids, shared by all sparse tensors that live on them.

    Kernel maps that start here are cached by geometry, so layers share them whether or not they name an indice key.

    Args:
        coordinates: integers [N, D + 1] (b, z, y, x) or (b, y, x), stored as int32.
        spatial_shape: D grid sizes.
        batch_size: number of grids.
    """

    def __init__(self, coordinates: Tensor, spatial_shape: Sequence[int] | Tensor, batch_size: int) -> None:
        self.batch_size = int(batch_size)
        self.spatial_shape = check_grid(spatial_shape, self.batch_size)
        check_coordinates(coordinates, self.spatial_shape, self.batch_size)
        self.coordinates = coordinates.int().contiguous()
        self.maps: dict[Any, Any] = {}

    @classmethod
    def from_sorted(cls, coordinates: Tensor, spatial_shape: tuple[int, ...], batch_size: int) -> "Sites":
        """Sites whose coordinates are known to be distinct, sorted and inside the grid."""
        sites = cls.__new__(cls)
        sites.coordinates, sites.spatial_shape, sites.batch_size = coordinates, spatial_shape, batch_size
        sites.maps = {}
        sites.order = None
        return sites

    def __len__(self) -> int:
        return self.coordinates.shape[0]

    @property
    def ndim(self) -> int:
        """Number of spatial axes, D."""
        return len(self.spatial_shape)

    @cached_property
    @torch.inference_mode(False)
    def order(self) -> Order | None:
        """How to sort the rows by cell; None where they are sorted. Raises ValueError when a cell occurs twice."""
        keys = pack_keys(self.coordinates, self.spatial_shape)
        if bool((keys[1:] > keys[:-1]).all()):
            return None
        forward = argsort_keys(keys)
        ordered = keys[forward]
        twice = torch.nonzero(ordered[1:] == ordered[:-1]).squeeze(1)
        if len(twice):
            self._raise_duplicate(forward[twice[0]], forward[twice[0] + 1], len(twice))
        inverse = torch.empty_like(forward)
        inverse[forward] = torch.arange(len(forward), device=forward.device)
        return Order(forward.int(), inverse.int())

    @property
    def sorted_coordinates(self) -> Tensor:
        """int32 [N, D + 1], in increasing order of cells."""
        order = self.order
        return self.coordinates if order is None else self.coordinates.index_select(0, order.forward)

    def equals(self, other: "Sites") -> bool:
        """Whether both hold the same cells of the same grids, in any order of rows."""
        if self is other:
            return True
        if (self.spatial_shape, self.batch_size, len(self)) != (other.spatial_shape, other.batch_size, len(other)):
            return False
        return torch.equal(self.sorted_coordinates, other.sorted_coordinates)

    def _raise_duplicate(self, first: Tensor, second: Tensor, count: int) -> None:
        cell = ", ".join(f"{a}={v}" for a, v in zip(AXES[self.ndim], self.coordinates[first].tolist()))
        raise ValueError(
            f"coordinates must be distinct, but rows {int(first)} and {int(second)} are both the cell ({cell}), and "
            f"{count} rows in all repeat a cell; voxelize the points, or merge the rows, first"
        )
