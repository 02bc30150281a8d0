"""Sparse convolution: names, arguments and weights of spconv 2, on any device, without compiled code."""

from perceptkd.ops.sparse.backend import chosen_backend, sparse_convolution
from perceptkd.ops.sparse.conv import (
    SparseConv2d,
    SparseConv3d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SubMConv2d,
    SubMConv3d,
)
from perceptkd.ops.sparse.join import sparse_add, sparse_concat
from perceptkd.ops.sparse.keys import linear_keys
from perceptkd.ops.sparse.modules import SparseModule, SparseSequential, ToDense
from perceptkd.ops.sparse.pool import (
    SparseAvgPool2d,
    SparseAvgPool3d,
    SparseGlobalAvgPool,
    SparseGlobalMaxPool,
    SparseMaxPool2d,
    SparseMaxPool3d,
)
from perceptkd.ops.sparse.registration import register_in_mmdet3d
from perceptkd.ops.sparse.tensor import SparseTensor

__all__ = [
    "SparseAvgPool2d",
    "SparseAvgPool3d",
    "SparseConv2d",
    "SparseConv3d",
    "SparseConvTranspose2d",
    "SparseConvTranspose3d",
    "SparseGlobalAvgPool",
    "SparseGlobalMaxPool",
    "SparseInverseConv2d",
    "SparseInverseConv3d",
    "SparseMaxPool2d",
    "SparseMaxPool3d",
    "SparseModule",
    "SparseSequential",
    "SparseTensor",
    "SubMConv2d",
    "SubMConv3d",
    "ToDense",
    "chosen_backend",
    "linear_keys",
    "register_in_mmdet3d",
    "sparse_add",
    "sparse_concat",
    "sparse_convolution",
]
