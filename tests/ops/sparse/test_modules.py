"""Sequences of sparse and dense modules."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from perceptkd.ops.sparse import SparseSequential, SparseTensor, SubMConv3d, ToDense


def test_dense_modules_get_the_features(make_tensor) -> None:
    tensor = make_tensor(dtype=torch.float32)
    layers = SparseSequential(SubMConv3d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), ToDense(), nn.Flatten(1, 2))
    expected = torch.relu(layers[1](layers[0](tensor).features))
    result = layers(tensor)
    assert result.shape == (2, 20, 6, 7)
    torch.testing.assert_close(result.view(2, 4, 5, 6, 7), tensor.replace_feature(expected).to_dense())


def test_names_as_in_torch() -> None:
    by_position = SparseSequential(nn.ReLU(), nn.ReLU())
    by_dict = SparseSequential(OrderedDict(first=nn.ReLU()), second=nn.ReLU())
    assert [name for name, _ in by_position.named_children()] == ["0", "1"]
    assert [name for name, _ in by_dict.named_children()] == ["first", "second"]
    by_dict.add(nn.ReLU())
    assert len(by_dict) == 3
    with pytest.raises(ValueError, match="named 'first' already"):
        by_dict.add(nn.ReLU(), "first")


def test_batch_norm_survives_an_empty_batch() -> None:
    """A frame without points must not put NaN into the running statistics, and must stay in the graph."""
    layers = SparseSequential(SubMConv3d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU())
    empty = SparseTensor(torch.ones(0, 3), torch.zeros(0, 4).int(), (4, 4, 4), 1)
    layers(empty).features.sum().backward()
    assert bool(layers[1].running_mean.isfinite().all())
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in layers.parameters())
