"""The nuScenes tables that do not depend on a scene, tokens, and the assembly of all tables from the scenes' rows."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perceptkd.atomic import write_text
from perceptkd.datasets.simworld.calibration import CAMERAS, LIDAR

Row = dict[str, Any]

CATEGORIES = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
#: Upper ends of the first three visibility levels, in shares of the object's pixels; level 4 is above.
VISIBILITY_SHARES = (0.4, 0.6, 0.8)
VISIBILITY_LEVELS = ("v0-40", "v40-60", "v60-80", "v80-100")

SCENE_TABLES = (
    "log",
    "map",
    "scene",
    "sample",
    "sample_data",
    "sample_annotation",
    "instance",
    "calibrated_sensor",
    "ego_pose",
)


def make_token(*parts: object) -> str:
    """32 hex digits that depend on ``parts`` only, like nuScenes' tokens.

    >>> make_token(0, "scene", "scene-0061") == make_token(0, "scene", "scene-0061")
    True
    """
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def visibility_token(share: float) -> str:
    """The token of the level that an object falls into of which ``share`` of the pixels are visible.

    >>> visibility_token(0.1), visibility_token(0.95)
    ('1', '4')
    """
    return str(1 + sum(share > limit for limit in VISIBILITY_SHARES))


def static_tables() -> dict[str, list[Row]]:
    """The four tables that are the same in every data set."""
    return {
        "category": [
            {"token": make_token("category", name), "name": name, "description": f"nuScenes category {name}."}
            for name in CATEGORIES
        ],
        "attribute": [
            {"token": make_token("attribute", name), "name": name, "description": f"nuScenes attribute {name}."}
            for name in ATTRIBUTES
        ],
        "visibility": [
            {"token": str(i), "level": level, "description": f"visible share of the object {level[1:]} percent"}
            for i, level in enumerate(VISIBILITY_LEVELS, 1)
        ],
        "sensor": [
            {
                "token": make_token("sensor", channel),
                "channel": channel,
                "modality": "lidar" if channel == LIDAR else "camera",
            }
            for channel in (LIDAR, *CAMERAS)
        ],
    }


def write_tables(folder: Path, scenes: Iterable[Mapping[str, list[Row]]]) -> None:
    """Writes the 13 tables, the scenes' rows one after the other."""
    scenes = list(scenes)
    for name, rows in static_tables().items():
        write_text(folder / f"{name}.json", json.dumps(rows, indent=0))
    for name in SCENE_TABLES:
        write_text(folder / f"{name}.json", json.dumps([row for scene in scenes for row in scene[name]], indent=0))
