"""How much a camera sees of every agent, and how much it would see of each if nothing stood before it.

Legend: N agents, T triangles, M projected triangles, H x W pixels.
"""

from typing import NamedTuple

import numpy as np

from perceptkd.datasets.simworld.agents import Agent
from perceptkd.datasets.simworld.raster import NO_TRIANGLE, fill_nearest, project_perspective
from perceptkd.datasets.simworld.scene import place_agents

#: Fewer pixels than this, without anything before them, are too few to tell how much is visible.
MIN_PIXELS = 4


class Silhouettes(NamedTuple):
    """What each agent covers of an image, without the others and without the street.

    Args:
        pixels: [N] int.
        bounds: [N, 4] (left, top, right, bottom) in pixels from the image's corner; nan where it covers no pixel.
    """

    pixels: np.ndarray
    bounds: np.ndarray


class AgentShapes:
    """The shapes of a scene's agents, to measure what a camera would see of each if nothing stood before it."""

    def __init__(self, agents: list[Agent]) -> None:
        self.heights = np.array([agent.size_wlh[2] for agent in agents])
        self.corners = np.concatenate([np.zeros((0, 3, 3)), *(agent.shape.corners for agent in agents)])
        self.owner = np.repeat(np.arange(len(agents)), [len(agent.shape.corners) for agent in agents]).astype(np.int32)

    def silhouettes(
        self, poses: tuple[np.ndarray, np.ndarray], *, camera: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
    ) -> Silhouettes:
        """What the agents cover of an image, each alone.

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
        pixels, bounds = np.zeros(len(self.heights), int), np.full((len(self.heights), 4), np.nan)
        for agent in np.unique(owner):
            pixels[agent], bounds[agent] = silhouette(screen[owner == agent], size)
        return Silhouettes(pixels, bounds)


def silhouette(screen: np.ndarray, size: tuple[int, int]) -> tuple[int, np.ndarray]:
    """Pixels of an image of (width, height) that triangles [M, 3, (x, y, 1/depth)] cover together, and their bounds.

    The bounds [4] are those of the triangles, which are finer than pixels, as far as these are covered: a corner that
    is beyond the image's border counts for what is within. nan where no pixel is covered.

    >>> pixels, bounds = silhouette(np.array([[[0.0, 0, 1], [4, 0, 1], [0, 4, 1]]]), (100, 100))
    >>> pixels, bounds.tolist()
    (10, [0.0, 0.0, 4.0, 4.0])
    """
    low = np.clip(np.floor(screen[:, :, :2].min(axis=(0, 1))), 0, size).astype(int)
    high = np.clip(np.ceil(screen[:, :, :2].max(axis=(0, 1))), 0, size).astype(int)
    nothing = 0, np.full(4, np.nan)
    if (high <= low).any():
        return nothing
    width, height = high - low
    winner = np.full((height, width), NO_TRIANGLE, np.int32)
    fill_nearest(screen - [*low, 0.0], np.zeros(len(screen), np.int32), np.zeros((height, width)), winner)
    covered = winner != NO_TRIANGLE
    if not covered.any():
        return nothing
    columns, rows = np.flatnonzero(covered.any(0)), np.flatnonzero(covered.any(1))
    first, last = low + np.array([columns[0], rows[0]]), low + np.array([columns[-1], rows[-1]])
    # A pixel is covered where its centre is: the true edge is at most half a pixel from the last one's border.
    edges = np.concatenate(
        [
            np.clip(screen[:, :, :2].min(axis=(0, 1)), first - 0.5, first + 0.5),
            np.clip(screen[:, :, :2].max(axis=(0, 1)), last + 0.5, last + 1.5),
        ]
    )
    return int(covered.sum()), np.clip(edges, 0, [*size, *size])


def seen_pixels(instance: np.ndarray, count: int) -> np.ndarray:
    """Pixels [count] of each agent in an image's instance mask [H, W], which has 0 where there is none.

    >>> seen_pixels(np.array([[0, 2, 2]]), 3).tolist()
    [0, 2, 0]
    """
    return np.bincount(instance.ravel(), minlength=count + 1)[1:]


def visible_shares(seen: np.ndarray, unoccluded: np.ndarray) -> np.ndarray:
    """Shares [N] of objects that are seen: their pixels over those without anything before them, over all cameras.

    >>> visible_shares(np.array([0, 70, 10]), np.array([0, 70, 100])).tolist()
    [0.0, 1.0, 0.1]
    """
    enough = unoccluded >= MIN_PIXELS
    return np.where(enough, seen / np.where(enough, unoccluded, 1), 0.0)
