"""How the RoI ops cut their work."""

import torch

from perceptkd.ops.roi_parts import PIXELS, bin_points, bounded, next_power_of_2, parts_by_grid, sampled_parts


def test_every_roi_with_samples_is_in_one_part() -> None:
    sizes = torch.rand(60, 2) * 9
    sizes[::7] = 0
    seen = torch.zeros(60, dtype=torch.int64)
    for some, grid in sampled_parts(sizes, (2, 3), 0, limit=PIXELS):
        expected = (sizes[some] / torch.tensor([2, 3])).ceil().long()
        assert (expected == torch.tensor(grid)).all()
        seen[some] += 1
    assert torch.equal(seen, (sizes > 0).all(1).long())


def test_fixed_number_of_samples_is_one_part() -> None:
    ((some, grid),) = sampled_parts(torch.zeros(4, 2), (2, 3), 2, limit=PIXELS)
    assert torch.arange(4)[some].tolist() == [0, 1, 2, 3]
    assert grid == (2, 2)


def test_no_rois_are_no_parts() -> None:
    assert list(parts_by_grid(torch.zeros(0, 2, dtype=torch.int64))) == []
    assert list(bounded(slice(0, 0), 0, 10, 5)) == []


def test_parts_are_bounded() -> None:
    indices = torch.tensor([4, 7, 8, 9, 11])
    assert [part.tolist() for part in bounded(indices, 5, 10, 25)] == [[4, 7], [8, 9], [11]]
    assert [part.tolist() for part in bounded(indices, 5, 10, 5)] == [[4], [7], [8], [9], [11]]
    assert list(bounded(slice(0, 3), 3, 10, 25)) == [slice(0, 2), slice(2, 3)]


def test_points_are_the_middles_of_equal_cells() -> None:
    points = bin_points(torch.tensor([-1.0, 2.0]), torch.tensor([6.0, -3.0]), 3, 2)
    assert points[0].flatten().tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert points[1].flatten().tolist() == [1.75, 1.25, 0.75, 0.25, -0.25, -0.75]


def test_powers_of_2() -> None:
    counts = torch.arange(0, 70)
    powers = next_power_of_2(counts)
    assert (powers >= counts).all()
    assert (powers[1:] < 2 * counts[1:]).all()
    assert set(powers.tolist()) == {0, 1, 2, 4, 8, 16, 32, 64, 128}
