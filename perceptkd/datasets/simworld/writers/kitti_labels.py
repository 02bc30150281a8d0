"""What a KITTI label file says about the agents of a scene, from what the camera and the LiDAR see of them.

====================  =========================================================================================
agent                 KITTI
====================  =========================================================================================
car                   Car; Van if it is higher than 1.88 m
truck                 Truck
bus                   Tram: the world has no rails, and nothing else that is as long and carries people
trailer               Misc, as KITTI describes it ("e.g. trailers, segways")
construction_vehicle  Misc
bicycle, motorcycle   Cyclist with a rider; else no label, as in KITTI
pedestrian            Pedestrian; nobody sits, so that there is no Person_sitting
traffic_cone          no label
barrier               no label
====================  =========================================================================================

Every agent of these classes of which the image shows a pixel has a line. It is a DontCare region if it is hardly
visible (see ``is_labelled``), as KITTI's own are what the annotators could not make out. Boxes are upright in the
camera frame, as KITTI's are: they are inclined to the objects by as much as the slope under the car and its
suspension, up to 4 degrees.

Legend: N agents.
"""

import numpy as np

from perceptkd.datasets.kitti_files import Calibration, ObjectLabel, dont_care, observation_angle, wrap_angle
from perceptkd.datasets.simworld.agents import Agent
from perceptkd.datasets.simworld.calibration import LIDAR
from perceptkd.datasets.simworld.camera import CameraFrame
from perceptkd.datasets.simworld.kitti_rig import CAMERA, KITTI_RIG, PIXEL_CENTRE
from perceptkd.datasets.simworld.lidar import LidarSweep
from perceptkd.datasets.simworld.scene import Scene
from perceptkd.datasets.simworld.writers.visibility import (
    MIN_PIXELS,
    AgentShapes,
    Silhouettes,
    seen_pixels,
    visible_shares,
)

VAN_HEIGHT_M = 1.88
TYPES = {
    "car": "Car",
    "truck": "Truck",
    "bus": "Tram",
    "trailer": "Misc",
    "construction_vehicle": "Misc",
    "pedestrian": "Pedestrian",
}
TWO_WHEELERS = ("bicycle", "motorcycle")
#: Visible shares from which an object is fully (0) and partly (1) visible; below it is largely occluded (2).
OCCLUSION_SHARES = (0.85, 0.5)
#: A smaller part of an object, or fewer LiDAR points on it, are too few to say where it is.
MIN_SHARE, MIN_POINTS = 0.1, 3


def kitti_type(agent: Agent) -> str | None:
    """KITTI's class of an agent; None for what KITTI does not label."""
    if agent.class_name in TWO_WHEELERS:
        return "Cyclist" if agent.rider else None
    if agent.class_name == "car" and agent.size_wlh[2] > VAN_HEIGHT_M:
        return "Van"
    return TYPES.get(agent.class_name)


def occlusion_level(share: float) -> int:
    """KITTI's level of an object of which ``share`` is visible, of what lies within the image.

    >>> [occlusion_level(share) for share in (1.0, 0.7, 0.2)]
    [0, 1, 2]
    """
    return sum(share < limit for limit in OCCLUSION_SHARES)


