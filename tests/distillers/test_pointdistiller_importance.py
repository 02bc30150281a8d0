"""PointDistiller: what makes an item important, for voxels, cells of a map and points."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from perceptkd.core.distiller import Step
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.pointdistiller import PointDistiller

Make = Callable[..., Any]
EXTENT = (-4.0, -4.0, 4.0, 4.0)


def taps(layout: str | None = None, **values: Any) -> dict[str, Tap]:
    extent = EXTENT if layout else None
    return {alias: Tap(TapSpec(alias, layout=layout, extent=extent), [value]) for alias, value in values.items()}


def voxels(count: int) -> Tensor:
    """Coordinates (sample, z, y, x) [count, 4] of one sample."""
    index = torch.arange(count)
    return torch.stack((0 * index, 0 * index, index // 7, index % 7), dim=1)


def build(**options: Any) -> PointDistiller:
    distiller = PointDistiller(**{"student_channels": 1, "teacher_channels": 1, "out_channels": 2, **options})
    distiller.build_adapters()
    return distiller


class TestImportance:
    def rows(self, importance: Any, features: Tensor, **options: Any) -> list[float]:
        width = features.shape[1]
        distiller = build(importance=importance, student_channels=width, teacher_channels=width)
        counts = torch.tensor(options.get("counts", [1]))
        coors = voxels(len(features))
        sides = taps(feature=features, coors=coors), taps(feature=features, coors=coors, num_points=counts)
        return distiller._voxels(features, features, *sides, Step()).importance.tolist()

    @pytest.mark.parametrize(
        ("importance", "expected"),
        [
            ("channel_max", [0.0, 1.0, 2.0, 4.0]),
            ("abs_mean", [0.0, 0.5, 1.5, 3.5]),
            ("l2", [0.0, 1.0, 5**0.5, 5.0]),
            (lambda rows: -rows[:, 0], [0.0, -1.0, 1.0, -3.0]),
        ],
    )
    def test_of_features(self, importance: Any, expected: list[float]) -> None:
        features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 2.0], [3.0, 4.0]])
        assert self.rows(importance, features) == pytest.approx(expected)

    def test_of_numbers_of_points(self) -> None:
        features = torch.zeros(3, 1)
        assert self.rows("num_points", features, counts=[4, 1, 2]) == [4.0, 1.0, 2.0]
        assert self.rows("log_num_points", features, counts=[4, 1, 2]) == pytest.approx([1.386294, 0.0, 0.693147])

    def test_of_the_points_of_dynamic_voxels(self) -> None:
        """The voxel of every point; one is outside of all."""
        coors = voxels(3)
        points = torch.cat([coors[[2, 0, 2, 2]], torch.tensor([[0, -1, -1, -1]])])
        sides = (
            taps(feature=torch.zeros(3, 1), coors=coors),
            taps(feature=torch.zeros(3, 1), coors=coors, num_points=points),
        )
        items = build()._voxels(torch.zeros(3, 1), torch.zeros(3, 1), *sides, Step())
        assert items.importance.tolist() == [1.0, 0.0, 3.0]


class TestImportanceOfPlaces:
    heatmap = torch.arange(128.0).view(1, 2, 8, 8) / 64 - 1

    def places(self, on: str) -> tuple[list[dict[str, Tap]], dict[str, Any]]:
        """Every cell of an 8 x 8 map of 1 m as voxel, cell or point; a head in which class 1 is surer."""
        y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"))
        head = ([{"heatmap": self.heatmap}],)
        if on == "maps":
            values = {"feature": torch.zeros(1, 1, 8, 8)}
        elif on == "voxels":
            values = {"feature": torch.zeros(64, 1), "coors": torch.stack((0 * x, 0 * x, y, x), dim=1)}
        else:
            xyz = torch.stack((x - 3.5, y - 3.5, 0.0 * x), dim=1)[None]
            values = {"feature": torch.zeros(1, 1, 64), "xyz": xyz}
            head = self.heatmap.flatten(2).transpose(1, 2)
        options = {"voxel_size_m": (1.0, 1.0)} if on == "voxels" else {}
        return [taps("yx", **values), taps("yx", **values, response=head)], options

    def importance(self, on: str, importance: str, step: Step) -> Tensor:
        sides, options = self.places(on)
        distiller = build(on=on, importance=importance, **options)
        read = {"voxels": distiller._voxels, "maps": distiller._maps, "points": distiller._points}[on]
        return read(*distiller._levels(*sides)[0], *sides, step).importance

    @pytest.mark.parametrize("on", ["voxels", "maps", "points"])
    def test_score_of_the_teacher(self, on: str) -> None:
        found = self.importance(on, "cls_score", Step())
        assert torch.allclose(found, self.heatmap[0, 1].sigmoid().flatten(), atol=1e-6)

    @pytest.mark.parametrize(
        ("on", "box", "cells"),
        [
            *((on, (1.5, -2.5, 1.9, 0.8, 0.0), [(1, 5)]) for on in ("voxels", "maps", "points")),
            *((on, (-0.5, 2.5, 2.1, 0.8, 1.5708), [(5, 3), (6, 3), (7, 3)]) for on in ("voxels", "maps", "points")),
            ("maps", (1.0, -2.0, 0.2, 0.2, 0.0), [(1, 4), (1, 5), (2, 4), (2, 5)]),  # as large as a cell's diagonal
            ("points", (1.0, -2.0, 0.2, 0.2, 0.0), []),
        ],
    )
    def test_annotated_boxes(self, on: str, box: tuple, cells: list, make_step: Make) -> None:
        found = self.importance(on, "boxes", make_step([[box]])).view(8, 8)
        assert [tuple(cell) for cell in (found == 0).nonzero().tolist()] == cells
        assert (found == -torch.inf).sum() == 64 - len(cells)

    @pytest.mark.parametrize("on", ["voxels", "maps", "points"])
    def test_items_outside_of_boxes_are_no_centres(self, on: str, make_step: Make) -> None:
        sides, options = self.places(on)
        distiller = build(on=on, importance="boxes", k=4, **options)
        read = {"voxels": distiller._voxels, "maps": distiller._maps, "points": distiller._points}[on]
        step = make_step([[(1.5, -2.5, 1.9, 0.8, 0.0)]])
        (graph,) = distiller._graphs(read(*distiller._levels(*sides)[0], *sides, step), step.generator)
        assert graph.centre.tolist() == [8 + 5]
        assert distiller.loss(*sides, make_step([[]]))["graph"] == 0

    @pytest.mark.parametrize("on", ["voxels", "maps", "points"])
    def test_centres_among_equals_are_drawn_from_all_of_the_map(self, on: str, make_step: Make) -> None:
        """Rows are in the order of places: the first N would leave out the objects at the far end."""
        sides, options = self.places(on)
        distiller = build(on=on, importance="boxes", num_samples=6, k=4, **options)
        read = {"voxels": distiller._voxels, "maps": distiller._maps, "points": distiller._points}[on]
        step = make_step([[(0.0, -3.0, 7.9, 1.8, 0.0), (0.0, 3.0, 7.9, 1.8, 0.0)]])
        items = read(*distiller._levels(*sides)[0], *sides, step)
        assert (items.importance == 0).sum() == 32
        draws = []
        for seed in range(20):
            (graph,) = distiller._graphs(items, torch.Generator().manual_seed(seed))
            assert (items.importance[graph.centre] == 0).all()
            assert len(graph.centre.unique()) == 6
            draws.append(graph.centre)
        share = (torch.cat(draws) < 32).float().mean().item()
        assert 0.35 < share < 0.65

    def test_an_anchor_head_has_scores_too(self) -> None:
        sides, _ = self.places("maps")
        sides[1]["response"] = taps("yx", response=([self.heatmap], [torch.zeros(1, 14, 8, 8)]))["response"]
        distiller = build(on="maps", importance="cls_score")
        found = distiller._maps(*distiller._levels(*sides)[0], *sides, Step()).importance
        assert torch.allclose(found, self.heatmap[0, 1].sigmoid().flatten(), atol=1e-6)

    def test_maps_of_the_other_layout_are_read_as_they_lie(self, make_step: Make) -> None:
        sides, _ = self.places("maps")
        step = make_step([[(-0.5, 2.5, 2.1, 0.8, 1.5708)]])
        found = []
        for layout in ("yx", "xy"):
            turned = [taps(layout, feature=side["feature"].value) for side in sides]
            distiller = build(on="maps", importance="boxes")
            found.append(distiller._maps(*distiller._levels(*turned)[0], *turned, step).importance.view(8, 8))
        assert torch.equal(*found)  # rows are y in both
