"""Shapes of the ten classes: every one fills its annotated box exactly and reaches all six faces."""

from .cars import build_car
from .construction import build_construction_vehicle
from .cycles import build_bicycle, build_motorcycle
from .heavy import build_bus, build_trailer, build_truck
from .people import build_pedestrian
from .road_objects import build_barrier, build_cone

BUILDERS = {
    "car": build_car,
    "truck": build_truck,
    "trailer": build_trailer,
    "bus": build_bus,
    "construction_vehicle": build_construction_vehicle,
    "bicycle": build_bicycle,
    "motorcycle": build_motorcycle,
    "pedestrian": build_pedestrian,
    "traffic_cone": build_cone,
    "barrier": build_barrier,
}
"""Class name -> ``build(rng, size_wlh, **options) -> Mesh``; options: rider, worker, walking."""

__all__ = ["BUILDERS"]
