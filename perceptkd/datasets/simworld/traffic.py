"""Who is on the street: agents placed by seed such that no two of them ever touch."""

import numpy as np

from .agents import Agent
from .ego import EgoDrive
from .materials import Material
from .mesh import block
from .motion import Track, Travel
from .road import Road
from .semantics import CATEGORIES, CLASS_PRIORS
from .spec import WorldSpec


def populate(spec: WorldSpec, road: Road, drive: EgoDrive) -> list[Agent]:
    """All agents of a scene."""
    rng = spec.stream("traffic")
    agents = []
    categories = sorted(CATEGORIES)
    for i, s in enumerate(np.arange(road.s_min + 30, road.s_max - 30, 7.0)):
        category = categories[i % len(categories)]
        prior = CLASS_PRIORS[CATEGORIES[category]]
        width, length, height = (
            float(m + dev * rng.uniform(-1, 1)) for m, dev in zip(prior.size_wlh, prior.deviation_wlh)
        )
        shape = block(
            (-length / 2, -width / 2, 0),
            (length / 2, width / 2, height),
            Material.PAINT,
            tuple(rng.uniform(0.1, 0.8, 3)),
        )
        side = 1 if drive.d < 0 else -1
        moving = category == "vehicle.car" and i % 2
        track = Track(s=float(s), d=side * 12.0, travel=Travel(speed=2.0), along=1.0 if moving else 0.0)
        agents.append(Agent(i + 1, category, (width, length, height), track, shape, resting="vehicle.parked"))
    return agents
