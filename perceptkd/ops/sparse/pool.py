"""Pooling over occupied cells only: an empty cell is no zero, it does not take part."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.sparse.conv import Sizes, expand_sizes
from perceptkd.ops.sparse.geometry import Geometry
from perceptkd.ops.sparse.kernel_map import KernelMap, build_kernel_map
from perceptkd.ops.sparse.modules import SparseModule
from perceptkd.ops.sparse.tensor import RecordedMap, SparseTensor

_NOTHING = -1


class SparsePool(SparseModule):
    """Base of the pools; the output sites are all cells whose window holds an input site, sorted by cell.

    Args:
        kernel_size, padding, dilation: one integer, or one per axis (z, y, x).
        stride: the same; the kernel size unless given.
        indice_key: name under which the kernel map is kept for an inverse convolution.
    """

    ndim: ClassVar[int]

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        indice_key: str | None = None,
    ) -> None:
        super().__init__()
        self.indice_key = indice_key
        self.geometry = Geometry(
            "strided",
            expand_sizes(kernel_size, self.ndim, "kernel_size"),
            expand_sizes(kernel_size if stride is None else stride, self.ndim, "stride"),
            expand_sizes(padding, self.ndim, "padding"),
            expand_sizes(dilation, self.ndim, "dilation"),
            (0,) * self.ndim,
        )

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Sparse tensor to sparse tensor."""
        if tensor.sites.ndim != self.ndim:
            raise ValueError(f"{type(self).__name__} takes grids of {self.ndim} axes, got {tensor.spatial_shape}")
        if self.indice_key is not None and self.indice_key in tensor.maps:
            raise ValueError(f"indice_key {self.indice_key!r} is taken by a layer before; use another key")
        kernel_map, target = build_kernel_map(tensor.sites, self.geometry)
        order = kernel_map.source_order
        rows = tensor.features if order is None else tensor.features[order.forward.long()]
        maps = tensor.maps
        if self.indice_key is not None:
            maps = {**maps, self.indice_key: RecordedMap(tensor.sites, target, self.geometry, kernel_map)}
        return SparseTensor.on_sites(self.reduce(rows, kernel_map), target, maps)

    def reduce(self, rows: Tensor, kernel_map: KernelMap) -> Tensor:
        """Sorted source rows [N, C] to target rows [M, C]."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.geometry}, indice_key={self.indice_key}"


class _MaxPool(torch.autograd.Function):
    """Maximum per target row and channel. As in dense pooling, of equal values the first kernel cell's counts."""

    @staticmethod
    def forward(ctx, rows: Tensor, kernel_map: KernelMap) -> Tensor:  # type: ignore[override]
        best = rows.new_zeros(kernel_map.num_targets, rows.shape[1])
        winner = torch.full(best.shape, _NOTHING, dtype=torch.int32, device=rows.device)
        for sources, targets in kernel_map.pairs:
            value, index = rows.index_select(0, sources), targets.long()
            held, holder = best.index_select(0, index), winner.index_select(0, index)
            better = (value > held) | (holder == _NOTHING) | value.isnan()
            best.index_copy_(0, index, torch.where(better, value, held))
            winner.index_copy_(0, index, torch.where(better, sources[:, None], holder))
        ctx.save_for_backward(winner)
        ctx.kernel_map = kernel_map
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        (winner,) = ctx.saved_tensors
        kernel_map: KernelMap = ctx.kernel_map
        result = gradient.new_zeros(kernel_map.num_sources, gradient.shape[1])
        for sources, targets in kernel_map.pairs:
            won = winner.index_select(0, targets) == sources[:, None]
            result.index_add_(0, sources.long(), gradient.index_select(0, targets) * won)
        return result, None


class SparseMaxPool(SparsePool):
    """Maximum over the occupied cells of each window."""

    def reduce(self, rows: Tensor, kernel_map: KernelMap) -> Tensor:
        return _MaxPool.apply(rows, kernel_map)


class SparseAvgPool(SparsePool):
    """Mean over the occupied cells of each window.

    The targets of one kernel cell are distinct, so each ``index_add_`` adds once per row and repeats exactly on CUDA.
    """

    def reduce(self, rows: Tensor, kernel_map: KernelMap) -> Tensor:
        wide = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
        total = wide.new_zeros(kernel_map.num_targets, rows.shape[1])
        count = wide.new_zeros(kernel_map.num_targets, 1)
        for sources, targets in kernel_map.pairs:
            total.index_add_(0, targets.long(), wide.index_select(0, sources))
            count.index_add_(0, targets.long(), wide.new_ones(len(targets), 1))
        return (total / count).to(rows.dtype)


class SparseMaxPool2d(SparseMaxPool):
    """:class:`SparseMaxPool` on (b, y, x)."""

    ndim = 2


class SparseMaxPool3d(SparseMaxPool):
    """:class:`SparseMaxPool` on (b, z, y, x)."""

    ndim = 3


class SparseAvgPool2d(SparseAvgPool):
    """:class:`SparseAvgPool` on (b, y, x)."""

    ndim = 2


class SparseAvgPool3d(SparseAvgPool):
    """:class:`SparseAvgPool` on (b, z, y, x)."""

    ndim = 3


class SparseGlobalPool(SparseModule):
    """Base of the pools over all sites of a sample."""

    def forward(self, tensor: SparseTensor) -> Tensor:
        """Sparse tensor to [B, C]; a sample without sites gives zeros."""
        order = tensor.sites.order
        rows = tensor.features if order is None else tensor.features[order.forward.long()]
        lengths = torch.bincount(tensor.coordinates[:, 0], minlength=tensor.batch_size).tolist()
        return torch.stack([self.reduce(part) if len(part) else part.sum(0) for part in rows.split(lengths)])

    def reduce(self, rows: Tensor) -> Tensor:
        """The rows [N, C] of one sample to [C]."""
        raise NotImplementedError


class SparseGlobalMaxPool(SparseGlobalPool):
    """Maximum per sample and channel."""

    def reduce(self, rows: Tensor) -> Tensor:
        return rows.amax(0)


class SparseGlobalAvgPool(SparseGlobalPool):
    """Mean per sample and channel."""

    def reduce(self, rows: Tensor) -> Tensor:
        return rows.mean(0)
