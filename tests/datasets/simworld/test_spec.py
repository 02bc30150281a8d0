"""Specifications are checked, their random streams are independent, and their bytes belong to the world version."""

import numpy as np
import pytest

from perceptkd.datasets.simworld import WorldSpec, build_scene, cast_lidar, render_camera
from perceptkd.datasets.simworld.spec import WORLD_VERSION

PINNED = {
    "2": {
        "points": 26245,
        "points of agents": 4740,
        "sum of x": 43480.770974,
        "sum of y": 1628.440237,
        "sum of z": -20327.389665,
        "sum of intensity": 567471,
        "sum of ring": 365731,
        "mean of red": 99.820313,
        "mean of green": 99.921875,
        "mean of blue": 102.314236,
        "pixels of agents": 354,
        "sum of depth": 43055.166904,
        "sum of box centres": 245228.245019,
    }
}
INSTANT = 6.0


@pytest.mark.parametrize(
    "wrong", [{"num_keyframes": 0}, {"weather": "hail"}, {"image_size": (800, 4)}, {"keyframe_interval_s": 0.0}]
)
def test_wrong_specifications_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"key frames|unknown|image_size"):
        WorldSpec(**wrong)


def test_streams_depend_on_seed_name_and_purpose_only() -> None:
    draw = WorldSpec(seed=1).stream("road").random()
    assert draw == WorldSpec(seed=1, num_keyframes=5, image_size=(1600, 900)).stream("road").random()
    others = [WorldSpec(seed=2).stream("road"), WorldSpec(seed=1, scene_name="scene-0103").stream("road")]
    assert draw not in [other.random() for other in [*others, WorldSpec(seed=1).stream("ego")]]


def test_noise_keys_differ_between_sensors_and_instants() -> None:
    spec = WorldSpec()
    keys = {spec.noise_key(sensor, t) for sensor in ("lidar", "CAM_FRONT") for t in (0.0, 0.05, 0.1)}
    assert len(keys) == 6


def measure_scene() -> dict[str, float]:
    """Figures of a LiDAR sweep, a small picture and the boxes of one scene that hardly two worlds share."""
    scene = build_scene(WorldSpec(scene_name="scene-0061", image_size=(64, 36)))
    sweep, frame = cast_lidar(scene, INSTANT), render_camera(scene, "CAM_FRONT", INSTANT)
    sums = sweep.points.sum(0, dtype=np.float64)
    means = frame.rgb.mean((0, 1))
    return {
        "points": len(sweep.points),
        "points of agents": np.count_nonzero(sweep.instance_id),
        **{f"sum of {name}": sums[i] for i, name in enumerate(("x", "y", "z", "intensity", "ring"))},
        **{f"mean of {name}": means[i] for i, name in enumerate(("red", "green", "blue"))},
        "pixels of agents": np.count_nonzero(frame.instance),
        "sum of depth": frame.depth[np.isfinite(frame.depth)].sum(dtype=np.float64),
        "sum of box centres": scene.agent_poses(INSTANT)[0].sum(),
    }


def test_the_same_specification_gives_the_bytes_of_its_world_version() -> None:
    """Figures and no hash, since sines and matrix products may round differently on another CPU."""
    assert WORLD_VERSION in PINNED, f"pin the figures of world version {WORLD_VERSION} here: {measure_scene()}"
    found, pinned = measure_scene(), PINNED[WORLD_VERSION]
    differing = {name: value for name, value in found.items() if value != pytest.approx(pinned[name], rel=0, abs=2e-3)}
    assert not differing, (
        f"a specification no longer gives the bytes of world version {WORLD_VERSION}: raise WORLD_VERSION in "
        f"perceptkd/datasets/simworld/spec.py and pin the new version's figures here, or undo what changed {differing}"
    )
