"""The voxelization kernels against their twins, bit by bit."""

import pytest
import torch

pytest.importorskip("triton")

from perceptkd.ops import voxelize as module
from perceptkd.ops.voxelize import hard_voxelize

SIZE, RANGE = (0.3, 0.3, 0.5), (0.0, -3.0, -1.0, 9.9, 6.9, 3.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_equals_the_twin(kernel_device: str, on_triton: None, dtype: torch.dtype) -> None:
    """Points at the borders of voxels, where a division that is not rounded correctly shows."""
    cloud = torch.rand(3000, 5) * 12 - 2
    cloud[::2, :3] = (cloud[::2, :3] / 0.3).round() * 0.3
    cloud = cloud.to(dtype)
    grid = module.grid_shape(SIZE, RANGE)
    keys = module._cell_keys(cloud.to(kernel_device), SIZE, RANGE, grid)
    assert torch.equal(keys.cpu(), module._cell_keys_torch(cloud, SIZE, RANGE, grid))
    assert (keys >= 0).any()
    assert (keys < 0).any()
    groups = module.group_by_key(keys.cpu(), "appearance")
    expected = torch.zeros(200, 2, 5, dtype=dtype)
    module._fill_voxels_torch(cloud, groups, expected)
    voxels, _, counts = hard_voxelize(cloud.to(kernel_device), SIZE, RANGE, 2, 200)
    assert torch.equal(voxels.cpu(), expected)
    assert (counts == 2).any()


def test_broken_points_are_an_error_and_none_are_not(kernel_device: str, on_triton: None) -> None:
    cloud = torch.rand(300, 4, device=kernel_device)
    cloud[7, 3], cloud[290, 0] = torch.inf, torch.nan
    with pytest.raises(ValueError, match="2 of 300 points have a NaN or infinite value"):
        hard_voxelize(cloud, SIZE, RANGE, 2, 100)
    voxels, coordinates, counts = hard_voxelize(cloud[:0], SIZE, RANGE, 2, 100)
    assert voxels.shape == (0, 2, 4)
    assert coordinates.shape == (0, 3)
    assert counts.shape == (0,)
