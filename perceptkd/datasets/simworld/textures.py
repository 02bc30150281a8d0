"""Procedural texture primitives for the shading kernels: tileable noise, anti-aliased lines, cell hashes.

Footprints (``fu``, ``fv``) are the metres of texture that one pixel spans; patterns finer than that fade to their mean.
"""

import numpy as np

from .kernel import kernel

NOISE_CELLS = 128


def build_noise() -> np.ndarray:
    """Tileable smooth noise [128, 128] float32, uniform in 0..1: four octaves of value noise.

    Small enough to stay in a core's nearest caches.
    """
    rng = np.random.Generator(np.random.PCG64(20240501))
    total = np.zeros((NOISE_CELLS, NOISE_CELLS))
    for cells, weight in ((16, 1.0), (32, 0.6), (64, 0.4), (128, 0.3)):
        grid = rng.random((cells, cells))
        at = np.arange(NOISE_CELLS) * cells / NOISE_CELLS
        low, share = at.astype(int), at % 1.0
        share = share * share * (3 - 2 * share)
        high = (low + 1) % cells
        rows = grid[low] * (1 - share[:, None]) + grid[high] * share[:, None]
        total += weight * (rows[:, low] * (1 - share) + rows[:, high] * share)
    ranks = total.reshape(-1).argsort(kind="stable").argsort(kind="stable")
    return (ranks.reshape(total.shape) / ranks.size).astype(np.float32)


NOISE = build_noise()


@kernel
def noise_at(noise: np.ndarray, x: float, y: float) -> float:
    """Noise in 0..1 at cells (x, y), bilinear; its coarsest feature is about eight cells."""
    fx, fy = np.floor(x), np.floor(y)
    x0, y0 = int(fx) & 127, int(fy) & 127
    x1, y1 = (x0 + 1) & 127, (y0 + 1) & 127
    ax, ay = x - fx, y - fy
    top = noise[y0, x0] + ax * (noise[y0, x1] - noise[y0, x0])
    low = noise[y1, x0] + ax * (noise[y1, x1] - noise[y1, x0])
    return top + ay * (low - top)


@kernel
def cell_hash(a: int, b: int) -> float:
    """Uniform in 0..1 for an integer cell."""
    h = np.uint32(a * 374761393 + b * 668265263)
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(1274126177))
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(2246822519))
    return np.float64(h ^ (h >> np.uint32(15))) / 4294967296.0


@kernel
def cover(x: float, half: float, footprint: float) -> float:
    """How much of a pixel at distance ``x`` from its middle a line of half width ``half`` covers, 0..1."""
    f = max(footprint, 1e-4)
    return min(max((half - abs(x)) / f + 0.5, 0.0), 1.0, 2.0 * half / f)


@kernel
def stripes(x: float, period: float, width: float, footprint: float) -> float:
    """Coverage of stripes of ``width`` every ``period``; tends to the mean when they are too fine."""
    mean = width / period
    if footprint > period:
        return mean
    r = x / period
    offset = (r - np.floor(r) - 0.5) * period
    blend = min(1.0, max(0.0, 2.0 - 2.0 * footprint / period))
    return mean + blend * (cover(offset, width / 2, footprint) - mean)


@kernel
def visible(scale: float, footprint: float) -> float:
    """1 for texture of a size well above the pixel, 0 for finer."""
    return min(1.0, max(0.0, 1.5 - footprint / scale))
