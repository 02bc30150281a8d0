"""The static street: ground, buildings, trees and furniture, sorted along the road."""

import numpy as np

from .ground import build_ground, sort_along
from .mesh import Mesh
from .road import Road
from .spec import WorldSpec


def build_street(spec: WorldSpec, road: Road) -> tuple[Mesh, np.ndarray, np.ndarray]:
    """Static triangles by place along the road, those places [T] (s), and the street lamps [L, 3]."""
    ground = build_ground(road)
    mesh, s = sort_along(road, [ground], [ground.texture[:, 0, 0]])
    return mesh, s, np.zeros((0, 3))
