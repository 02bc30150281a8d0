"""Annotated things: one agent is one nuScenes instance."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .mesh import Mesh
from .motion import Fleet, Track
from .semantics import CATEGORIES, semantic_of_class

STOPPED_MPS = 0.2


class Pose(NamedTuple):
    """Box centre [3] in global metres and heading in radians; boxes are upright, as in nuScenes."""

    center: np.ndarray
    yaw: float

    @property
    def quaternion(self) -> tuple[float, float, float, float]:
        """Rotation (w, x, y, z)."""
        return (float(np.cos(self.yaw / 2)), 0.0, 0.0, float(np.sin(self.yaw / 2)))

    @property
    def matrix(self) -> np.ndarray:
        """global_from_object [4, 4]."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        pose = np.eye(4)
        pose[:2, :2] = [[c, -s], [s, c]]
        pose[:3, 3] = self.center
        return pose


@dataclass(frozen=True)
class Agent:
    """One object of the ten classes.

    Args:
        instance_id: Positive id, unique in the scene, as in the instance masks.
        category: nuScenes category name.
        size_wlh: Width, length, height in metres.
        track: Its motion.
        shape: Mesh in the box frame: origin at the centre of the bottom, x forward, exactly filling the box.
        rider: Whether somebody rides it (two-wheelers).
        resting: Attribute while it does not move.
    """

    instance_id: int
    category: str
    size_wlh: tuple[float, float, float]
    track: Track
    shape: Mesh
    rider: bool = False
    resting: str = ""
    fleet: Fleet = field(repr=False, default=None)  # set by the scene: evaluates the track on its road

    @property
    def class_name(self) -> str:
        """Detection class."""
        return CATEGORIES[self.category]

    @property
    def semantic(self) -> int:
        """Semantic id."""
        return semantic_of_class(self.class_name)

    def pose(self, t: float) -> Pose:
        """Box pose at ``t`` seconds."""
        ground, yaw = self.fleet.pose(t)
        return Pose(ground[0] + [0.0, 0.0, self.size_wlh[2] / 2], float(yaw[0]))

    def velocity(self, t: float) -> np.ndarray:
        """Global velocity [3] in m/s."""
        return self.fleet.velocity(t)[0]

    def attribute(self, t: float) -> str:
        """nuScenes attribute name; empty for cones and barriers, which have none."""
        if self.class_name in ("bicycle", "motorcycle"):
            return "cycle.with_rider" if self.rider else "cycle.without_rider"
        moving = float(np.linalg.norm(self.velocity(t))) > STOPPED_MPS
        if self.class_name == "pedestrian":
            return "pedestrian.moving" if moving else self.resting or "pedestrian.standing"
        if self.class_name in ("traffic_cone", "barrier"):
            return ""
        return "vehicle.moving" if moving else self.resting or "vehicle.stopped"
