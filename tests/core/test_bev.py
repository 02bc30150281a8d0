"""Maps at metric points and masks around boxes; batches and heads are tested by the methods that use them."""

import math

import pytest
import torch
from torch import Tensor

from perceptkd.core.bev import centre_cells, gaussian_mask, points_in_boxes_bev, sample_points
from perceptkd.distillers.unidistill import key_points

EXTENT = (-54.0, -54.0, 54.0, 54.0)
BOX = torch.tensor([[10.0, 5.0, 4.0, 2.0, math.pi / 6]])
CAR = torch.tensor([[10.0, 5.0, 4.62, 1.95, 0.4]])


def first(boxes: Tensor) -> Tensor:
    """All boxes belong to sample 0."""
    return torch.zeros(len(boxes), dtype=torch.long)


def read(bev_map: Tensor, boxes: Tensor) -> Tensor:
    return sample_points(bev_map, key_points(boxes), first(boxes), extent=EXTENT)


def mask_of(boxes: Tensor, **kwargs: float) -> Tensor:
    return gaussian_mask(boxes, first(boxes), shape=(1, 180, 180), extent=EXTENT, **kwargs)[0]


def box(x: float, y: float, length: float = 4.62, width: float = 1.95) -> Tensor:
    return torch.tensor([[x, y, length, width, 0.0]])


class TestSampling:
    def test_reads_pixel_u_minus_half(self) -> None:
        columns = torch.arange(180.0).expand(1, 1, 180, 180)
        assert read(columns, BOX)[0, 4].item() == pytest.approx(106.1667, abs=1e-4)
        assert read(columns.transpose(2, 3), BOX)[0, 4].item() == pytest.approx(97.8333, abs=1e-4)

    def test_outside_of_the_map_is_zero(self) -> None:
        assert read(torch.ones(1, 3, 180, 180), box(80, 0)).abs().max() == 0

    def test_a_broken_cell_elsewhere_takes_no_part(self) -> None:
        """Points outside of the map weigh the cells at its border by 0, and 0 times NaN is NaN."""
        bev_map = torch.ones(1, 1, 4, 4)
        bev_map[0, 0, 0, 0] = torch.nan
        points = torch.tensor([[[-9.0, -9.0], [0.5, 0.5]]])
        sampled = sample_points(bev_map, points, torch.tensor([0]), extent=(-2, -2, 2, 2))
        assert sampled.flatten().tolist() == [0.0, 1.0]

    def test_every_box_reads_its_own_sample(self) -> None:
        maps = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1).expand(3, 1, 180, 180)
        index = torch.tensor([0, 2, 2])
        sampled = sample_points(maps, key_points(BOX.expand(3, 5)), index, extent=EXTENT)
        assert sampled[:, :, 0].mean(dim=1).tolist() == pytest.approx([1.0, 3.0, 3.0])

    def test_is_independent_of_the_resolution_of_the_map(self) -> None:
        """A linear ramp in metres reads the same from maps of other cell sizes and shapes."""
        for height, width in ((180, 180), (90, 60)):
            column_m = (torch.arange(width) + 0.5) * 108 / width - 54
            assert read(column_m.expand(1, 1, height, width), BOX)[0, 4].item() == pytest.approx(10.0, abs=1e-4)


