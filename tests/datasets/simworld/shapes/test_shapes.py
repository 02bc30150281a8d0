"""Every class's shape fills its box exactly, and never leaves it."""

import numpy as np
import pytest

from perceptkd.datasets.simworld.semantics import CLASS_PRIORS
from perceptkd.datasets.simworld.shapes import BUILDERS


@pytest.mark.parametrize("name", CLASS_PRIORS)
def test_shape_reaches_all_faces_of_its_box_and_stays_inside(name: str) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        width, length, height = np.array(CLASS_PRIORS[name].size_wlh) * rng.uniform(0.9, 1.1, 3)
        corners = BUILDERS[name](rng, (width, length, height)).corners
        np.testing.assert_allclose(corners.min((0, 1)), [-length / 2, -width / 2, 0], atol=1e-9)
        np.testing.assert_allclose(corners.max((0, 1)), [length / 2, width / 2, height], atol=1e-9)
        assert (np.abs(corners[..., 0]) <= length / 2).all()
        assert (np.abs(corners[..., 1]) <= width / 2).all()


@pytest.mark.parametrize("name", ["bicycle", "motorcycle"])
def test_riders_add_people(name: str) -> None:
    size = (0.7, 1.9, 1.75)
    with_rider = BUILDERS[name](np.random.default_rng(0), size, rider=True)
    assert len(with_rider) > len(BUILDERS[name](np.random.default_rng(0), size, rider=False)) + 100


def test_shapes_vary_with_the_seed() -> None:
    size = CLASS_PRIORS["car"].size_wlh
    first, again, other = (BUILDERS["car"](np.random.default_rng(seed), size) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.corners, again.corners)
    assert first.corners.shape != other.corners.shape or not np.array_equal(first.colour, other.colour)
