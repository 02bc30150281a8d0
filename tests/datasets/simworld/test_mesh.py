"""Primitives are closed, face outwards and have the size they say."""

import numpy as np
import pytest

from perceptkd.datasets.simworld.materials import Material
from perceptkd.datasets.simworld.mesh import Mesh, blob, block, join_meshes, tube


def enclosed_volume(mesh: Mesh) -> float:
    """Signed volume: positive when all faces look outwards."""
    a, b, c = np.moveaxis(mesh.corners, 1, 0)
    return float((a * np.cross(b, c)).sum() / 6)


def test_block_encloses_its_volume() -> None:
    assert enclosed_volume(block((1, 2, 3), (2, 4, 6), Material.PLAIN, (1, 1, 1))) == pytest.approx(6.0)


def test_capped_tube_encloses_a_cylinder() -> None:
    solid = tube((0, 0, 0), (1, 2, 2), 0.5, Material.PLAIN, (1, 1, 1), sides=64, capped=True)
    assert enclosed_volume(solid) == pytest.approx(np.pi * 0.25 * 3, rel=0.01)


def test_blob_is_inside_its_radii() -> None:
    solid = blob((1, 0, 0), (1, 2, 3), Material.FOLIAGE, (1, 1, 1), rng=np.random.default_rng(0), roughness=0.3)
    shares = ((solid.corners - [1, 0, 0]) / [1, 2, 3]) ** 2
    assert shares.sum(-1).max() <= 1 + 1e-9
    assert 0 < enclosed_volume(solid) < 4 / 3 * np.pi * 6


def test_moved_turns_and_shifts() -> None:
    mesh = block((0, 0, 0), (2, 1, 1), Material.PLAIN, (1, 1, 1)).moved(offset=(10, 0, 0), yaw=np.pi / 2)
    np.testing.assert_allclose(mesh.corners.min((0, 1)), [9, 0, 0], atol=1e-12)
    np.testing.assert_allclose(mesh.corners.max((0, 1)), [10, 2, 1], atol=1e-12)


def test_labels_and_indexing_cover_all_fields() -> None:
    mesh = join_meshes(
        [block((0, 0, 0), (1, 1, 1), Material.PLAIN, (1, 0, 0)).labelled(semantic=4, owner=k) for k in (1, 2)]
    )
    assert len(mesh) == 24
    part = mesh[mesh.owner == 2]
    assert len(part) == 12
    assert set(part.semantic) == {4}
    assert len(join_meshes([])) == 0
