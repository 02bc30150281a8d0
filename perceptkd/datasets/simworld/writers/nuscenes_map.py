"""The map mask of a scene: road and sidewalks in white, as the devkit draws them under a LiDAR sweep."""

import cv2
import numpy as np

from perceptkd.datasets.simworld.road import Road

RESOLUTION_M = 0.1
MARGIN_M = 20.0
STEP_M = 1.0


def walk_edges(road: Road) -> np.ndarray:
    """Outer edges of the left and right sidewalk along the road, [2, S, 2] in metres."""
    along = np.arange(road.s_min, road.s_max + STEP_M, STEP_M)
    return np.stack([road.position(along, side * road.section.walk_end(side))[:, :2] for side in (1, -1)])


def map_origin(road: Road) -> np.ndarray:
    """The lower left corner [2] of the map in the scene's frame, whole metres.

    The data set's global frame starts there: the devkit's masks begin at (0, 0), and one that began at the scene's own
    origin would be mostly empty and far too large.
    """
    return np.floor(walk_edges(road).min(axis=(0, 1)) - MARGIN_M)


def draw_map(road: Road) -> np.ndarray:
    """uint8 [H, W], 255 on road and sidewalks; 0.1 m per pixel from :func:`map_origin`, the largest y in row 0."""
    edges = walk_edges(road) - map_origin(road)
    width, height = np.ceil((edges.max(axis=(0, 1)) + MARGIN_M) / RESOLUTION_M).astype(int)
    pixels = edges / RESOLUTION_M
    pixels[:, :, 1] = height - pixels[:, :, 1]
    left, right = pixels.round().astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    for i in range(len(left) - 1):
        cv2.fillConvexPoly(mask, np.stack([left[i], left[i + 1], right[i + 1], right[i]]), 255)
    return mask
