"""Sparse convolution layers, with the names, arguments and weights of spconv 2.

Weights are stored as spconv stores them, [C_out, (kz,) ky, kx, C_in], and checkpoints of spconv 1 and mmcv, which are
[(kz,) ky, kx, C_in, C_out], are turned round on loading. A kernel of one cell is a plain product; spconv reads the
memory of its weight as a matrix [C_in, C_out] there, so this does too, or trained weights would mean something else.
Older checkpoints hold that very matrix, so there the memory is kept and only the shape changes.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from perceptkd.ops.sparse.backend import sparse_convolution
from perceptkd.ops.sparse.geometry import Geometry, Kind
from perceptkd.ops.sparse.kernel_map import KernelMap, build_kernel_map
from perceptkd.ops.sparse.modules import SparseModule
from perceptkd.ops.sparse.sites import Sites
from perceptkd.ops.sparse.tensor import RecordedMap, SparseTensor

Sizes = int | Sequence[int]
#: The map to run, the sites it leads to, and the maps by indice key that are known from there on.
Route = tuple[KernelMap, Sites, dict[str, RecordedMap]]
KRSC_VERSION = 2


def expand_sizes(sizes: Sizes, ndim: int, name: str) -> tuple[int, ...]:
    """One integer per axis from one integer or one per axis."""
    expanded = (sizes,) * ndim if isinstance(sizes, int) else tuple(int(size) for size in sizes)
    if len(expanded) != ndim or min(expanded) < (0 if "padding" in name else 1):
        raise ValueError(f"{name} must be one integer or {ndim} of them, in range; got {sizes}")
    return expanded


def _fold(norm: _BatchNorm, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Batch norm in eval mode as one factor and one summand per channel; the summand holds the layer's bias too."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale if bias is None else (bias - norm.running_mean) * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _scale(matrices: Tensor, scale: Tensor | None) -> Tensor:
    return matrices if scale is None else (matrices * scale).to(matrices.dtype)


def _add_bias(features: Tensor, bias: Tensor | None) -> Tensor:
    return features if bias is None else features + bias.to(features.dtype)


class SparseConvolution(SparseModule):
    """Base of all layers here; a subclass sets ``ndim`` and ``kind``.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size, stride, padding, dilation, output_padding: one integer, or one per axis (z, y, x). A submanifold
            layer is always padded to keep its sites, so ``padding`` says nothing there.
        groups: must be 1.
        bias: whether to add a bias.
        indice_key: name under which the kernel map is kept for an inverse convolution.
    """

    ndim: ClassVar[int]
    kind: ClassVar[Kind]
    folds_norm = True
    _version = KRSC_VERSION

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes = 3,
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        output_padding: Sizes = 0,
    ) -> None:
        super().__init__()
        if groups != 1:
            raise ValueError(f"sparse convolution has no groups; got groups={groups}, use groups=1")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = expand_sizes(kernel_size, self.ndim, "kernel_size")
        self.stride = expand_sizes(stride, self.ndim, "stride")
        self.padding = expand_sizes(padding, self.ndim, "padding")
        self.dilation = expand_sizes(dilation, self.ndim, "dilation")
        self.output_padding = expand_sizes(output_padding, self.ndim, "output_padding")
        self.indice_key = indice_key
        self._check_geometry()
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel_size, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def _check_geometry(self) -> None:
        if self.kind != "submanifold":
            return
        if max(self.stride) > 1:
            raise ValueError(f"a submanifold convolution keeps its sites; stride must be 1, got {self.stride}")
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"a submanifold kernel needs a centre cell; make {self.kernel_size} odd")

    def reset_parameters(self) -> None:
        """Draws weights and bias as dense convolutions do: uniform within 1 / sqrt(fan in)."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def geometry(self) -> Geometry:
        """What decides the kernel map."""
        padding = (0,) * self.ndim if self.kind == "submanifold" else self.padding
        return Geometry(self.kind, self.kernel_size, self.stride, padding, self.dilation, self.output_padding)

    @property
    def is_pointwise(self) -> bool:
        """Whether this is a product per site that needs no kernel map."""
        geometry = self.geometry
        return geometry.volume == 1 and max(geometry.stride) == 1 and max(geometry.padding) == 0

    @torch.compiler.disable(reason="the kernel map depends on the data")
    def forward(self, tensor: SparseTensor, norm: _BatchNorm | None = None) -> SparseTensor:
        """Sparse tensor to sparse tensor; the output of a layer that is not submanifold is sorted by cell.

        ``torch.compile`` leaves this out: one break of the graph per layer.

        Args:
            tensor: the input.
            norm: batch norm behind this layer, in eval mode; its scale goes into the weights, its shift into the bias.
        """
        self._check_input(tensor)
        scale, shift = (None, self.bias) if norm is None else _fold(norm, self.bias)
        if self.is_pointwise:
            features = tensor.features @ _scale(self.weight.view(self.in_channels, self.out_channels), scale)
            return tensor.replace_feature(_add_bias(features, shift))
        kernel_map, target, maps = self._find_route(tensor)
        matrices = self.weight.flatten(1, -2).permute(1, 2, 0)[: len(kernel_map.pairs)]
        features = sparse_convolution(tensor.features, _scale(matrices, scale), kernel_map)
        return SparseTensor.on_sites(_add_bias(features, shift), target, maps)

    def _find_route(self, tensor: SparseTensor) -> Route:
        record = self._find_map(tensor)
        maps = tensor.maps if self.indice_key is None else {**tensor.maps, self.indice_key: record}
        return record.kernel_map, record.target, maps

    def _check_input(self, tensor: SparseTensor) -> None:
        if not isinstance(tensor, SparseTensor):
            raise TypeError(f"{type(self).__name__} takes a SparseTensor, got {type(tensor).__name__}")
        if tensor.sites.ndim != self.ndim:
            raise ValueError(f"{type(self).__name__} takes grids of {self.ndim} axes, got {tensor.spatial_shape}")
        if tensor.features.shape[1] != self.in_channels:
            raise ValueError(f"expected {self.in_channels} input channels, got {tensor.features.shape[1]}")

    def _find_map(self, tensor: SparseTensor) -> RecordedMap:
        geometry = self.geometry
        recorded = tensor.maps.get(self.indice_key) if self.indice_key is not None else None
        if recorded is not None and self._shares(recorded, tensor):
            return recorded
        if recorded is not None and (recorded.source is not tensor.sites or recorded.geometry != geometry):
            where = "other sites" if recorded.geometry == geometry else f"{recorded.geometry}, not {geometry}"
            raise ValueError(f"indice_key {self.indice_key!r} is taken by a layer on {where}; use another key")
        kernel_map, target = build_kernel_map(tensor.sites, geometry)
        return recorded or RecordedMap(tensor.sites, target, geometry, kernel_map)

    def _shares(self, recorded: RecordedMap, tensor: SparseTensor) -> bool:
        """Whether a map recorded for another geometry serves all the same."""
        return False

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        key = f"{prefix}weight"
        stored = state_dict.get(key)
        turned = (*self.kernel_size, self.in_channels, self.out_channels)
        if stored is not None and tuple(stored.shape) == turned:
            is_ambiguous = turned == tuple(self.weight.shape)
            if not is_ambiguous or local_metadata.get("version") != KRSC_VERSION:
                kept = self.is_pointwise
                state_dict = {**state_dict, key: stored.reshape(self.weight.shape) if kept else stored.movedim(-1, 0)}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, indice_key={self.indice_key}"
        )