class TestMask:
    @pytest.mark.parametrize(
        ("size", "total"),
        [((0.73, 0.67), 1.0), ((4.62, 1.95), 1.614604), ((11.04, 2.94), 4.350453), ((20, 4), 8.518152)],
    )
    def test_kernel_sums(self, size: tuple[float, float], total: float) -> None:
        assert mask_of(box(10, 5, *size)).sum().item() == pytest.approx(total, abs=1e-6)

    def test_kernel_of_a_car(self) -> None:
        mask = mask_of(box(10, 5))
        corner, side = math.exp(-4), math.exp(-2)
        expected = torch.tensor([[corner, side, corner], [side, 1, side], [corner, side, corner]])
        assert torch.allclose(mask[97:100, 105:108], expected, atol=1e-6)
        assert mask.count_nonzero() == 9

    def test_overlapping_boxes_keep_the_largest_value(self) -> None:
        assert mask_of(torch.cat((box(10, 5), box(10.6, 5)))).sum().item() == pytest.approx(2.885274, abs=1e-6)

    @pytest.mark.parametrize(
        ("centre", "total"),
        [((-54.2, 0), 1.44264), ((54.2, 0), 0.17197), ((0, 54.2), 0.17197), ((0, -54.9), 0.17197), ((-60, 0), 0.0)],
    )
    def test_edges_of_the_map(self, centre: tuple[float, float], total: float) -> None:
        assert mask_of(box(*centre)).sum().item() == pytest.approx(total, abs=1e-5)

    def test_nothing_spills_into_the_next_sample(self) -> None:
        mask = gaussian_mask(box(0, 53.9), torch.tensor([0]), shape=(2, 180, 180), extent=EXTENT)
        assert mask[0].max() == 1
        assert mask[1].max() == 0

    def test_first_column_collects_centres_just_outside(self) -> None:
        assert mask_of(box(-54.2, 0))[:, 0].max() == 1

    @pytest.mark.parametrize(
        ("size", "radius"),
        [
            ((4.62, 1.95), 1.2666), ((6.93, 2.51), 1.7099), ((11.04, 2.94), 2.1765), ((12.28, 2.92), 2.2201),
            ((6.37, 2.85), 1.8158), ((0.73, 0.67), 0.3183), ((2.11, 0.77), 0.5234), ((1.70, 0.60), 0.4119),
            ((0.41, 0.41), 0.1868), ((0.50, 2.53), 0.3954), ((20, 4), 3.1555),
        ],
    )  # fmt: skip
    def test_radius(self, size: tuple[float, float], radius: float) -> None:
        """The radius shows as that scale of the cell at which one more ring of cells is drawn."""
        for factor, rings in ((1.001, math.ceil(radius)), (0.999, math.ceil(radius) - 1)):
            scale = factor * math.ceil(radius) / radius
            drawn = mask_of(box(10, 5, size[0] * scale, size[1] * scale)).count_nonzero().item()
            assert drawn == (2 * rings + 1) ** 2

    @pytest.mark.parametrize(("size", "radius"), [((4.62, 1.95), 2.100), ((11.04, 2.94), 3.825)])
    def test_radius_of_the_detectors_own_targets(self, size: tuple[float, float], radius: float) -> None:
        drawn = mask_of(box(10, 5, *size), overlap=0.1).count_nonzero().item()
        assert drawn == (2 * int(radius) + 1) ** 2

    def test_min_radius(self) -> None:
        assert mask_of(box(10, 5, 0.4, 0.4), min_radius=2).count_nonzero() == 25

    def test_no_boxes_draw_nothing(self) -> None:
        assert mask_of(torch.zeros(0, 5)).abs().max() == 0

    def test_carries_no_gradient(self) -> None:
        assert not mask_of(box(10, 5).requires_grad_()).requires_grad


class TestPointsInBoxes:
    """A box of 4 x 2 m around (10, 5), turned by 30 degrees."""

    @pytest.mark.parametrize(
        ("along", "across", "inside"), [(1.9, 0.9, True), (-1.9, -0.9, True), (2.1, 0.0, False), (0.0, 1.1, False)]
    )
    def test_in_the_frame_of_the_box(self, along: float, across: float, inside: bool) -> None:
        cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
        point = torch.tensor([[10 + cos * along - sin * across, 5 + sin * along + cos * across]])
        assert points_in_boxes_bev(point, first(point), BOX, first(BOX)).tolist() == [inside]

    def test_boxes_of_another_sample_do_not_count(self) -> None:
        points, sample = torch.tensor([[10.0, 5.0]] * 3), torch.tensor([0, 1, 2])
        found = points_in_boxes_bev(points, sample, BOX.expand(2, 5), torch.tensor([0, 2]))
        assert found.tolist() == [True, False, True]

    def test_a_smallest_size(self) -> None:
        points = torch.tensor([[10.5, 5.0], [11.2, 5.0]])
        small = torch.tensor([[10.0, 5.0, 0.1, 0.1, 0.0]])
        assert points_in_boxes_bev(points, first(points), small, first(small)).tolist() == [False, False]
        found = points_in_boxes_bev(points, first(points), small, first(small), min_size_m=2.0)
        assert found.tolist() == [True, False]

    def test_nothing(self) -> None:
        nothing = torch.zeros(0, 5)
        assert not points_in_boxes_bev(torch.zeros(3, 2), torch.zeros(3), nothing, first(nothing)).any()
        assert points_in_boxes_bev(torch.zeros(0, 2), torch.zeros(0), BOX, first(BOX)).shape == (0,)


def test_cells_of_centres() -> None:
    """4 x 8 cells of 2 m and 1 m from (-4, -4): the high edge is off the map."""
    boxes = torch.zeros(4, 5)
    boxes[:, :2] = torch.tensor([[-4.0, -4.0], [-0.5, 3.9], [4.0, 0.0], [0.0, -4.1]])
    row, column, inside = centre_cells(boxes, shape=(4, 8), extent=(-4, -4, 4, 4))
    assert inside.tolist() == [True, True, False, False]
    assert (row[:2].tolist(), column[:2].tolist()) == ([0, 3], [0, 3])
