"""Random sparse tensors and dense references of the sparse layers."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from perceptkd.ops.sparse import SparseTensor

MakeTensor = Callable[..., SparseTensor]


def random_tensor(
    shape: Sequence[int] = (5, 6, 7),
    batch_size: int = 2,
    channels: int = 3,
    *,
    density: float = 0.3,
    dtype: torch.dtype = torch.float64,
    empty: Sequence[int] = (),
    requires_grad: bool = False,
) -> SparseTensor:
    """Occupied cells in random order of rows; the samples of ``empty`` have none."""
    occupied = torch.rand(batch_size, *shape) < density
    occupied[list(empty)] = False
    coordinates = occupied.nonzero().int()
    coordinates = coordinates[torch.randperm(len(coordinates))]
    features = torch.randn(len(coordinates), channels, dtype=dtype).requires_grad_(requires_grad)
    return SparseTensor(features, coordinates, shape, batch_size)


def occupancy(tensor: SparseTensor) -> Tensor:
    """1 in occupied cells, [B, 1, (Z,) Y, X]."""
    return tensor.replace_feature(torch.ones_like(tensor.features[:, :1])).to_dense()


@pytest.fixture
def make_tensor() -> MakeTensor:
    """Factory of random sparse tensors."""
    return random_tensor


@pytest.fixture
def occupied_cells() -> Callable[[SparseTensor], Tensor]:
    """Occupancy of a sparse tensor as a dense map."""
    return occupancy


@pytest.fixture
def spconv(monkeypatch: pytest.MonkeyPatch):
    """spconv on CPU as a reference; its backward asks for a CUDA stream that a CPU build of torch does not have."""
    module = pytest.importorskip("spconv.pytorch", reason="spconv, the reference, is not installed")
    import spconv.pytorch.ops

    monkeypatch.setattr(spconv.pytorch.ops, "get_current_stream", lambda: 0)
    return module
