"""Weights load from spconv 2, and from spconv 1 and mmcv, whichever way they come."""

from collections import OrderedDict

import pytest
import torch

from perceptkd.ops.sparse import (
    SparseConv3d,
    SparseInverseConv3d,
    SparseSequential,
    SparseTensor,
    SubMConv2d,
    SubMConv3d,
)


def test_layout_is_out_kernel_in() -> None:
    assert SubMConv3d(5, 7, (1, 3, 5)).state_dict()["weight"].shape == (7, 1, 3, 5, 5)
    assert SubMConv2d(5, 7, (1, 3)).state_dict()["weight"].shape == (7, 1, 3, 5)
    assert SparseInverseConv3d(5, 7, 2, "key").state_dict()["weight"].shape == (7, 2, 2, 2, 5)


def test_round_trip_through_spconv(spconv) -> None:
    ours = SparseSequential(SubMConv3d(3, 4, 3), SparseConv3d(4, 3, 3, 2, 1, bias=False))
    theirs = spconv.SparseSequential(spconv.SubMConv3d(3, 4, 3), spconv.SparseConv3d(4, 3, 3, 2, 1, bias=False))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)


@pytest.mark.parametrize("channels", [(5, 7), (4, 4)])
def test_weights_of_spconv_1_are_turned(channels) -> None:
    layer = SubMConv3d(*channels, 3, bias=False)
    turned = torch.randn(3, 3, 3, *channels)
    layer.load_state_dict(OrderedDict(weight=turned))
    assert torch.equal(layer.weight, turned.movedim(-1, 0))


@pytest.mark.parametrize("channels", [(5, 7), (4, 4)])
@pytest.mark.parametrize("layer_type", [SubMConv3d, SparseConv3d])
def test_a_pointwise_weight_of_spconv_1_stays_the_same_product(layer_type, channels) -> None:
    """There the old weight [1, 1, 1, C_in, C_out] is a plain matrix on the features."""
    layer = layer_type(*channels, 1, bias=False)
    turned = torch.randn(1, 1, 1, *channels)
    layer.load_state_dict(OrderedDict(weight=turned))
    features, coordinates = torch.randn(2, channels[0]), torch.tensor([[0, 0, 0, 1], [0, 1, 0, 0]]).int()
    found = layer(SparseTensor(features, coordinates, (2, 2, 2), 1)).features
    torch.testing.assert_close(found, features @ turned[0, 0, 0])


def test_a_strided_kernel_of_one_cell_is_turned_like_any_other() -> None:
    layer = SparseConv3d(5, 7, 1, 2, bias=False)
    turned = torch.randn(1, 1, 1, 5, 7)
    layer.load_state_dict(OrderedDict(weight=turned))
    features, coordinates = torch.randn(1, 5), torch.tensor([[0, 0, 0, 0]]).int()
    found = layer(SparseTensor(features, coordinates, (2, 2, 2), 1)).features
    torch.testing.assert_close(found, features @ turned[0, 0, 0])


def test_where_both_layouts_have_one_shape_the_stored_version_decides() -> None:
    """3 channels in and out of a 3 x 3 x 3 kernel: only metadata tells the layouts apart."""
    weight = torch.randn(3, 3, 3, 3, 3)
    ours, old = SubMConv3d(3, 3, 3, bias=False), SubMConv3d(3, 3, 3, bias=False)
    source = SubMConv3d(3, 3, 3, bias=False)
    source.weight.data.copy_(weight)
    ours.load_state_dict(source.state_dict())
    assert torch.equal(ours.weight, weight)
    old.load_state_dict(OrderedDict(weight=weight))
    assert torch.equal(old.weight, weight.movedim(-1, 0))


def test_loading_does_not_write_into_the_checkpoint() -> None:
    checkpoint = OrderedDict(weight=torch.randn(3, 3, 3, 5, 7))
    SubMConv3d(5, 7, 3, bias=False).load_state_dict(checkpoint)
    assert checkpoint["weight"].shape == (3, 3, 3, 5, 7)


def test_a_weight_of_another_shape_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        SubMConv3d(5, 7, 3, bias=False).load_state_dict(OrderedDict(weight=torch.randn(3, 3, 3, 5, 8)))
