"""Sums and concatenations of sparse tensors whose rows are matched by cell, never by number."""

from typing import Literal

import torch
from torch import Tensor

from perceptkd.ops.grouping import group_by_key
from perceptkd.ops.sparse.keys import pack_keys, unpack_keys
from perceptkd.ops.sparse.sites import Sites
from perceptkd.ops.sparse.tensor import SparseTensor

Join = Literal["same", "union"]


def sparse_add(first: SparseTensor, *others: SparseTensor, join: Join = "same") -> SparseTensor:
    """Adds the features of equal cells.

    Args:
        first: gives the sites and the order of rows with ``join="same"``.
        others: tensors on grids of the same shape, with as many channels.
        join: ``same`` wants the same cells everywhere; ``union`` takes absent cells as zero and sorts the result.

    >>> a = SparseTensor(torch.ones(1, 2), torch.tensor([[0, 1, 1]]).int(), (3, 3), 1)
    >>> sparse_add(a, a).features.tolist()
    [[2.0, 2.0]]
    """
    sites, rows = _match_rows([first, *others], join)
    total = rows[0]
    for part in rows[1:]:
        total = total + part
    return SparseTensor.on_sites(total, sites, first.maps if sites is first.sites else None)


def sparse_concat(first: SparseTensor, *others: SparseTensor, join: Join = "same") -> SparseTensor:
    """Concatenates the features of equal cells along the channels; arguments as in :func:`sparse_add`."""
    sites, rows = _match_rows([first, *others], join)
    return SparseTensor.on_sites(torch.cat(rows, dim=1), sites, first.maps if sites is first.sites else None)


def _match_rows(tensors: list[SparseTensor], join: Join) -> tuple[Sites, list[Tensor]]:
    first = tensors[0].sites
    for tensor in tensors[1:]:
        sites = tensor.sites
        if (sites.spatial_shape, sites.batch_size) != (first.spatial_shape, first.batch_size):
            raise ValueError(
                f"cannot join {sites.batch_size} grids of {sites.spatial_shape} with {first.batch_size} of "
                f"{first.spatial_shape}; bring both to one shape first"
            )
    if join == "union":
        return _match_union(tensors)
    if join != "same":
        raise ValueError(f"join must be 'same' or 'union', got {join!r}")
    return first, [_take_order(tensor, first) for tensor in tensors]


def _take_order(tensor: SparseTensor, sites: Sites) -> Tensor:
    if tensor.sites is sites:
        return tensor.features
    if not tensor.sites.equals(sites):
        raise ValueError(
            f"the tensors hold different cells ({len(sites)} and {len(tensor)} rows); pass join='union' to take "
            "absent cells as zero"
        )
    rows = tensor.features
    if tensor.sites.order is not None:
        rows = rows[tensor.sites.order.forward.long()]
    return rows if sites.order is None else rows[sites.order.inverse.long()]


def _match_union(tensors: list[SparseTensor]) -> tuple[Sites, list[Tensor]]:
    first = tensors[0].sites
    for tensor in tensors:
        _ = tensor.sites.order  # raises on duplicate cells
    keys = [pack_keys(tensor.coordinates, first.spatial_shape) for tensor in tensors]
    groups = group_by_key(torch.cat(keys))
    sites = Sites.from_sorted(unpack_keys(groups.keys, first.spatial_shape), first.spatial_shape, first.batch_size)
    rows = []
    for tensor, place in zip(tensors, groups.index.split([len(part) for part in keys])):
        absent = tensor.features.new_zeros(len(sites), tensor.features.shape[1])
        rows.append(absent.index_copy(0, place.long(), tensor.features))
    return sites, rows