class SparseInverseConvolution(SparseConvolution):
    """Runs the map of the layer that recorded ``indice_key`` backwards: from its output's sites to its input's."""

    kind = "strided"

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, indice_key: str | None = None, bias: bool = True
    ) -> None:
        if indice_key is None:
            raise ValueError(f"{type(self).__name__} needs the indice_key of the layer that it inverts")
        super().__init__(in_channels, out_channels, kernel_size, bias=bias, indice_key=indice_key)

    def _find_route(self, tensor: SparseTensor) -> Route:
        """Coarse to fine, on the recorded layer's input sites."""
        record = tensor.maps.get(self.indice_key or "")
        if record is None:
            known = ", ".join(sorted(tensor.maps)) or "none"
            raise ValueError(f"no layer before this one recorded indice_key {self.indice_key!r}; recorded: {known}")
        if record.geometry.kind == "submanifold":
            raise ValueError(f"indice_key {self.indice_key!r} is of a submanifold layer, which has no inverse")
        if record.geometry.kernel_size != self.kernel_size:
            raise ValueError(f"kernel_size {self.kernel_size} must equal the inverted layer's, {record.geometry}")
        if record.target is not tensor.sites:
            raise ValueError(f"the input does not lie on the output sites of the layer of {self.indice_key!r}")
        return record.kernel_map.flipped(), record.source, tensor.maps


class SubMConv2d(SparseConvolution):
    """Convolution whose output sites are its input sites, on (b, y, x)."""

    ndim, kind = 2, "submanifold"


class SubMConv3d(SparseConvolution):
    """Convolution whose output sites are its input sites, on (b, z, y, x)."""

    ndim, kind = 3, "submanifold"


class KeyedSubMConv3d(SubMConv3d):
    """:class:`SubMConv3d` as mmcv has it: the first layer with an ``indice_key`` makes the map for all others.

    A layer whose kernel has more cells than the map uses the first of them only. mmdet3d's Cylinder3D was published so:
    its layers of 1x3x3, 3x1x3 and 3x3x3 cells all read those of the first with their key, and its weights fit no other
    reading.
    """

    def _shares(self, recorded: RecordedMap, tensor: SparseTensor) -> bool:
        is_same_kind = recorded.geometry.kind == self.kind and recorded.source is tensor.sites
        return is_same_kind and math.prod(recorded.geometry.kernel_size) <= math.prod(self.kernel_size)


class SparseConv2d(SparseConvolution):
    """Convolution whose output sites are all cells that an input site reaches, on (b, y, x)."""

    ndim, kind = 2, "strided"


class SparseConv3d(SparseConvolution):
    """Convolution whose output sites are all cells that an input site reaches, on (b, z, y, x)."""

    ndim, kind = 3, "strided"


class SparseConvTranspose2d(SparseConvolution):
    """Transposed convolution that makes new sites, on (b, y, x)."""

    ndim, kind = 2, "transposed"


class SparseConvTranspose3d(SparseConvolution):
    """Transposed convolution that makes new sites, on (b, z, y, x)."""

    ndim, kind = 3, "transposed"


class SparseInverseConv2d(SparseInverseConvolution):
    """Inverse of a recorded layer, on (b, y, x)."""

    ndim = 2


class SparseInverseConv3d(SparseInverseConvolution):
    """Inverse of a recorded layer, on (b, z, y, x)."""

    ndim = 3
