"""The sparse tensor: constructor, dense form, copies."""

import pytest
import torch

from perceptkd.ops.sparse import SparseTensor


def test_to_dense_puts_every_row_in_its_cell_and_is_differentiable(make_tensor) -> None:
    tensor = make_tensor((3, 4, 5), 2, 6, requires_grad=True)
    dense = tensor.to_dense()
    assert dense.shape == (2, 6, 3, 4, 5)
    b, z, y, x = tensor.coordinates.long().unbind(1)
    assert torch.equal(dense[b, :, z, y, x], tensor.features)
    assert int((dense != 0).any(1).sum()) == len(tensor)
    assert torch.equal(tensor.to_dense(channels_first=False), dense.movedim(1, -1))
    cotangent = torch.randn_like(dense)
    (gradient,) = torch.autograd.grad((dense * cotangent).sum(), tensor.features)
    assert torch.equal(gradient, cotangent[b, :, z, y, x])


def test_to_dense_refuses_what_would_fill_memory() -> None:
    tensor = SparseTensor(torch.ones(1, 64), torch.zeros(1, 4).int(), (80, 1600, 1600), 1)
    with pytest.raises(ValueError, match=r"would take 48\.8 GiB for 64 channels on 1 grids of \(80, 1600, 1600\)"):
        tensor.to_dense()
    small = SparseTensor(torch.ones(1, 64), torch.zeros(1, 4).int(), (8, 16, 16), 1)
    with pytest.raises(ValueError, match="the limit is 1e-06 GiB"):
        small.to_dense(limit_gib=1e-6)


def test_to_dense_refuses_duplicates() -> None:
    with pytest.raises(ValueError, match="must be distinct"):
        SparseTensor(torch.ones(2, 1), torch.zeros(2, 3).int(), (3, 3), 1).to_dense()


def test_an_empty_tensor_is_a_dense_zero() -> None:
    tensor = SparseTensor(torch.ones(0, 4), torch.zeros(0, 4).int(), (2, 3, 3), 2)
    assert torch.equal(tensor.to_dense(), torch.zeros(2, 4, 2, 3, 3))


def test_names_of_spconv(make_tensor) -> None:
    tensor = make_tensor((3, 4, 5))
    assert tensor.indices is tensor.coordinates
    assert tensor.spatial_shape == [3, 4, 5]
    assert torch.equal(tensor.dense(), tensor.to_dense())
    other = tensor.replace_feature(tensor.features[:, :1])
    assert other.sites is tensor.sites
    assert other.features.shape[1] == 1
    assert tensor.features.shape[1] == 3


def test_int64_coordinates_are_stored_as_int32() -> None:
    assert SparseTensor(torch.ones(1, 1), torch.zeros(1, 3).long(), (2, 2), 1).coordinates.dtype == torch.int32


def test_copies(make_tensor) -> None:
    tensor = make_tensor(requires_grad=True)
    assert not tensor.detach().features.requires_grad
    copy = tensor.clone()
    assert copy.features.data_ptr() != tensor.features.data_ptr()
    assert tensor.to(torch.float32).features.dtype == torch.float32


@pytest.mark.parametrize(
    "features", [torch.ones(3, 4), torch.ones(2, 4, dtype=torch.int32), torch.ones(2)], ids=["rows", "type", "axes"]
)
def test_features_must_match_the_coordinates(features) -> None:
    with pytest.raises(ValueError, match=r"features must be floating point \[2, C\]"):
        SparseTensor(features, torch.tensor([[0, 0, 0], [0, 1, 1]]).int(), (2, 2), 1)
