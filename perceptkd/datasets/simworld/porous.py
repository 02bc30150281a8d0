"""Surfaces with holes: leaves and fences are tested point by point while they are drawn.

They are drawn after everything solid, into the same buffers as ``raster.fill_nearest``.
"""

import numpy as np

from .kernel import kernel
from .materials import Material
from .raster import row_span, set_up_triangle
from .textures import noise_at

_FOLIAGE = int(Material.FOLIAGE)
BAR_PERIOD_M, BAR_WIDTH_M = 0.14, 0.045


@kernel
def is_hole(material: int, u: float, v: float, metres: float, parity: int, noise: np.ndarray) -> bool:
    """Whether one sees through a porous surface at texture (u, v).

    Args:
        material: Foliage or fence.
        u: Metres along the surface.
        v: Metres up.
        metres: Size of a pixel there; bars finer than that become a chequered half tone.
        parity: 0 or 1, the pixel's chequer.
        noise: Noise table.
    """
    if material == _FOLIAGE:
        return noise_at(noise, u * 8.0, v * 8.0) < 0.34
    if metres > 0.5 * BAR_PERIOD_M:
        return parity == 0
    offset = u / BAR_PERIOD_M
    return (offset - np.floor(offset)) * BAR_PERIOD_M > BAR_WIDTH_M


@kernel
def fill_porous(
    screen: np.ndarray, source: np.ndarray, material: np.ndarray, frames: np.ndarray, rotation: np.ndarray,
    intrinsics: np.ndarray, noise: np.ndarray, nearest: np.ndarray, winner: np.ndarray,
) -> None:  # fmt: skip
    """Draw triangles with holes.

    Args:
        screen: [M, 3, 3] corners (x, y, 1/depth).
        source: [M] triangle ids.
        material: [T].
        frames: [T, 17], see ``shading.frame_triangles``.
        rotation: [3, 3] global_from_camera.
        intrinsics: [3, 3].
        noise: Noise table.
        nearest: [H, W] largest 1/depth so far; written.
        winner: [H, W] its triangle; written.
    """
    height, width = nearest.shape
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    for m in range(len(screen)):
        t = source[m]
        first, last, edges = set_up_triangle(screen, m, height, width)
        for row in range(first, last + 1):
            start, stop, q = row_span(edges, row)
            ay = (row + 0.5 - cy) / fy
            for column in range(start, stop + 1):
                value = q + edges[4] * column
                if value <= nearest[row, column]:
                    continue
                ax = (column + 0.5 - cx) / fx
                x = rotation[0, 0] * ax + rotation[0, 1] * ay + rotation[0, 2]
                y = rotation[1, 0] * ax + rotation[1, 1] * ay + rotation[1, 2]
                z = rotation[2, 0] * ax + rotation[2, 1] * ay + rotation[2, 2]
                depth = 1.0 / value
                u = (frames[t, 3] * x + frames[t, 4] * y + frames[t, 5] * z) * depth + frames[t, 6]
                v = (frames[t, 7] * x + frames[t, 8] * y + frames[t, 9] * z) * depth + frames[t, 10]
                if not is_hole(material[t], u, v, depth / fx, (row + column) & 1, noise):
                    nearest[row, column] = value
                    winner[row, column] = t
