"""Contract 7, first half: BEV maps carry their layout and metric extent."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perceptkd.core.geometry import GeometryError, canonical_bev, canonical_pair, resample_bev
from perceptkd.core.tap import Tap, TapSpec

EXTENT = (-4.0, -2.0, 4.0, 2.0)


def tap_of(value: Any, layout: str | None = "yx", extent: Any = EXTENT) -> Tap:
    return Tap(TapSpec("neck", (0,), layout=layout, extent=extent), [value], "student")


def coordinate_map(extent: tuple, height: int, width: int) -> Tensor:
    """[1, 2, H, W]: the metric x and y of each cell's centre."""
    x0, y0, x1, y1 = extent
    x = x0 + (torch.arange(width) + 0.5) * (x1 - x0) / width
    y = y0 + (torch.arange(height) + 0.5) * (y1 - y0) / height
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)))[None]


def test_contract_07_canonical_bev_gives_rows_that_are_y() -> None:
    bev_map = torch.randn(1, 2, 4, 8)
    assert torch.equal(canonical_bev(tap_of(bev_map)), bev_map)
    assert torch.equal(canonical_bev(tap_of(bev_map.transpose(2, 3), "xy")), bev_map)
    heads = ([{"heatmap": bev_map.transpose(2, 3)}],)
    assert torch.equal(canonical_bev(tap_of(heads, "xy"))[0][0]["heatmap"], bev_map)


@pytest.mark.parametrize("layout", [None, "image"])
def test_contract_07_a_map_that_does_not_declare_its_layout_raises(layout: str | None) -> None:
    with pytest.raises(GeometryError, match=r"'neck\[0\]' of the student.*layout='yx' or 'xy'.*bev_geometry"):
        canonical_bev(tap_of(torch.zeros(1, 1, 2, 2), layout))


@pytest.mark.parametrize(
    ("student", "teacher", "aware", "refused"),
    [
        (("yx", EXTENT), ("yx", EXTENT), False, None),
        (None, None, False, None),
        (("yx", EXTENT), ("xy", EXTENT), False, "layout yx .*and xy"),
        (("yx", EXTENT), None, False, "layout yx .*and None"),
        (("yx", EXTENT), ("xy", EXTENT), True, None),
        (("yx", EXTENT), None, True, "layout yx .*and None"),
        (("yx", EXTENT), ("yx", (-8.0, -2.0, 8.0, 2.0)), False, "covers .*resample"),
        (("yx", EXTENT), ("yx", (-8.0, -2.0, 8.0, 2.0)), True, None),
        (("yx", EXTENT), ("yx", None), False, "the teacher's is not.*extent=.*bev_geometry"),
        (("yx", None), ("yx", EXTENT), True, "the student's is not.*extent=.*bev_geometry"),
        (("yx", None), ("yx", None), False, None),
    ],
)
def test_contract_07_mixing_bev_geometries_raises_when_the_model_is_built(
    distill_model: Any, student: Any, teacher: Any, aware: bool, refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perceptkd.registry import DISTILLERS

    monkeypatch.setattr(DISTILLERS.get("perceptkd.ToyDistiller"), "layout_aware", aware)
    sides = [{"bev_geometry": dict(zip(("layout", "extent"), side)) if side else None} for side in (student, teacher)]
    if refused is None:
        model = distill_model(student=sides[0], teacher=sides[1])
        assert list(model.distillers) == ["toydistiller"]
        return
    with pytest.raises(GeometryError, match=refused):
        distill_model(student=sides[0], teacher=sides[1])


def test_contract_07_an_image_tap_of_a_bev_model_pairs_with_an_image_model(distill_model: Any) -> None:
    model = distill_model(
        student={"bev_geometry": {"layout": "yx", "extent": EXTENT}},
        distiller={"student_taps": {"feature": {"path": "neck[1]", "layout": "image"}}},
    )
    student = model.distillers.student_taps.specs["toydistiller/feature"]
    teacher = model.distillers.teachers["teacher"].specs["toydistiller/feature"]
    assert (student.layout, student.extent, teacher.layout) == ("image", None, None)


def test_contract_07_other_extents_raise_unless_resampling_is_asked() -> None:
    small, large = (-2.0, -2.0, 2.0, 2.0), (-4.0, -4.0, 4.0, 4.0)
    student = tap_of(coordinate_map(small, 8, 8), extent=small)
    teacher = tap_of(coordinate_map(large, 16, 16).transpose(2, 3), "xy", extent=large)
    with pytest.raises(GeometryError, match="resample"):
        canonical_pair(student, teacher)
    mine, theirs = canonical_pair(student, teacher, resample=True)
    assert mine is student.value
    assert torch.allclose(theirs, mine, atol=1e-5)  # the same metres are in the same cell


def test_contract_07_cells_at_the_edge_of_a_coarser_map_are_not_mixed_with_zeros() -> None:
    fine = resample_bev(torch.ones(1, 1, 2, 4), extent=(-4, 0, 4, 4), target_extent=(0, 0, 4, 4), size=(8, 8))
    assert torch.equal(fine, torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize("side", range(4))
def test_contract_07_a_teacher_of_a_part_of_the_area_is_not_resampled(side: int) -> None:
    """Beyond its map there is nothing to imitate, least of all zeros."""
    extent = [-8.0, -8.0, 8.0, 8.0]
    student = tap_of(torch.ones(1, 1, 4, 8))
    for edge, refused in ((EXTENT[side], False), (EXTENT[side] * 0.9, True)):
        extent[side] = edge
        teacher = tap_of(torch.ones(1, 1, 4, 4), extent=tuple(extent))
        if not refused:
            assert torch.equal(canonical_pair(student, teacher, resample=True)[1], student.value)
            continue
        with pytest.raises(GeometryError, match=r"the teacher's .* leaves out a part: train both on one range"):
            canonical_pair(student, teacher, resample=True)
