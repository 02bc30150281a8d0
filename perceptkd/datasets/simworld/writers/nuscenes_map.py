"""The map mask of a scene: road and sidewalks in white, as the devkit draws them under a LiDAR sweep."""

import cv2
import numpy as np

from perceptkd.datasets.simworld.ground import zone_semantics
from perceptkd.datasets.simworld.road import EDGE_M, Road
from perceptkd.datasets.simworld.semantics import ROAD, SIDEWALK

RESOLUTION_M = 0.1
MARGIN_M = 20.0
CELL_M = 0.5


def _ground_grid(road: Road) -> tuple[np.ndarray, np.ndarray]:
    """Places along and across the road, one every cell."""
    return np.arange(road.s_min, road.s_max, CELL_M), np.arange(-EDGE_M, EDGE_M + CELL_M / 2, CELL_M)


def map_origin(road: Road) -> np.ndarray:
    """The lower left corner [2] of the map in the scene's frame, whole metres.

    The data set's global frame starts there: the devkit's masks begin at (0, 0), and one that began at the scene's own
    origin would be mostly empty and far too large.
    """
    along, across = _ground_grid(road)
    edges = road.position(along[:, None], across[[0, -1]])[..., :2]
    return np.floor(edges.min(axis=(0, 1)) - MARGIN_M)


def draw_map(road: Road) -> np.ndarray:
    """uint8 [H, W], 255 on road and sidewalks; 0.1 m per pixel from :func:`map_origin`, the largest y in row 0."""
    along, across = _ground_grid(road)
    points = road.position(along[:, None], across)[..., :2] - map_origin(road)
    width, height = np.ceil((points.max(axis=(0, 1)) + MARGIN_M) / RESOLUTION_M).astype(int)
    pixels = points / RESOLUTION_M
    pixels[..., 1] = height - pixels[..., 1]
    corners = pixels.round().astype(np.int32)
    zones = zone_semantics(road, *np.broadcast_arrays(along[:-1, None] + CELL_M / 2, across[:-1] + CELL_M / 2))
    mask = np.zeros((height, width), np.uint8)
    for i, j in np.argwhere((zones == ROAD) | (zones == SIDEWALK)):
        cell = [corners[i, j], corners[i + 1, j], corners[i + 1, j + 1], corners[i, j + 1]]
        cv2.fillConvexPoly(mask, np.stack(cell), 255)
    return mask
