"""Semantic ids of the world and its ten object classes with nuScenes' size priors."""

from typing import NamedTuple

SEMANTICS = (
    "void",  # 0: nothing or noise, e.g. a LiDAR return from a rain drop
    "road",
    "sidewalk",
    "terrain",
    "building",
    "vegetation",
    "pole",
    "sign",
    "wall",
    "fence",
    "sky",
    "car",  # 11: the ten detection classes in nuScenes' order
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
)
"""Name of every semantic id, by id."""

VOID, ROAD, SIDEWALK, TERRAIN, BUILDING, VEGETATION, POLE, SIGN, WALL, FENCE, SKY = range(11)
FIRST_CLASS_ID = 11
CLASS_NAMES = SEMANTICS[FIRST_CLASS_ID:]


class ClassPrior(NamedTuple):
    """Size statistics of a class on nuScenes, metres."""

    size_wlh: tuple[float, float, float]
    deviation_wlh: tuple[float, float, float]


CLASS_PRIORS: dict[str, ClassPrior] = {
    "car": ClassPrior((1.95, 4.62, 1.70), (0.10, 0.30, 0.14)),
    "truck": ClassPrior((2.51, 6.93, 2.84), (0.14, 0.90, 0.30)),
    "trailer": ClassPrior((2.85, 11.6, 3.85), (0.12, 1.00, 0.20)),
    "bus": ClassPrior((2.92, 11.0, 3.47), (0.08, 0.70, 0.16)),
    "construction_vehicle": ClassPrior((2.73, 6.37, 3.19), (0.18, 0.60, 0.25)),
    "bicycle": ClassPrior((0.62, 1.72, 1.30), (0.05, 0.09, 0.08)),
    "motorcycle": ClassPrior((0.78, 2.11, 1.46), (0.06, 0.12, 0.09)),
    "pedestrian": ClassPrior((0.66, 0.72, 1.76), (0.06, 0.08, 0.10)),
    "traffic_cone": ClassPrior((0.41, 0.41, 1.00), (0.04, 0.04, 0.12)),
    "barrier": ClassPrior((2.40, 0.52, 1.00), (0.25, 0.05, 0.06)),
}

CATEGORIES: dict[str, str] = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.trailer": "trailer",
    "vehicle.bus.rigid": "bus",
    "vehicle.construction": "construction_vehicle",
    "vehicle.bicycle": "bicycle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.barrier": "barrier",
}
"""nuScenes category name -> detection class."""


def semantic_of_class(name: str) -> int:
    """Semantic id of one of the ten detection classes."""
    return SEMANTICS.index(name, FIRST_CLASS_ID)
