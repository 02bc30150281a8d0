"""The rasteriser against rays intersected one by one."""

import numpy as np

from perceptkd.datasets.simworld.raster import NEAR_M, fill_nearest, project_perspective

WIDTH, HEIGHT = 60, 40
INTRINSICS = np.array([[50.0, 0, 31.0], [0, 48.0, 19.0], [0, 0, 1.0]])


def draw(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    screen, source = project_perspective(corners, np.eye(3), np.zeros(3), INTRINSICS, WIDTH, HEIGHT)
    nearest, winner = np.zeros((HEIGHT, WIDTH)), np.full((HEIGHT, WIDTH), -1, np.int32)
    fill_nearest(screen, source, nearest, winner)
    return nearest, winner


def pierce(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth and triangle per pixel by Moeller and Trumbore's test of every ray with every triangle."""
    x = (np.arange(WIDTH) + 0.5 - INTRINSICS[0, 2]) / INTRINSICS[0, 0]
    y = (np.arange(HEIGHT) + 0.5 - INTRINSICS[1, 2]) / INTRINSICS[1, 1]
    rays = np.stack([*np.meshgrid(x, y), np.ones((HEIGHT, WIDTH))], -1)[:, :, None]
    origin, e1, e2 = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(rays, e2)
    det = (p * e1).sum(-1)
    u = -(p * origin).sum(-1) / det
    q = np.cross(-origin, e1)
    v = (rays * q).sum(-1) / det
    depth = (q * e2).sum(-1) / det
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (depth >= NEAR_M)
    depth = np.where(hit, depth, np.inf)
    return depth.min(-1), np.where(hit.any(-1), depth.argmin(-1), -1)


def test_nearest_triangles_are_those_rays_hit() -> None:
    rng = np.random.default_rng(4)
    corners = rng.uniform([-4, -3, -1], [4, 3, 9], (60, 3, 3))  # some cross the near plane, some lie behind
    nearest, winner = draw(corners)
    depth, expected = pierce(corners)
    same = winner == expected
    assert same.mean() > 0.995, "only pixels exactly on an edge may differ"
    seen = same & (winner >= 0)
    assert seen.mean() > 0.5
    np.testing.assert_allclose(1 / nearest[seen], depth[seen], rtol=1e-6)


def test_triangles_behind_or_aside_are_not_drawn() -> None:
    behind = np.array([[[-1, -1, -2], [1, -1, -2], [0, 1, -2]]], float)
    aside = np.array([[[100, 0, 1], [101, 0, 1], [100, 1, 1]]], float)
    assert (draw(np.concatenate([behind, aside]))[1] == -1).all()


def test_neighbours_leave_no_gap() -> None:
    corners = np.array([[[-9, -9, 5], [9, -9, 5], [9, 9, 5]], [[-9, -9, 5], [9, 9, 5], [-9, 9, 5]]], float)
    assert (draw(corners)[1] >= 0).all()
