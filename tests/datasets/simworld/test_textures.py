"""Texture primitives keep their mean at every scale, and the noise its statistics."""

import numpy as np
import pytest

from perceptkd.datasets.simworld.counter import normal, uniform
from perceptkd.datasets.simworld.textures import NOISE, cell_hash, cover, noise_at, stripes


def test_noise_is_uniform_and_tiles() -> None:
    assert NOISE.mean() == pytest.approx(0.5, abs=0.01)
    assert noise_at(NOISE, 3.3, 7.8) == pytest.approx(noise_at(NOISE, 3.3 + 128, 7.8 - 256), abs=1e-5)


def test_cell_hash_is_uniform_and_uncorrelated() -> None:
    values = np.array([[cell_hash(a, b) for a in range(-30, 30)] for b in range(-30, 30)])
    assert values.mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(values[:, 1:].reshape(-1), values[:, :-1].reshape(-1))[0, 1]) < 0.05


@pytest.mark.parametrize("footprint", [0.01, 0.1, 0.5])
def test_a_line_covers_its_width_whatever_the_pixel(footprint: float) -> None:
    x = np.linspace(-2, 2, 4001)
    covered = np.mean([cover(value, 0.1, footprint) for value in x]) * 4
    assert covered == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("footprint", [0.01, 0.3, 0.7, 5.0])
def test_stripes_keep_their_mean(footprint: float) -> None:
    values = [stripes(x, 1.0, 0.3, footprint) for x in np.linspace(0, 10, 5000, endpoint=False)]
    assert np.mean(values) == pytest.approx(0.3, abs=0.01)


def test_counter_based_numbers_have_their_distribution() -> None:
    key = np.uint64(12345)
    flat = np.array([uniform(key, np.uint64(k)) for k in range(20000)])
    bell = np.array([normal(key, np.uint64(k)) for k in range(20000)])
    assert flat.mean() == pytest.approx(0.5, abs=0.01)
    assert flat.std() == pytest.approx(12**-0.5, abs=0.01)
    assert bell.mean() == pytest.approx(0.0, abs=0.03)
    assert bell.std() == pytest.approx(1.0, abs=0.03)
