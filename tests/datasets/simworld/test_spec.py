"""Specifications are checked, and their random streams are independent."""

import pytest

from perceptkd.datasets.simworld import WorldSpec


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
