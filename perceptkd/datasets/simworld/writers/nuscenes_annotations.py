"""What a nuScenes annotation says about a box besides its place: LiDAR points inside it and its visible share.

Legend: N boxes, 8 corners, P points.
"""

import cv2
import numpy as np
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box

NEAR_M = 0.1
#: Corners of a box in units of half its length, width and height, and the pairs of them that share an edge.
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
EDGES = np.array([(i, i | bit) for bit in (1, 2, 4) for i in range(8) if not i & bit])
#: Share of a box's outline that an unoccluded object fills, about: its silhouette is smaller than its box's.
OBJECT_SHARE = 0.7
MIN_OUTLINE_PX = 4.0


def count_points(box: Box, points: np.ndarray) -> int:
    """How many points [P, 3+] lie inside ``box`` (same frame), by the devkit's own test.

    >>> from pyquaternion import Quaternion
    >>> count_points(Box([0, 0, 0], [2, 4, 2], Quaternion()), np.array([[1.9, 0.9, 0.0], [0.0, 1.9, 0.0]]))
    1
    """
    reach = np.linalg.norm(box.wlh) / 2 + NEAR_M
    near = points[(np.abs(points[:, :3] - box.center) <= reach).all(axis=1), :3]
    return int(points_in_box(box, near.T).sum())


def box_corners(centers: np.ndarray, yaws: np.ndarray, sizes_wlh: np.ndarray) -> np.ndarray:
    """Corners [N, 8, 3] of upright boxes: centres [N, 3], headings [N], sizes [N, 3]."""
    local = CORNERS * sizes_wlh[:, None, [1, 0, 2]]
    cos, sin = np.cos(yaws)[:, None], np.sin(yaws)[:, None]
    turned = [cos * local[:, :, 0] - sin * local[:, :, 1], sin * local[:, :, 0] + cos * local[:, :, 1], local[:, :, 2]]
    return np.stack(turned, axis=-1) + centers[:, None]


def outline_areas(corners: np.ndarray, intrinsics: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Pixels [N] that the outlines of boxes cover inside the image; 0 behind the camera.

    Args:
        corners: [N, 8, 3] in the camera's frame, in the order of :func:`box_corners`.
        intrinsics: [3, 3].
        image_size: (width, height).
    """
    areas = np.zeros(len(corners))
    for i in np.flatnonzero(corners[:, :, 2].max(axis=1, initial=0.0) > NEAR_M):
        areas[i] = _outline_area(corners[i], intrinsics, image_size)
    return areas


def _outline_area(corners: np.ndarray, intrinsics: np.ndarray, image_size: tuple[int, int]) -> float:
    a, b = corners[EDGES[:, 0]], corners[EDGES[:, 1]]
    crossing = (a[:, 2] < NEAR_M) != (b[:, 2] < NEAR_M)
    a, b = a[crossing], b[crossing]
    share = (NEAR_M - a[:, 2:]) / (b[:, 2:] - a[:, 2:])
    pixels = np.concatenate([corners[corners[:, 2] >= NEAR_M], a + (b - a) * share]) @ intrinsics.T
    outline = cv2.convexHull((pixels[:, :2] / pixels[:, 2:]).astype(np.float32))
    width, height = image_size
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    return float(cv2.intersectConvexConvex(outline, frame)[0])


def visible_shares(pixels: np.ndarray, outlines: np.ndarray) -> np.ndarray:
    """Shares [N] of objects that are seen: their pixels over those they would have unoccluded, over all cameras.

    >>> visible_shares(np.array([0.0, 70.0, 7.0]), np.array([0.0, 100.0, 100.0])).tolist()
    [0.0, 1.0, 0.1]
    """
    seen = outlines >= MIN_OUTLINE_PX
    return np.where(seen, np.minimum(1.0, pixels / (OBJECT_SHARE * np.where(seen, outlines, 1.0))), 0.0)