class KittiLabeller:
    """Makes the label files of one scene.

    Args:
        scene: The scene.
        calibration: Of the images.
        image_size: (width, height) of the images.
    """

    def __init__(self, scene: Scene, calibration: Calibration, image_size: tuple[int, int]) -> None:
        self.scene = scene
        self.calibration = calibration
        self.size = image_size
        self.intrinsics = KITTI_RIG[CAMERA].intrinsics_at(image_size)
        self.agents = [agent for agent in scene.agents if kitti_type(agent)]
        self.index = np.array([agent.instance_id - 1 for agent in self.agents], int)
        self.velo_from_ego = np.linalg.inv(KITTI_RIG[LIDAR].ego_from_sensor)

    def labels(self, t: float, frame: CameraFrame, sweep: LidarSweep) -> list[ObjectLabel]:
        """The lines of the frame at ``t`` seconds, DontCare last."""
        count = len(self.scene.agents)
        seen = seen_pixels(frame.instance, count)[self.index]
        points = np.bincount(sweep.instance_id, minlength=count + 1)[1:][self.index]
        alone = self._silhouettes(t, np.arange(len(self.agents)), margin=(0, 0))
        truncation = self._truncation(t, alone)
        shares = visible_shares(seen, alone.pixels)
        objects, regions = [], []
        for i in np.flatnonzero((seen > 0) & (alone.pixels > 0)):
            bbox = tuple(self._to_kitti(alone.bounds[i]))
            label = self._label(t, self.agents[i], bbox, float(truncation[i]), occlusion_level(shares[i]))
            if is_labelled(label, seen[i], shares[i], points[i]):
                objects.append(label)
            else:
                regions.append(dont_care(bbox))
        return objects + regions

    def _silhouettes(self, t: float, chosen: np.ndarray, *, margin: tuple[int, int]) -> Silhouettes:
        """Of the chosen agents, in an image that is larger by ``margin`` (x, y) pixels on each side."""
        centers, yaws = self.scene.agent_poses(t)
        rows = self.index[chosen]
        intrinsics = self.intrinsics.copy()
        intrinsics[:2, 2] += margin
        return AgentShapes([self.agents[i] for i in chosen]).silhouettes(
            (centers[rows], yaws[rows]),
            camera=self.scene.ego_pose(t) @ KITTI_RIG[CAMERA].ego_from_sensor,
            intrinsics=intrinsics,
            size=(self.size[0] + 2 * margin[0], self.size[1] + 2 * margin[1]),
        )

    def _truncation(self, t: float, alone: Silhouettes) -> np.ndarray:
        """Shares [N] of the agents beyond the image's border, in an image with its width around it on all sides."""
        truncation = np.zeros(len(self.agents))
        at_border = (alone.bounds[:, :2] <= 0).any(1) | (alone.bounds[:, 2:] >= self.size).any(1)
        chosen = np.flatnonzero(at_border)
        whole = self._silhouettes(t, chosen, margin=(self.size[0], self.size[0]))
        truncation[chosen] = 1.0 - alone.pixels[chosen] / whole.pixels
        return truncation

    def _to_kitti(self, bounds: np.ndarray) -> np.ndarray:
        """Bounds [4] counted from the centre of the first pixel, at most to that of the last one."""
        return np.clip(bounds - PIXEL_CENTRE, 0, [*self.size, *self.size] - np.ones(4))

    def _label(self, t: float, agent: Agent, bbox: tuple, truncation: float, occlusion: int) -> ObjectLabel:
        pose = self.velo_from_ego @ np.linalg.inv(self.scene.ego_pose(t)) @ agent.pose(t).matrix
        rotation, shift = self.calibration.lidar2cam[:3, :3], self.calibration.lidar2cam[:3, 3]
        forward = rotation @ pose[:3, 0]
        rotation_y = float(wrap_angle(np.arctan2(-forward[2], forward[0])))
        width, length, height = agent.size_wlh
        bottom = rotation @ pose[:3, 3] + shift + [0.0, height / 2, 0.0]
        return ObjectLabel(
            kitti_type(agent),
            truncation,
            occlusion,
            observation_angle(pose[:2, 3], rotation_y),
            bbox,
            (height, width, length),
            tuple(bottom.tolist()),
            rotation_y,
        )


def is_labelled(label: ObjectLabel, seen: int, share: float, points: int) -> bool:
    """Whether an object keeps its box.

    Args:
        label: Its box.
        seen: Pixels that show it.
        share: They are this part of its pixels within the image.
        points: LiDAR points on it.
    """
    of_all = share * (1.0 - label.truncated)
    return bool(label.location[2] > 0 and seen >= MIN_PIXELS and of_all >= MIN_SHARE and points >= MIN_POINTS)
