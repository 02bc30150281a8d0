"""The ground as a mesh in road coordinates: carriageway, kerbs, sidewalks, side streets and the land beyond."""

import numpy as np

from .materials import Material
from .mesh import Mesh, join_meshes, quads
from .road import EDGE_M, KERB_FACE_M, Road
from .semantics import ROAD, SIDEWALK, TERRAIN

STEP_M = 1.5


def build_ground(road: Road) -> Mesh:
    """Ground of the whole scene, sorted along the road; texture is (s, d)."""
    s = np.arange(road.s_min, road.s_max, STEP_M)
    across = _cuts(road)
    grid_s, grid_d = np.meshgrid(s, across, indexing="ij")
    points = road.position(grid_s, grid_d)
    texture = np.stack([grid_s, grid_d], -1)
    corners = _cells(points)
    mesh = quads(corners, _cells(texture), Material.GROUND, (0.5, 0.5, 0.5))
    semantic = zone_semantics(road, (grid_s[:-1] + STEP_M / 2)[:, :-1], (grid_d[:, 1:] + grid_d[:, :-1])[:-1] / 2)
    return Mesh(mesh.corners, mesh.texture, mesh.colour, mesh.material, np.repeat(semantic.reshape(-1), 2), mesh.owner)


def _cells(grid: np.ndarray) -> np.ndarray:
    """Quadrilaterals [Q, 4, K] of a grid [S, D, K], counter-clockwise from above."""
    cells = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], 2)
    return cells.reshape(-1, 4, grid.shape[-1])


def _cuts(road: Road) -> np.ndarray:
    """Lateral places of the grid: at every edge, and close enough to follow the height field."""
    section = road.section
    cuts = {0.0}
    for side in (1, -1):
        kerb, end = section.kerb(side), section.walk_end(side)
        inner = np.linspace(0, section.lanes, 1 + 2 * section.lanes_per_side)[1:]
        # camber and bank bend at the kerb and at 14 m; the land beyond bends 1 m behind the sidewalk
        outer = [kerb, kerb + KERB_FACE_M, end, end + 1.0, 14.0, 20.0, 28.0, 40.0, EDGE_M]
        cuts.update(side * float(d) for d in [*inner, *outer])
    return np.array(sorted(cuts))


def zone_semantics(road: Road, s: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Semantic id of the ground at road coordinates; the shape of ``s`` and ``d``."""
    section = road.section
    side_kerb = np.where(d > 0, section.kerb(1), section.kerb(-1))
    zone = np.where(np.abs(d) < side_kerb, ROAD, np.where(np.abs(d) < side_kerb + section.walk, SIDEWALK, TERRAIN))
    for junction in road.junctions:
        opens = np.where(d > 0, junction.left, junction.right)
        within = (s > junction.start) & (s < junction.end)
        zone = np.where(opens & within, ROAD, zone)
        beside = (s > junction.start - 3.0) & (s < junction.end + 3.0) & ~within
        zone = np.where(opens & beside & (zone == TERRAIN), SIDEWALK, zone)
    return zone.astype(np.uint8)


def sort_along(road: Road, meshes: list[Mesh], places: list[np.ndarray]) -> tuple[Mesh, np.ndarray]:
    """All static triangles ordered by their place ``s`` along the road, and those places."""
    mesh = join_meshes(meshes)
    s = np.concatenate(places)
    order = np.argsort(s, kind="stable")
    return mesh[order], s[order]
