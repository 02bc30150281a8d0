"""Sums and concatenations by cell."""

import pytest
import torch

from perceptkd.ops.sparse import SparseTensor, sparse_add, sparse_concat


def shuffle(tensor: SparseTensor) -> SparseTensor:
    permutation = torch.randperm(len(tensor))
    return SparseTensor(
        tensor.features[permutation], tensor.coordinates[permutation], tensor.spatial_shape, tensor.batch_size
    )


def test_rows_are_matched_by_cell(make_tensor) -> None:
    first = make_tensor(requires_grad=True)
    second = shuffle(first.replace_feature(torch.randn_like(first.features)))
    total = sparse_add(first, second)
    assert total.sites is first.sites
    torch.testing.assert_close(total.to_dense(), first.to_dense() + second.to_dense())
    both = sparse_concat(first, second)
    torch.testing.assert_close(both.to_dense(), torch.cat([first.to_dense(), second.to_dense()], 1))
    (gradient,) = torch.autograd.grad(total.features.sum(), first.features)
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_union_takes_absent_cells_as_zero(make_tensor) -> None:
    first, second = make_tensor(), make_tensor(empty=[0])
    total = sparse_add(first, second, join="union")
    torch.testing.assert_close(total.to_dense(), first.to_dense() + second.to_dense())
    occupied = (first.to_dense() != 0).any(1) | (second.to_dense() != 0).any(1)
    assert len(total) == int(occupied.sum())
    both = sparse_concat(first, second, join="union")
    torch.testing.assert_close(both.to_dense(), torch.cat([first.to_dense(), second.to_dense()], 1))


def test_different_cells_are_refused(make_tensor) -> None:
    with pytest.raises(ValueError, match="different cells"):
        sparse_add(make_tensor(), make_tensor(empty=[0]))
    with pytest.raises(ValueError, match="bring both to one shape"):
        sparse_add(make_tensor(), make_tensor((5, 6, 8)))
    with pytest.raises(ValueError, match="join must be"):
        sparse_add(make_tensor(), join="outer")
