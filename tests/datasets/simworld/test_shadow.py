"""Shadows fall where something stands between a point and the light."""

import numpy as np

from perceptkd.datasets.simworld.materials import Material
from perceptkd.datasets.simworld.mesh import block
from perceptkd.datasets.simworld.scene import Snapshot
from perceptkd.datasets.simworld.shadow import AHEAD_M, build_shadow_map, lit_share


def test_a_roof_shades_what_is_below_and_along_the_light() -> None:
    roof = block((AHEAD_M - 3, -3, 4.0), (AHEAD_M + 3, 3, 4.2), Material.PLAIN, (1, 1, 1))
    snapshot = Snapshot(roof.corners, roof.texture, roof.colour, roof.material, roof.semantic, roof.owner,
                        np.zeros(len(roof)))  # fmt: skip
    camera = np.eye(4)
    camera[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # looks along x
    sun = np.array([1.0, 0.0, 1.0]) / np.sqrt(2)
    depth, frame = build_shadow_map(snapshot, sun, camera, 0.1)
    shade_at = AHEAD_M - 4.0  # the shadow of the roof lies as far from it as the roof is high, away from the sun
    assert lit_share(shade_at, 0.0, 0.0, 1, 2, depth, frame) == 0.0
    assert lit_share(shade_at + 6.0, 0.0, 0.0, 1, 2, depth, frame) == 1.0
    assert lit_share(AHEAD_M, 0.0, 4.3, 1, 2, depth, frame) == 1.0
    assert lit_share(AHEAD_M + 500.0, 0.0, 0.0, 1, 2, depth, frame) == 1.0
