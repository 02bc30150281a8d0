"""PointDistiller: options and taps that do not fit say what does."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perceptkd.core.distiller import Step
from perceptkd.core.errors import InputError
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.pointdistiller import PointDistiller


def taps(**values: Any) -> dict[str, Tap]:
    return {alias: Tap(TapSpec(alias), [value]) for alias, value in values.items()}


def voxels(count: int) -> Tensor:
    """Coordinates (sample, z, y, x) [count, 4] of one sample."""
    index = torch.arange(count)
    return torch.stack((0 * index, 0 * index, index // 7, index % 7), dim=1)


def build(**options: Any) -> PointDistiller:
    distiller = PointDistiller(**{"student_channels": 3, "teacher_channels": 6, **options})
    distiller.build_adapters()
    return distiller


@pytest.fixture
def sides() -> tuple[dict[str, Tap], dict[str, Tap]]:
    """Taps of student and teacher on 80 voxels."""
    coors = voxels(80)
    student, teacher = torch.randn(80, 3), torch.randn(80, 6)
    return taps(feature=student, coors=coors), taps(feature=teacher, coors=coors, num_points=torch.ones(80))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "pillars"}, "on is one of"),
        ({"importance": "points"}, "importance of voxels is a function or one of"),
        ({"on": "maps", "importance": "num_points"}, "importance of maps is a function or one of"),
        ({"edge": "idendity"}, "edge='idendity'"),
        ({"pool": "avg"}, "pool='avg'"),
        ({"reweight": True}, "reweight=True"),
        ({"k": 0}, "must be positive"),
        ({"tau": 0.0}, "must be positive"),
        ({"num_samples": 0}, "must be positive"),
        ({"released": True, "tau": 0.5}, "leave out tau"),
        ({"released": True, "reweight": "raw"}, "leave out tau"),
        ({"student_channels": None}, "needs dry_batch="),
        ({"student_channels": [3, 3]}, "one per level"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(**options)


class TestBadInput:
    def test_voxels_of_other_grids(self, sides: Any) -> None:
        student, teacher = sides
        student["coors"] = student["coors"].map(lambda coors: coors + torch.tensor([0, 0, 5, 5]))
        with pytest.raises(InputError, match=r"share \d+ of 80 voxels, less than min_matched=0\.5: give both the same"):
            build().loss(student, teacher, Step())
        assert build(min_matched=0.0).loss(student, teacher, Step())["graph"].isfinite()

    def test_channels_that_are_not_those_of_the_options(self, sides: Any) -> None:
        student, teacher = sides
        with pytest.raises(InputError, match=r"\(80, 3\), \(80, 6\).* but student_channels and teacher_channels say"):
            build(student_channels=4).loss(student, teacher, Step())

    @pytest.mark.parametrize("on", ["voxels", "maps", "points"])
    def test_features_of_another_kind(self, on: str) -> None:
        other = {"voxels": torch.zeros(1, 3, 4, 4), "maps": torch.zeros(9, 3), "points": torch.zeros(9, 3)}[on]
        sides = (
            taps(feature=other, coors=voxels(1), xyz=torch.zeros(1, 1, 3)),
            taps(feature=other, coors=voxels(1), xyz=torch.zeros(1, 1, 3), num_points=torch.ones(1)),
        )
        with pytest.raises(InputError, match=rf"on='{on}' needs features \["):
            build(on=on).loss(*sides, Step())

    def test_a_dynamic_encoder_that_is_tapped_as_a_hard_one(self, sides: Any) -> None:
        student, teacher = sides
        student["feature"] = taps(feature=(student["feature"].value, voxels(80)))["feature"]
        with pytest.raises(InputError, match=r"'voxel_encoder\[0\]' and 'voxel_encoder\[1\]'"):
            build().loss(student, teacher, Step())

    def test_a_voxel_for_every_row(self, sides: Any) -> None:
        student, teacher = sides
        student["coors"] = student["coors"].map(lambda coors: coors[:-1])
        with pytest.raises(InputError, match="'coors' must have a voxel for every row"):
            build().loss(student, teacher, Step())

    def test_places_of_voxels_need_their_size(self, sides: Any) -> None:
        student, teacher = sides
        with pytest.raises(InputError, match=r"importance='boxes' of voxels needs voxel_size_m"):
            build(importance="boxes").loss(student, teacher, Step())
