"""Points in quadrilaterals against a loop over the edges, and mmcv's function."""

import math

import pytest
import torch
from torch import Tensor

from perceptkd.ops import points_in_polygons as module
from perceptkd.ops.points_in_polygons import points_in_polygons


def is_inside(x: float, y: float, polygon: list[float]) -> bool:
    """Counts crossings to the right of the point, edge by edge; stops at an edge that holds the point."""
    corners = list(zip(polygon[::2], polygon[1::2]))
    crossings = 0
    for (ax, ay), (bx, by) in zip(corners, corners[-1:] + corners[:-1]):
        if y < min(ay, by) or y > max(ay, by):
            continue
        if (x, y) in ((ax, ay), (bx, by)):
            break
        if ay < y <= by or by < y <= ay:
            crossing = ax + (y - ay) * (bx - ax) / (by - ay)
            if crossing == x:
                break
            crossings += crossing > x
    return crossings % 2 == 1


def lattice_scene() -> tuple[Tensor, Tensor]:
    """Points on corners, on edges and level with corners; some polygons cross themselves or have no area."""
    points = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0)).double()
    return points, torch.randint(0, 6, (60, 8)).double()


def test_equals_a_loop_on_borders(device: str) -> None:
    points, polygons = lattice_scene()
    expected = [[is_inside(*point, polygon) for polygon in polygons.tolist()] for point in points.tolist()]
    found = points_in_polygons(points.to(device), polygons.to(device))
    assert found.dtype == torch.bool
    assert found.tolist() == expected


def test_equals_the_half_planes_of_rectangles(device: str) -> None:
    """An independent definition, away from the border, for either sense of rotation."""
    points = torch.rand(500, 2, dtype=torch.float64) * 6
    corners, expected = [], []
    for number in range(8):
        angle, centre = 0.8 * number, torch.tensor([2.0 + 0.3 * number, 3.0], dtype=torch.float64)
        turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]).double()
        signs = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
        half = torch.tensor([1.5, 0.7], dtype=torch.float64)
        corners.append(((signs if number % 2 else signs.flip(0)) * half @ turn + centre).flatten())
        expected.append((((points - centre) @ turn.T).abs() < half).all(1))
    found = points_in_polygons(points.to(device), torch.stack(corners).to(device))
    assert torch.equal(found.cpu(), torch.stack(expected, dim=1))
    assert found.any(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lattice", [True, False])
def test_torch_and_numba_agree_on_borders_too(dtype: torch.dtype, lattice: bool) -> None:
    points, polygons = lattice_scene() if lattice else (torch.rand(400, 2), torch.rand(60, 8))
    points, polygons = points.to(dtype), polygons.to(dtype)
    expected = module._inside(points, polygons.unflatten(1, (4, 2)).unbind(1))
    assert torch.equal(points_in_polygons(points, polygons), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_torch_and_numba_agree_without_finite_numbers(dtype: torch.dtype, value: float) -> None:
    points, polygons = (part.to(dtype) for part in lattice_scene())
    points[torch.rand(points.shape) < 0.1] = value
    polygons[torch.rand(polygons.shape) < 0.1] = value
    expected = module._inside(points, polygons.unflatten(1, (4, 2)).unbind(1))
    assert torch.equal(points_in_polygons(points, polygons), expected)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, polygons = lattice_scene()
    found = points_in_polygons(points, polygons)
    monkeypatch.setattr(module, "_PAIRS_WORTH_A_THREAD", 60)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert torch.equal(points_in_polygons(points, polygons), found)


def test_mmcv_function(device: str) -> None:
    from mmcv.ops import points_in_polygons as mmcv_points_in_polygons

    points, polygons = (part.float().to(device) for part in lattice_scene())
    found = mmcv_points_in_polygons(points, polygons)
    assert torch.equal(found, points_in_polygons(points, polygons).float())
    assert 0 < found.mean() < 1


def test_half_types_empty_input_and_wrong_arguments() -> None:
    points, polygons = lattice_scene()
    assert torch.equal(points_in_polygons(points.half(), polygons.half()), points_in_polygons(points, polygons))
    assert points_in_polygons(points[:0], polygons).shape == (0, 60)
    assert points_in_polygons(points, polygons[:0]).shape == (36, 0)
    with pytest.raises(ValueError, match=r"points must be .* \[N, 2\], got shape \(36, 1\) and dtype float64"):
        points_in_polygons(points[:, :1], polygons)
    with pytest.raises(ValueError, match=r"polygons must be .* \[N, 8\], got shape \(60, 6\)"):
        points_in_polygons(points, polygons[:, :6])
