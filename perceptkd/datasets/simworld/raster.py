"""Rasteriser: triangles to a nearest-surface buffer, for the cameras and for the sun's shadows.

Legend: T triangles, M projected triangles (near clipping makes two of one), H x W pixels.
The buffer quantity q is linear on the screen: 1/depth for perspective, minus depth for parallel light.
"""

import numpy as np

from .kernel import inlined_kernel, kernel

NEAR_M = 0.25
NO_TRIANGLE = -1


@kernel
def project_perspective(
    corners: np.ndarray, rotation: np.ndarray, origin: np.ndarray, intrinsics: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles on the image plane.

    Args:
        corners: [T, 3, 3] global.
        rotation: [3, 3] camera_from_global.
        origin: [3] global position of the camera.
        intrinsics: [3, 3].
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        Screen corners [M, 3, 3] of (x, y, 1/depth) and the triangle [M] they come from.
    """
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    screen = np.empty((2 * len(corners), 3, 3))
    source = np.empty(2 * len(corners), np.int32)
    inside = np.empty((4, 3))
    local = np.empty((3, 3))
    count = 0
    for t in range(len(corners)):
        behind = 0
        for k in range(3):
            dx = corners[t, k, 0] - origin[0]
            dy = corners[t, k, 1] - origin[1]
            dz = corners[t, k, 2] - origin[2]
            for axis in range(3):
                local[k, axis] = rotation[axis, 0] * dx + rotation[axis, 1] * dy + rotation[axis, 2] * dz
            if local[k, 2] < NEAR_M:
                behind += 1
        if behind == 3 or _off_screen(local, fx, fy, cx, cy, width, height):
            continue
        kept = _clip_near(local, inside)
        for k in range(kept):
            inverse = 1.0 / inside[k, 2]
            inside[k, 0] = fx * inside[k, 0] * inverse + cx
            inside[k, 1] = fy * inside[k, 1] * inverse + cy
            inside[k, 2] = inverse
        for k in range(1, kept - 1):
            screen[count, 0] = inside[0]
            screen[count, 1] = inside[k]
            screen[count, 2] = inside[k + 1]
            source[count] = t
            count += 1
    return screen[:count], source[:count]


@kernel
def _off_screen(local: np.ndarray, fx: float, fy: float, cx: float, cy: float, width: int, height: int) -> bool:
    """Whether all three corners lie beyond one side of the view pyramid."""
    left, right, above, below = 0, 0, 0, 0
    for k in range(3):
        x, y, z = local[k, 0], local[k, 1], local[k, 2]
        left += fx * x + cx * z < 0
        right += fx * x + (cx - width) * z > 0
        above += fy * y + cy * z < 0
        below += fy * y + (cy - height) * z > 0
    return left == 3 or right == 3 or above == 3 or below == 3


@kernel
def _clip_near(local: np.ndarray, inside: np.ndarray) -> int:
    """Part of a triangle beyond the near plane, as a fan of up to four corners; returns their number."""
    kept = 0
    for k in range(3):
        a, b = local[k], local[(k + 1) % 3]
        if a[2] >= NEAR_M:
            inside[kept] = a
            kept += 1
        if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
            share = (NEAR_M - a[2]) / (b[2] - a[2])
            for axis in range(3):
                inside[kept, axis] = a[axis] + share * (b[axis] - a[axis])
            inside[kept, 2] = NEAR_M
            kept += 1
    return kept


@kernel
def project_parallel(
    corners: np.ndarray, rotation: np.ndarray, origin: np.ndarray, scale: float, size: int
) -> np.ndarray:
    """Triangles [T, 3, 3] on a square light map of ``size`` cells with ``scale`` cells per metre around ``origin``.

    ``rotation`` has the map's two axes and the direction of light as rows.
    """
    screen = np.empty((len(corners), 3, 3))
    for t in range(len(corners)):
        for k in range(3):
            dx = corners[t, k, 0] - origin[0]
            dy = corners[t, k, 1] - origin[1]
            dz = corners[t, k, 2] - origin[2]
            u = rotation[0, 0] * dx + rotation[0, 1] * dy + rotation[0, 2] * dz
            v = rotation[1, 0] * dx + rotation[1, 1] * dy + rotation[1, 2] * dz
            screen[t, k, 0] = u * scale + size / 2
            screen[t, k, 1] = v * scale + size / 2
            screen[t, k, 2] = -(rotation[2, 0] * dx + rotation[2, 1] * dy + rotation[2, 2] * dz)
    return screen


@kernel
def fill_nearest(screen: np.ndarray, source: np.ndarray, nearest: np.ndarray, winner: np.ndarray) -> None:
    """Keep, per pixel centre, the triangle with the largest q.

    Args:
        screen: [M, 3, 3] corners (x, y, q).
        source: [M] triangle ids.
        nearest: [H, W] float64, largest q so far; written.
        winner: [H, W] int32, its triangle; written.
    """
    height, width = nearest.shape
    for m in range(len(screen)):
        first, last, edges = set_up_triangle(screen, m, height, width)
        for row in range(first, last + 1):
            start, stop, q = row_span(edges, row)
            for column in range(start, stop + 1):
                value = q + edges[4] * column
                if value > nearest[row, column]:
                    nearest[row, column] = value
                    winner[row, column] = source[m]


@inlined_kernel
def set_up_triangle(screen: np.ndarray, m: int, height: int, width: int) -> tuple[int, int, tuple[float, ...]]:
    """Rows (first, last) of a triangle and its edge functions for ``row_span``.

    The barycentric weights a of corner 0 and b of corner 1 are linear on the screen, so is q. Edge functions: change
    of a and b per column, of a and b per row, of q per column; first and last column; x, y and q of corner 2; q of
    corners 0 and 1 against it.
    """
    x0, y0, q0 = screen[m, 0, 0], screen[m, 0, 1], screen[m, 0, 2]
    x1, y1, q1 = screen[m, 1, 0], screen[m, 1, 1], screen[m, 1, 2]
    x2, y2, q2 = screen[m, 2, 0], screen[m, 2, 1], screen[m, 2, 2]
    first = max(0, int(np.ceil(min(y0, y1, y2) - 0.5)))
    last = min(height - 1, int(np.floor(max(y0, y1, y2) - 0.5)))
    low, high = max(0.0, np.ceil(min(x0, x1, x2) - 0.5)), min(width - 1.0, np.floor(max(x0, x1, x2) - 0.5))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if area == 0.0 or low > high:
        last = first - 1
    inverse = 1.0 / area
    ax, ay = (y1 - y2) * inverse, (x2 - x1) * inverse
    bx, by = (y2 - y0) * inverse, (x0 - x2) * inverse
    rate = ax * (q0 - q2) + bx * (q1 - q2)
    return first, last, (ax, bx, ay, by, rate, low, high, x2, y2, q2, q0 - q2, q1 - q2)


@inlined_kernel
def row_span(edges: tuple[float, ...], row: int) -> tuple[int, int, float]:
    """Columns (first, last) of a row whose centres lie in the triangle, and q at column 0."""
    ax, bx, ay, by, _, low, high, x2, y2, q2, q02, q12 = edges
    y = row + 0.5 - y2
    a = ax * (0.5 - x2) + ay * y
    b = bx * (0.5 - x2) + by * y
    for value, rate in ((a, ax), (b, bx), (1.0 - a - b, -ax - bx)):
        if rate > 0.0:
            low = max(low, np.ceil(-value / rate))
        elif rate < 0.0:
            high = min(high, np.floor(-value / rate))
        elif value < 0.0:
            high = low - 1.0
    return int(low), int(high), q2 + a * q02 + b * q12
