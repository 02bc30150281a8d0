"""Which cells a store keeps, and that no method reads others."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from perceptkd.core.box_reach import BoxReach, foreground_cells
from perceptkd.core.cache import CacheError, TeacherCache
from perceptkd.core.cache_key import SampleKey
from perceptkd.core.cache_writer import TeacherCacheWriter
from perceptkd.core.tap import Tap, TapSpec


def cells(*boxes: tuple[float, ...], **reach: Any) -> Tensor:
    """On a map of 20 x 30 cells of 1 m."""
    rows = torch.tensor(boxes).view(-1, 5)
    index = torch.zeros(len(rows), dtype=torch.long)
    extent = (0.0, 0.0, 30.0, 20.0)
    return foreground_cells(rows, index, shape=(1, 20, 30), extent=extent, reach=BoxReach(**{"cells": 0, **reach}))[0]


class TestForegroundCells:
    @pytest.mark.parametrize(
        ("reach", "expected"),
        [
            ({}, (4, 6, 8, 12)),
            ({"margin_m": 1.0}, (3, 7, 7, 13)),
            ({"enlarge": 3.0}, (1, 9, 3, 17)),
            ({"cells": 1}, (3, 7, 7, 13)),  # a diagonal: 1.41 m
        ],
    )
    def test_box_and_reach(self, reach: dict[str, Any], expected: tuple[int, ...]) -> None:
        rows, columns = cells((10.5, 5.5, 5.0, 3.0, 0.0), **reach).nonzero(as_tuple=True)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == expected

    def test_gaussians_reach_their_radius(self) -> None:
        box = (15.5, 10.5, 10.0, 10.0, 0.0)
        wide = cells(box, overlaps=(0.1,)).sum()
        assert wide > cells(box).sum()
        assert wide > cells(box, overlaps=(0.7,)).sum()

    def test_a_box_outside_counts_for_the_cells_near_it(self) -> None:
        assert cells((-1.5, 5.5, 2.8, 1.0, 0.0), margin_m=1.0)[:, 0].sum() == 3
        assert cells((-3.5, 5.5, 2.8, 1.0, 0.0), margin_m=1.0).sum() == 0

    def test_no_boxes(self) -> None:
        assert cells(margin_m=1.0).sum() == 0

    def test_cells_that_are_not_square(self) -> None:
        with pytest.raises(ValueError, match="are not square: store whole maps"):
            foreground_cells(
                torch.zeros(0, 5), torch.zeros(0), shape=(1, 10, 30), extent=(0, 0, 30, 20), reach=BoxReach()
            )


def test_a_method_that_reads_further_refuses_a_store(tmp_path: Path) -> None:
    spec = TapSpec("neck", layout="yx", extent=(0.0, 0.0, 2.0, 2.0))
    score = TapSpec("score")
    box = SimpleNamespace(bev=torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]]))
    sample = SimpleNamespace(gt_instances_3d=SimpleNamespace(bboxes_3d=box))
    taps = {"map": Tap(spec, [torch.zeros(1, 1, 2, 2)], "t"), "score": Tap(score, [torch.zeros(1, 3)], "t")}
    for folder, reach in (("near", BoxReach(margin_m=1.0, overlaps=(0.7,))), ("whole", None)):
        writer = TeacherCacheWriter(tmp_path / folder, {}, reach=reach)
        writer.add([SampleKey("a", None, 0)], taps, [sample])
        writer.close()
    near = TeacherCache(tmp_path / "near")
    near.check_reach("close", BoxReach(margin_m=0.5, overlaps=(0.7,)), [spec, score])
    near.check_reach("vectors", None, [score])
    TeacherCache(tmp_path / "whole").check_reach("dense", None, [spec, score])
    for reach in (BoxReach(margin_m=1.6), BoxReach(overlaps=(0.1,)), BoxReach(enlarge=1.5), BoxReach(cells=5)):
        with pytest.raises(CacheError, match=r"cells near boxes alone.*'far' reads cells within"):
            near.check_reach("far", reach, [spec])
    with pytest.raises(CacheError, match="'dense' reads whole maps"):
        near.check_reach("dense", None, [spec])
