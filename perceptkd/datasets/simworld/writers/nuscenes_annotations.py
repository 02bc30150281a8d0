"""What a nuScenes annotation says about a box besides its place: LiDAR points inside it and its visible share.

Legend: N agents, T triangles, P points.
"""

import numpy as np
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box

from perceptkd.datasets.simworld.agents import Agent
from perceptkd.datasets.simworld.raster import NO_TRIANGLE, fill_nearest, project_perspective
from perceptkd.datasets.simworld.scene import place_agents

SLACK_M = 0.1
#: Fewer pixels than this, unoccluded and in all cameras together, are too few to tell how much is visible.
MIN_PIXELS = 4


def count_points(box: Box, points: np.ndarray) -> int:
    """How many points [P, 3+] lie inside ``box`` (same frame), by the devkit's own test.

    >>> from pyquaternion import Quaternion
    >>> count_points(Box([0, 0, 0], [2, 4, 2], Quaternion()), np.array([[1.9, 0.9, 0.0], [0.0, 1.9, 0.0]]))
    1
    """
    reach = np.linalg.norm(box.wlh) / 2 + SLACK_M
    near = points[(np.abs(points[:, :3] - box.center) <= reach).all(axis=1), :3]
    return int(points_in_box(box, near.T).sum())


class AgentShapes:
    """The shapes of a scene's agents, to measure what a camera would see of each if nothing stood before it."""

    def __init__(self, agents: list[Agent]) -> None:
        self.heights = np.array([agent.size_wlh[2] for agent in agents])
        self.corners = np.concatenate([np.zeros((0, 3, 3)), *(agent.shape.corners for agent in agents)])
        self.owner = np.repeat(np.arange(len(agents)), [len(agent.shape.corners) for agent in agents]).astype(np.int32)

    def count_pixels(
        self, poses: tuple[np.ndarray, np.ndarray], *, camera: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """Pixels [N] that each agent covers in an image without the others and without the street.

        Args:
            poses: Box centres [N, 3] and headings [N].
            camera: global_from_camera [4, 4].
            intrinsics: [3, 3].
            size: (width, height) of the image.
        """
        centers, yaws = poses
        ground = centers - self.heights[:, None] * [0.0, 0.0, 0.5]
        placed = place_agents(self.corners, self.owner, ground, np.cos(yaws), np.sin(yaws))
        rotation, origin = np.ascontiguousarray(camera[:3, :3].T), np.ascontiguousarray(camera[:3, 3])
        screen, source = project_perspective(placed, rotation, origin, intrinsics, *size)
        owner = self.owner[source]
        counts = np.zeros(len(self.heights), int)
        for agent in np.unique(owner):
            counts[agent] = covered_pixels(screen[owner == agent], size)
        return counts


def covered_pixels(screen: np.ndarray, size: tuple[int, int]) -> int:
    """Pixels of an image of (width, height) that triangles [T, 3, (x, y, 1/depth)] cover together.

    >>> covered_pixels(np.array([[[0.0, 0, 1], [4, 0, 1], [0, 4, 1]]]), (100, 100))
    10
    """
    low = np.clip(np.floor(screen[:, :, :2].min(axis=(0, 1))), 0, size).astype(int)
    high = np.clip(np.ceil(screen[:, :, :2].max(axis=(0, 1))), 0, size).astype(int)
    if (high <= low).any():
        return 0
    width, height = high - low
    winner = np.full((height, width), NO_TRIANGLE, np.int32)
    fill_nearest(screen - [*low, 0.0], np.zeros(len(screen), np.int32), np.zeros((height, width)), winner)
    return int((winner != NO_TRIANGLE).sum())


def visible_shares(seen: np.ndarray, unoccluded: np.ndarray) -> np.ndarray:
    """Shares [N] of objects that are seen: their pixels over those without anything before them, over all cameras.

    >>> visible_shares(np.array([0, 70, 10]), np.array([0, 70, 100])).tolist()
    [0.0, 1.0, 0.1]
    """
    enough = unoccluded >= MIN_PIXELS
    return np.where(enough, seen / np.where(enough, unoccluded, 1), 0.0)
