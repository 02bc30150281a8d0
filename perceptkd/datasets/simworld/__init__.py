"""A seeded, procedural street with nuScenes-like sensors and exact ground truth.

Everything is a pure function of ``WorldSpec``: the same specification gives the same bytes. It is for proving plumbing
and for comparing methods under equal conditions; a table that uses it says so.

>>> scene = build_scene(WorldSpec(seed=0, scene_name="scene-0061", num_keyframes=2))
>>> scene.agents[0].instance_id
1
"""

from .agents import Agent, Pose
from .calibration import CAMERAS, LIDAR, RIG, Sensor
from .camera import CameraFrame, render_camera
from .lidar import LidarSweep, cast_lidar
from .scene import Scene, build_scene
from .semantics import CATEGORIES, CLASS_NAMES, SEMANTICS
from .spec import WEATHERS, WORLD_VERSION, WorldSpec

__all__ = [
    "CAMERAS",
    "CATEGORIES",
    "CLASS_NAMES",
    "LIDAR",
    "RIG",
    "SEMANTICS",
    "WEATHERS",
    "WORLD_VERSION",
    "Agent",
    "CameraFrame",
    "LidarSweep",
    "Pose",
    "Scene",
    "Sensor",
    "WorldSpec",
    "build_scene",
    "cast_lidar",
    "render_camera",
]
