"""From light to pixels: glare, bloom, rain on the lens, exposure, sensor noise.

Legend: H x W pixels; images are linear radiance until ``develop``.
"""

import numpy as np

from .counter import mix_bits, normal, uniform
from .kernel import kernel

BLOOM_BLOCK = 8
TONE_STEPS = 4096
TONE_MAX = 6.0


def build_tone_curve() -> np.ndarray:
    """Exposed radiance 0..``TONE_MAX`` to 8-bit values [TONE_STEPS] float32: a soft shoulder, then the sRGB gamma."""
    x = np.linspace(0.0, TONE_MAX, TONE_STEPS)
    film = (x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14)
    film = np.clip(film, 0.0, 1.0)
    srgb = np.where(film <= 0.0031308, 12.92 * film, 1.055 * film ** (1 / 2.4) - 0.055)
    return (255.0 * srgb).astype(np.float32)


TONE_CURVE = build_tone_curve()


@kernel
def add_bloom(image: np.ndarray, threshold: float, strength: float) -> None:
    """Spread light above ``threshold`` around bright places, in blocks of ``BLOOM_BLOCK`` pixels; writes ``image``."""
    height, width = image.shape[:2]
    rows, columns = height // BLOOM_BLOCK + 1, width // BLOOM_BLOCK + 1
    coarse = np.zeros((rows, columns, 3))
    for row in range(height):
        for column in range(width):
            for c in range(3):
                over = image[row, column, c] - threshold
                if over > 0:
                    coarse[row // BLOOM_BLOCK, column // BLOOM_BLOCK, c] += min(over, 12.0)
    coarse /= BLOOM_BLOCK * BLOOM_BLOCK
    wide = _blur(_blur(_blur(coarse, 1), 1), 2)
    for row in range(height):
        y = min(max((row + 0.5) / BLOOM_BLOCK - 0.5, 0.0), rows - 1.001)
        y0 = int(y)
        ay = y - y0
        for column in range(width):
            x = min(max((column + 0.5) / BLOOM_BLOCK - 0.5, 0.0), columns - 1.001)
            x0 = int(x)
            ax = x - x0
            for c in range(3):
                top = wide[y0, x0, c] * (1 - ax) + wide[y0, x0 + 1, c] * ax
                low = wide[y0 + 1, x0, c] * (1 - ax) + wide[y0 + 1, x0 + 1, c] * ax
                image[row, column, c] += strength * (top * (1 - ay) + low * ay)


@kernel
def _blur(coarse: np.ndarray, reach: int) -> np.ndarray:
    """Box blur of (2 reach + 1)^2 blocks."""
    rows, columns = coarse.shape[:2]
    blurred = np.zeros_like(coarse)
    for row in range(rows):
        for column in range(columns):
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    y, x = row + dy, column + dx
                    if 0 <= y < rows and 0 <= x < columns:
                        for c in range(3):
                            blurred[row, column, c] += coarse[y, x, c]
    return blurred / (2 * reach + 1) ** 2


@kernel
def add_glare(image: np.ndarray, x: float, y: float, light: np.ndarray, reach: float, veil: float) -> None:
    """Halo of a low sun at pixel (x, y) and a veil over the whole picture; writes ``image``."""
    height, width = image.shape[:2]
    for row in range(height):
        for column in range(width):
            distance = np.hypot(column - x, row - y) / reach
            halo = 0.55 / (1.0 + 40.0 * distance * distance) + veil / (1.0 + distance)
            for c in range(3):
                image[row, column, c] += halo * light[c]


@kernel
def add_streaks(image: np.ndarray, amount: float, key: np.uint64) -> None:
    """Falling rain: short bright strokes; writes ``image``."""
    height, width = image.shape[:2]
    for k in range(int(amount * height * width / 900)):
        x = uniform(key, np.uint64(4 * k)) * width
        y = uniform(key, np.uint64(4 * k + 1)) * height
        length = (0.015 + 0.05 * uniform(key, np.uint64(4 * k + 2))) * height
        alpha = 0.10 + 0.14 * uniform(key, np.uint64(4 * k + 3))
        for step in range(int(length)):
            row, column = int(y + step), int(x + 0.12 * step)
            if 0 <= row < height and 0 <= column < width:
                for c in range(3):
                    image[row, column, c] += alpha * (0.75 - image[row, column, c]) * 0.5


@kernel
def add_drops(image: np.ndarray, count: int, key: np.uint64) -> np.ndarray:
    """Drops on the lens, each a small upside-down picture of what is around it; returns a new image."""
    height, width = image.shape[:2]
    wet = image.copy()
    for k in range(count):
        x = uniform(key, np.uint64(5 * k)) * width
        y = uniform(key, np.uint64(5 * k + 1)) * height
        radius = (0.008 + 0.022 * uniform(key, np.uint64(5 * k + 2)) ** 2) * height
        tall = radius * (1.0 + 0.5 * uniform(key, np.uint64(5 * k + 3)))
        for row in range(max(0, int(y - tall)), min(height, int(y + tall) + 1)):
            for column in range(max(0, int(x - radius)), min(width, int(x + radius) + 1)):
                dx, dy = (column - x) / radius, (row - y) / tall
                inside = 1.0 - dx * dx - dy * dy
                if inside <= 0.0:
                    continue
                from_row = min(max(int(y - 4.0 * dy * tall), 0), height - 1)
                from_column = min(max(int(x - 4.0 * dx * radius), 0), width - 1)
                share = min(1.0, 1.6 * inside) * 0.8
                for c in range(3):
                    seen = image[from_row, from_column, c] * (1.05 - 0.25 * dy)
                    wet[row, column, c] += share * (seen - wet[row, column, c])
    return wet


@kernel
def develop(
    image: np.ndarray, exposure: float, grain: float, sharpness: float, curve: np.ndarray, key: np.uint64
) -> np.ndarray:
    """8-bit picture [H, W, 3]: the lens's point spread, vignetting, tone curve and sensor noise.

    Args:
        image: [H, W, 3] linear radiance.
        exposure: Gain.
        grain: Noise at mid grey, 8-bit steps.
        sharpness: Weight of the pixel itself against its four neighbours.
        curve: Tone curve.
        key: Noise key.
    """
    height, width = image.shape[:2]
    picture = np.empty((height, width, 3), np.uint8)
    scale = (TONE_STEPS - 1) / TONE_MAX
    aside = (1.0 - sharpness) / 4.0
    for row in range(height):
        above, below = max(row - 1, 0), min(row + 1, height - 1)
        dy = (row - height / 2) / height
        for column in range(width):
            left, right = max(column - 1, 0), min(column + 1, width - 1)
            dx = (column - width / 2) / width
            gain = exposure * (1.0 - 0.35 * (dx * dx + dy * dy)) * scale
            pixel = np.uint64(row * width + column)
            common = normal(key, np.uint64(2) * pixel)
            bits = mix_bits(key, np.uint64(2) * pixel + np.uint64(1))
            for c in range(3):
                around = image[above, column, c] + image[below, column, c]
                around += image[row, left, c] + image[row, right, c]
                exposed = (sharpness * image[row, column, c] + aside * around) * gain
                value = curve[min(int(exposed), TONE_STEPS - 1)]
                spread = grain * (0.55 + 0.0035 * value)
                own = np.int64((bits >> np.uint64(21 * c)) & np.uint64(0x3FF))
                own += np.int64((bits >> np.uint64(21 * c + 10)) & np.uint64(0x3FF)) - 1023
                value += spread * (0.6 * common + 0.0019 * own)
                picture[row, column, c] = np.uint8(min(max(value + 0.5, 0.0), 255.0))
    return picture
