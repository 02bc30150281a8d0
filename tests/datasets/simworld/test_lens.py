"""From radiance to pixels."""

import numpy as np

from perceptkd.datasets.simworld import lens

KEY = np.uint64(5)


def develop(level: float, grain: float = 0.0) -> np.ndarray:
    image = np.full((40, 60, 3), level, np.float32)
    return lens.develop(image, 1.0, grain, 0.66, lens.TONE_CURVE, KEY)


def test_tone_curve_rises_and_saturates() -> None:
    assert (np.diff(lens.TONE_CURVE) >= 0).all()
    assert lens.TONE_CURVE[0] == 0
    assert develop(100.0).min() > 250


def test_noise_grows_with_grain_and_is_the_same_for_the_same_key() -> None:
    clean, noisy = develop(0.3), develop(0.3, 5.0)
    assert noisy.astype(float).std() > clean.astype(float).std() + 2
    np.testing.assert_array_equal(noisy, develop(0.3, 5.0))


def test_bloom_spreads_only_bright_light() -> None:
    image = np.full((64, 64, 3), 0.1, np.float32)
    lens.add_bloom(image, 0.9, 0.5)
    np.testing.assert_allclose(image, 0.1)
    image[30:34, 30:34] = 10.0
    lens.add_bloom(image, 0.9, 0.5)
    assert image[30, 44, 0] > 0.1


def test_drops_and_streaks_change_little_of_the_picture() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (225, 400, 3)).astype(np.float32)
    wet = lens.add_drops(image, 20, KEY)
    changed = (wet != image).any(-1).mean()
    assert 0.001 < changed < 0.2
    streaked = image.copy()
    lens.add_streaks(streaked, 1.0, KEY)
    assert 0.001 < (streaked != image).any(-1).mean() < 0.2


def test_glare_is_strongest_at_the_sun() -> None:
    image = np.zeros((100, 200, 3), np.float32)
    lens.add_glare(image, 150.0, 40.0, np.array([1.0, 0.8, 0.5]), 150.0, 0.05)
    assert np.unravel_index(image[..., 0].argmax(), (100, 200)) == (40, 150)
    assert (image[..., 0] > image[..., 2]).all()
