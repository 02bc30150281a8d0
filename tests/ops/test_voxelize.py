"""Voxelization against a loop over the points, on CPU by numba and by the torch twin."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import voxelize
from perceptkd.ops.grouping import _group_torch
from perceptkd.ops.voxelize import dynamic_voxelize, hard_voxelize

SIZE = (0.5, 0.25, 1.0)
RANGE = (-2.0, -1.0, -1.0, 2.0, 1.0, 3.0)


def cell_of(point: list[float], size: tuple, bounds: tuple) -> tuple[int, int, int] | None:
    """The definition: (z, y, x), None out of range."""
    cell = [math.floor((point[axis] - bounds[axis]) / size[axis]) for axis in range(3)]
    cells = [round((bounds[axis + 3] - bounds[axis]) / size[axis]) for axis in range(3)]
    if any(c < 0 or c >= n for c, n in zip(cell, cells)):
        return None
    return cell[2], cell[1], cell[0]


def voxelize_by_loop(points: Tensor, max_points: int, max_voxels: int) -> dict[tuple, list[list[float]]]:
    """Voxels in order of first point, points in input order."""
    voxels: dict[tuple, list[list[float]]] = {}
    for point in points.tolist():
        cell = cell_of(point, SIZE, RANGE)
        if cell is None or (cell not in voxels and len(voxels) == max_voxels):
            continue
        members = voxels.setdefault(cell, [])
        if len(members) < max_points:
            members.append(point)
    return voxels


def cloud(count: int, dtype: torch.dtype = torch.float64, columns: int = 4) -> Tensor:
    low, high = torch.tensor(RANGE[:3]), torch.tensor(RANGE[3:])
    points = torch.rand(count, columns, dtype=torch.float64)
    points[:, :3] = low + points[:, :3] * (high - low) * 1.3 - 0.3
    return points.to(dtype)


def hard_voxelize_torch(points: Tensor, size: tuple, bounds: tuple, max_points: int, max_voxels: int) -> tuple:
    """The torch twin, put together from its parts, as a GPU runs it."""
    keys = voxelize._cell_keys_torch(points, size, bounds, voxelize.grid_shape(size, bounds))
    groups = _group_torch(keys, "appearance")
    counts = groups.counts[:max_voxels].clamp(max=max_points)
    voxels = points.new_zeros((len(counts), max_points, points.shape[1]))
    voxelize._fill_voxels_torch(points, groups, voxels)
    return voxels, counts


@pytest.mark.parametrize(("max_points", "max_voxels"), [(1, 1000), (3, 1000), (3, 7), (50, 1)])
def test_hard_voxelization_equals_a_loop(max_points: int, max_voxels: int) -> None:
    points = cloud(400)
    voxels, coordinates, counts = hard_voxelize(points, SIZE, RANGE, max_points, max_voxels)
    expected = voxelize_by_loop(points, max_points, max_voxels)
    assert [tuple(row) for row in coordinates.tolist()] == list(expected)
    assert counts.tolist() == [len(members) for members in expected.values()]
    assert coordinates.dtype == counts.dtype == torch.int32
    for voxel, members in zip(voxels, expected.values()):
        assert voxel[: len(members)].tolist() == members
        assert (voxel[len(members) :] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_twin_is_identical(dtype: torch.dtype) -> None:
    points = cloud(3000, dtype)
    voxels, _, counts = hard_voxelize(points, SIZE, RANGE, 5, 100)
    twin_voxels, twin_counts = hard_voxelize_torch(points, SIZE, RANGE, 5, 100)
    assert torch.equal(voxels, twin_voxels)
    assert torch.equal(counts, twin_counts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_use_float32_cells(dtype: torch.dtype) -> None:
    points = cloud(500, dtype)
    voxels, coordinates, counts = hard_voxelize(points, SIZE, RANGE, 4, 1000)
    expected = hard_voxelize(points.float(), SIZE, RANGE, 4, 1000)
    assert voxels.dtype == dtype
    assert torch.equal(voxels.float(), expected[0])
    assert torch.equal(coordinates, expected[1])
    assert torch.equal(counts, expected[2])


def test_dynamic_voxelization_equals_a_loop() -> None:
    points = cloud(400)
    expected = [cell_of(point, SIZE, RANGE) or (-1, -1, -1) for point in points.tolist()]
    found = dynamic_voxelize(points, SIZE, RANGE)
    assert [tuple(row) for row in found.tolist()] == expected
    assert found.dtype == torch.int32


@given(
    count=st.integers(0, 60), max_points=st.integers(1, 6), max_voxels=st.integers(1, 40), seed=st.integers(0, 10**6)
)
@settings(max_examples=40, deadline=None)
def test_points_are_conserved(count: int, max_points: int, max_voxels: int, seed: int) -> None:
    """Every point kept once at most; with room for all, every point in range exactly once."""
    torch.manual_seed(seed)
    points = cloud(count)
    inside = sum(cell_of(point, SIZE, RANGE) is not None for point in points.tolist())
    counts = hard_voxelize(points, SIZE, RANGE, max_points, max_voxels)[2].tolist()
    assert sum(counts) <= inside
    assert len(counts) <= max_voxels
    assert all(1 <= n <= max_points for n in counts)
    everything, _, all_counts = hard_voxelize(points, SIZE, RANGE, max(count, 1), max(count, 1))
    assert int(all_counts.sum()) == inside
    kept = torch.cat([voxel[:n] for voxel, n in zip(everything, all_counts.tolist())]) if inside else points[:0]
    in_range = [point for point in points.tolist() if cell_of(point, SIZE, RANGE) is not None]
    assert sorted(kept.tolist()) == sorted(in_range)


def test_mmcv_layers_give_the_same() -> None:
    from mmcv.ops import Voxelization

    points = cloud(300, torch.float32)
    layer = Voxelization(SIZE, RANGE, max_num_points=4, max_voxels=50)
    for found, expected in zip(layer(points), hard_voxelize(points, SIZE, RANGE, 4, 50)):
        assert torch.equal(found, expected)
    dynamic = Voxelization(SIZE, RANGE, max_num_points=-1)
    assert torch.equal(dynamic(points), dynamic_voxelize(points, SIZE, RANGE))


def test_no_gradient() -> None:
    points = cloud(20).requires_grad_()
    assert not any(part.requires_grad for part in hard_voxelize(points, SIZE, RANGE, 4, 10))
    assert not dynamic_voxelize(points, SIZE, RANGE).requires_grad


def test_empty_cloud_and_cloud_out_of_range() -> None:
    for points in (torch.zeros(0, 4), torch.full((3, 4), 100.0)):
        voxels, coordinates, counts = hard_voxelize(points, SIZE, RANGE, 4, 10)
        assert voxels.shape == (0, 4, 4)
        assert coordinates.shape == (0, 3)
        assert counts.shape == (0,)
        assert (dynamic_voxelize(points, SIZE, RANGE) == -1).all()


def test_more_voxels_than_the_cap_drop_the_last_ones_with_a_warning() -> None:
    points = torch.tensor([[-1.5, 0.0, 0.0, 1.0], [1.5, 0.0, 0.0, 2.0], [-1.5, 0.1, 0.0, 3.0], [0.5, 0.9, 2.0, 4.0]])
    everything = hard_voxelize(points, SIZE, RANGE, 4, 3)
    with pytest.warns(UserWarning, match="more than max_voxels=2 voxels of .* raise max_voxels"):
        voxels, coordinates, counts = hard_voxelize(points, SIZE, RANGE, 4, 2)
    assert counts.tolist() == [2, 1]
    for capped, whole in zip((voxels, coordinates, counts), everything):
        assert torch.equal(capped, whole[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hard_voxelize(points, SIZE, RANGE, 4, 3)


def test_borders_low_is_inside_high_is_outside() -> None:
    points = torch.tensor([[-2.0, -1.0, -1.0], [2.0, 0.0, 0.0], [1.999, 0.999, 2.999]])
    assert dynamic_voxelize(points, SIZE, RANGE).tolist() == [[0, 0, 0], [-1, -1, -1], [3, 7, 7]]


def test_huge_coordinates_are_out_of_range() -> None:
    points = torch.tensor([[3e38, 0.0, 0.0], [-3e38, 0.0, 0.0], [3e38, 3e38, 3e38]])
    assert (dynamic_voxelize(points, SIZE, RANGE) == -1).all()
    assert len(hard_voxelize(points, SIZE, RANGE, 1, 1)[2]) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_points_are_an_error_with_their_number(value: float) -> None:
    points = cloud(20, torch.float32)
    points[3, 0] = points[7, 3] = value
    message = r"2 of 20 points have a NaN or infinite value \(points of shape \(20, 4\) and dtype float32\)"
    with pytest.raises(ValueError, match=message):
        hard_voxelize(points, SIZE, RANGE, 4, 10)
    with pytest.raises(ValueError, match=message):
        dynamic_voxelize(points, SIZE, RANGE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(4, 2), SIZE, RANGE, 1, 1), r"points must be .* \[N, >=3\], got shape \(4, 2\) and dtype float32"),
        ((torch.zeros(4, 3).int(), SIZE, RANGE, 1, 1), "dtype int32"),
        ((torch.zeros(4, 3), (1, 0, 1), RANGE, 1, 1), "voxel_size must be three positive sizes"),
        ((torch.zeros(4, 3), SIZE, RANGE[:5], 1, 1), "point_cloud_range must be"),
        ((torch.zeros(4, 3), SIZE, (0, 0, 0, 1, -1, 1), 1, 1), "point_cloud_range must be"),
        ((torch.zeros(4, 3), (9, 9, 9), RANGE, 1, 1), "into 0 x 0 x 0 cells"),
        ((torch.zeros(4, 3), SIZE, RANGE, 0, 1), "at least 1, got 0 and 1"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hard_voxelize(*arguments)


def test_grids_beyond_int32() -> None:
    """Cells of 20 um in a cube of 1 m need 64-bit cell numbers."""
    points = torch.tensor([[0.5, 0.5, 0.5, 1.0], [0.9, 0.1, 0.3, 2.0]], dtype=torch.float64)
    size, bounds = (2e-5,) * 3, (0, 0, 0, 1, 1, 1)
    coordinates = hard_voxelize(points, size, bounds, 1, 5)[1]
    assert coordinates.tolist() == dynamic_voxelize(points, size, bounds).tolist()


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    points = cloud(5000, torch.float32)
    for found, expected in zip(
        hard_voxelize(points.cuda(), SIZE, RANGE, 5, 100), hard_voxelize(points, SIZE, RANGE, 5, 100)
    ):
        assert torch.equal(found.cpu(), expected)
    assert torch.equal(dynamic_voxelize(points.cuda(), SIZE, RANGE).cpu(), dynamic_voxelize(points, SIZE, RANGE))


def test_equals_spconv_on_a_real_cloud(real_data: Path) -> None:
    """Bit for bit the voxels of spconv's CPU generator, on the cloud of its own benchmark."""
    pytest.importorskip("spconv", reason="spconv is not installed")
    from cumm import tensorview
    from spconv.utils import Point2VoxelCPU3d

    xyz = np.load(real_data / "spconv" / "benchmark-pc.npz")["pc"]
    points = np.concatenate([xyz, np.arange(len(xyz), dtype=np.float32)[:, None]], axis=1)
    size, bounds = (0.1, 0.1, 0.1), (-80.0, -80.0, -2.0, 80.0, 80.0, 6.0)
    generator = Point2VoxelCPU3d(list(size), list(bounds), 4, 150_000, 10)
    expected = generator.point_to_voxel(tensorview.from_numpy(points))
    for found, other in zip(hard_voxelize(torch.from_numpy(points), size, bounds, 10, 150_000), expected):
        assert np.array_equal(found.numpy(), other.numpy_view())
