"""A scene: street, agents, weather and the ego car's drive, all a pure function of its specification."""

from dataclasses import dataclass, replace

import numpy as np

from .agents import Agent
from .calibration import RIG
from .ego import EgoDrive, draw_ego_travel
from .kernel import kernel
from .mesh import Mesh, join_meshes
from .motion import Fleet
from .road import Road
from .shade_ground import GroundPlan, plan_ground
from .spec import WorldSpec
from .street import build_street
from .traffic import populate
from .weather import Weather, draw_weather

VIEW_M = 125.0
"""Static geometry within this distance along the road takes part in a sensor reading."""


@dataclass(frozen=True)
class Snapshot:
    """All geometry near the ego car at one instant, in global coordinates.

    The fields of ``Mesh``, with ``instance`` [T] int32 (0 for the street) for the owner, and ``floor`` [T], the height
    of the ground below an agent (-inf for the street).
    """

    corners: np.ndarray
    texture: np.ndarray
    colour: np.ndarray
    material: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    floor: np.ndarray


class Scene:
    """What the sensors see and the annotations say.

    Attributes:
        spec: The specification.
        road: Street geometry.
        agents: Annotated objects, ``agents[i].instance_id == i + 1``.
        weather: Light and weather.
        description: nuScenes scene text.
        keyframe_times: [K] seconds since the scene's start.
        lidar_times: [L] seconds of all LiDAR sweeps, key frames included.
    """

    def __init__(self, spec: WorldSpec) -> None:
        self.spec = spec
        travel = draw_ego_travel(spec)
        self.road = Road(spec, float(travel.distance(spec.duration_s)))
        self.drive = EgoDrive(spec, self.road, travel)
        self.weather: Weather = draw_weather(spec)
        self._static, self._static_s, self.lamps, character = build_street(spec, self.road)
        paved = character in ("downtown", "industrial")
        self.ground_plan: tuple[GroundPlan, np.ndarray, np.ndarray] = plan_ground(self.road, paved=paved)
        self._build_agents(populate(spec, self.road, self.drive))
        self.description = describe(self)
        per_keyframe = spec.sweeps_between + 1
        first = 0.1  # the cameras of the first key frame are read a little before it
        sweeps = (spec.num_keyframes - 1) * per_keyframe + 1
        self.lidar_times = first + np.arange(sweeps) * (spec.keyframe_interval_s / per_keyframe)
        self.keyframe_times = self.lidar_times[::per_keyframe]

    def _build_agents(self, agents: list[Agent]) -> None:
        fleets = (Fleet(self.road, [agent.track]) for agent in agents)
        self.agents = [replace(agent, fleet=fleet) for agent, fleet in zip(agents, fleets)]
        self._fleet = Fleet(self.road, [agent.track for agent in agents])
        self._shapes: Mesh = join_meshes(
            agent.shape.labelled(semantic=agent.semantic, owner=index) for index, agent in enumerate(agents)
        )

    def keyframe_sweeps(self) -> np.ndarray:
        """Index into ``lidar_times`` of every key frame."""
        return np.arange(self.spec.num_keyframes) * (self.spec.sweeps_between + 1)

    def camera_times(self, camera: str, keyframe: int) -> float:
        """Seconds at which a camera is read for a key frame: when the LiDAR's beam sweeps past it."""
        return float(self.keyframe_times[keyframe] + RIG[camera].delay_s)

    def ego_pose(self, t: float) -> np.ndarray:
        """global_from_ego [4, 4] at ``t`` seconds."""
        return self.drive.pose(t)

    def agent_poses(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Box centres [N, 3] and headings [N] of all agents."""
        ground, yaw = self._fleet.pose(t)
        ground[:, 2] += [agent.size_wlh[2] / 2 for agent in self.agents]
        return ground, yaw

    def agent_velocities(self, t: float) -> np.ndarray:
        """Global velocities [N, 3] of all agents in m/s."""
        return self._fleet.velocity(t)

    def snapshot(self, t: float, view_m: float = VIEW_M) -> Snapshot:
        """Geometry near the ego car at ``t`` seconds: along the road within ``view_m``."""
        s = self.drive.place(t)
        low, high = np.searchsorted(self._static_s, [s - view_m, s + view_m])
        static = self._static[low:high]
        ground, yaw = self._fleet.pose(t)
        near = np.hypot(*(ground[:, :2] - self.ego_pose(t)[:2, 3]).T) < view_m
        shapes = self._shapes[np.flatnonzero(near[self._shapes.owner])]
        moved = place_agents(shapes.corners, shapes.owner, ground, np.cos(yaw), np.sin(yaw))
        none = np.zeros(len(static), np.int32)
        return Snapshot(
            np.concatenate([static.corners, moved]),
            np.concatenate([static.texture, shapes.texture]),
            np.concatenate([static.colour, shapes.colour]),
            np.concatenate([static.material, shapes.material]),
            np.concatenate([static.semantic, shapes.semantic]),
            np.concatenate([none, shapes.owner + 1]),
            np.concatenate([np.full(len(static), -np.inf), ground[shapes.owner, 2]]),
        )


@kernel
def place_agents(
    corners: np.ndarray, owner: np.ndarray, ground: np.ndarray, cosine: np.ndarray, sine: np.ndarray
) -> np.ndarray:
    """Shapes [T, 3, 3] turned and moved to where their owners stand."""
    placed = np.empty_like(corners)
    for t in range(len(corners)):
        i = owner[t]
        for k in range(3):
            x, y = corners[t, k, 0], corners[t, k, 1]
            placed[t, k, 0] = ground[i, 0] + cosine[i] * x - sine[i] * y
            placed[t, k, 1] = ground[i, 1] + sine[i] * x + cosine[i] * y
            placed[t, k, 2] = ground[i, 2] + corners[t, k, 2]
    return placed


def describe(scene: Scene) -> str:
    """nuScenes-like scene text: the weather first, then what there is to see."""
    counts: dict[str, int] = {}
    for agent in scene.agents:
        counts[agent.class_name] = counts.get(agent.class_name, 0) + 1
    parts = [scene.weather.text]
    if counts.get("construction_vehicle"):
        parts.append("construction site")
    if counts.get("pedestrian", 0) > 10:
        parts.append("many peds")
    parts.append("hilly road" if scene.drive.steepness() > 0.04 else "parked cars")
    if scene.road.left_hand_traffic:
        parts.append("left-hand traffic")
    return ", ".join(parts)


def build_scene(spec: WorldSpec) -> Scene:
    """The scene of a specification."""
    return Scene(spec)
