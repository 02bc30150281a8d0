"""Data sets that several tests read."""

from pathlib import Path

import pytest

from perceptkd.datasets.simworld.writers.nuscenes import write_nuscenes_world
from perceptkd.datasets.simworld.writers.plan import plan_mini


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nuScenes data root: scene-0061 (mini_train) and scene-0103 (mini_val), 3 key frames, 1 sweep, 200x112."""
    root = tmp_path_factory.mktemp("simworld") / "nuscenes"
    write_nuscenes_world(plan_mini(2, num_keyframes=3, sweeps=1, image_size=(200, 112)), root)
    return root
