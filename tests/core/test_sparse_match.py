"""Contract 7, second half: sparse taps match by coordinate, never by row."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceptkd.core.sparse_match import count_points, match_sparse

Voxel = tuple[int, int, int, int]
voxels = st.lists(st.tuples(st.integers(0, 1), *[st.integers(0, 3)] * 3), max_size=40, unique=True)


@settings(max_examples=200, deadline=None)
@given(student=voxels, teacher=voxels)
def test_contract_07_sparse_rows_match_by_coordinate(student: list[Voxel], teacher: list[Voxel]) -> None:
    first = torch.tensor(student, dtype=torch.int32).reshape(-1, 4)
    second = torch.tensor(teacher, dtype=torch.int32).reshape(-1, 4)
    mine, theirs = match_sparse(first, second)
    expected = [(i, teacher.index(voxel)) for i, voxel in enumerate(student) if voxel in teacher]
    assert list(zip(mine.tolist(), theirs.tolist())) == expected


def test_contract_07_sparse_features_are_paired_whatever_the_row_order() -> None:
    coordinates = torch.randint(0, 1000, (500, 4), dtype=torch.int32).unique(dim=0)
    features = coordinates.float().sum(dim=1, keepdim=True)
    order = torch.randperm(len(coordinates))
    student = SimpleNamespace(coordinates=coordinates, features=features, spatial_shape=[1000] * 3)
    teacher = SimpleNamespace(indices=coordinates[order], features=features[order], spatial_shape=(1000,) * 3)
    mine, theirs = match_sparse(student, teacher)
    assert len(mine) == len(coordinates)
    assert torch.equal(student.features[mine], teacher.features[theirs])
    assert not torch.equal(student.features, teacher.features)  # by row it would have been wrong


@settings(max_examples=100, deadline=None)
@given(points=st.lists(st.tuples(st.integers(-1, 1), *[st.integers(0, 3)] * 3), max_size=60), kept=voxels)
def test_points_per_voxel(points: list[Voxel], kept: list[Voxel]) -> None:
    every, some = (torch.tensor(rows, dtype=torch.int32).reshape(-1, 4) for rows in (points, kept))
    assert count_points(every, some).tolist() == [points.count(voxel) for voxel in kept]


def test_contract_07_grids_of_other_strides_have_no_common_voxels() -> None:
    grids = [SimpleNamespace(coordinates=torch.zeros(1, 4), spatial_shape=shape) for shape in ((8, 8), (4, 4))]
    with pytest.raises(ValueError, match=r"grids \(8, 8\) and \(4, 4\)"):
        match_sparse(*grids)
    with pytest.raises(ValueError, match="4 and 3 coordinates"):
        match_sparse(torch.zeros(1, 4), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="negative"):
        match_sparse(torch.tensor([[0, -1]]), torch.tensor([[0, 1]]))
