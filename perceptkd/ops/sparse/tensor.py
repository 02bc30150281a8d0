"""The sparse tensor that all layers take and return."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from perceptkd.ops.sparse.geometry import Geometry
from perceptkd.ops.sparse.kernel_map import KernelMap
from perceptkd.ops.sparse.keys import pack_keys
from perceptkd.ops.sparse.sites import Sites

GIB = 2**30
DENSE_LIMIT_GIB = 8.0


@dataclass(frozen=True, eq=False)
class RecordedMap:
    """A kernel map under an indice key: what a later layer needs to run it again, or backwards."""

    source: Sites
    target: Sites
    geometry: Geometry
    kernel_map: KernelMap


class SparseTensor:
    """Features of the occupied cells of a batch of grids.

    The constructor's arguments and ``indices``, ``dense`` and ``replace_feature`` are those of spconv's
    ``SparseConvTensor``. A tensor never changes: layers return new ones, which share coordinates and maps.

    Args:
        features: [N, C], floating point.
        coordinates: int32 [N, D + 1], (b, z, y, x) or (b, y, x), distinct, in any order.
        spatial_shape: D grid sizes, in the order of the columns.
        batch_size: number of samples; samples may be empty.

    >>> import torch
    >>> tensor = SparseTensor(torch.ones(2, 4), torch.tensor([[0, 1, 1], [0, 2, 0]]).int(), (3, 3), 1)
    >>> tensor.to_dense().shape
    torch.Size([1, 4, 3, 3])
    """

    def __init__(
        self, features: Tensor, coordinates: Tensor, spatial_shape: Sequence[int] | Tensor, batch_size: int
    ) -> None:
        self._set(features, Sites(coordinates, spatial_shape, batch_size), {})

    @classmethod
    def on_sites(cls, features: Tensor, sites: Sites, maps: dict[str, RecordedMap] | None = None) -> "SparseTensor":
        """A tensor on sites that exist already; ``maps`` are the kernel maps recorded by indice key so far."""
        tensor = cls.__new__(cls)
        tensor._set(features, sites, maps or {})
        return tensor

    def _set(self, features: Tensor, sites: Sites, maps: dict[str, RecordedMap]) -> None:
        if features.dim() != 2 or features.shape[0] != len(sites) or not features.is_floating_point():
            raise ValueError(
                f"features must be floating point [{len(sites)}, C], one row per coordinate, "
                f"got {features.dtype} {tuple(features.shape)}"
            )
        if features.device != sites.coordinates.device:
            raise ValueError(f"features lie on {features.device} but coordinates on {sites.coordinates.device}")
        self.features = features
        self.sites = sites
        self.maps = maps

    @property
    def coordinates(self) -> Tensor:
        """int32 [N, D + 1], (b, z, y, x) or (b, y, x)."""
        return self.sites.coordinates

    @property
    def indices(self) -> Tensor:
        """The coordinates, by spconv's name."""
        return self.sites.coordinates

    @property
    def spatial_shape(self) -> list[int]:
        """Grid sizes, in the order of the coordinates."""
        return list(self.sites.spatial_shape)

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return self.sites.batch_size

    def replace_feature(self, features: Tensor) -> "SparseTensor":
        """The same cells with other features [N, C']."""
        return SparseTensor.on_sites(features, self.sites, self.maps)

    def detach(self) -> "SparseTensor":
        """The same cells, features cut from the graph."""
        return self.replace_feature(self.features.detach())

    def clone(self) -> "SparseTensor":
        """The same cells, features copied."""
        return self.replace_feature(self.features.clone())

    def to(self, *args: Any, **kwargs: Any) -> "SparseTensor":
        """Converts features as ``Tensor.to`` does; another device drops the cached maps, which lie on this one."""
        features = self.features.to(*args, **kwargs)
        if features.device == self.features.device:
            return self.replace_feature(features)
        return SparseTensor(features, self.coordinates.to(features.device), self.spatial_shape, self.batch_size)

    def to_dense(self, channels_first: bool = True, *, limit_gib: float = DENSE_LIMIT_GIB) -> Tensor:
        """The grids with zeros in the empty cells.

        Args:
            channels_first: [B, C, (Z,) Y, X] instead of [B, (Z,) Y, X, C].
            limit_gib: largest result to allocate, in GiB.
        """
        sites, channels = self.sites, self.features.shape[1]
        shape = (sites.batch_size, *sites.spatial_shape)
        gib = math.prod(shape) * channels * self.features.element_size() / GIB
        if gib > limit_gib:
            raise ValueError(
                f"to_dense would take {gib:.1f} GiB for {channels} channels on {sites.batch_size} grids of "
                f"{sites.spatial_shape}, the limit is {limit_gib:g} GiB; downsample first or pass limit_gib"
            )
        _ = sites.order  # raises on duplicate cells
        cells = math.prod(sites.spatial_shape)
        keys = pack_keys(sites.coordinates, sites.spatial_shape)
        if not channels_first:
            rows = self.features.new_zeros(sites.batch_size * cells, channels)
            return rows.index_copy_(0, keys, self.features).view(*shape, channels)
        sample = sites.coordinates[:, 0].long()
        grids = self.features.new_zeros(sites.batch_size, channels, cells)
        grids[sample, :, keys - sample * cells] = self.features
        return grids.view(sites.batch_size, channels, *sites.spatial_shape)

    dense = to_dense

    def __len__(self) -> int:
        return len(self.sites)

    def __repr__(self) -> str:
        return (
            f"SparseTensor(features={list(self.features.shape)} {self.features.dtype}, "
            f"spatial_shape={self.spatial_shape}, batch_size={self.batch_size})"
        )
