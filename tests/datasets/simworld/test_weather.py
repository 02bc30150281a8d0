"""Weather comes with the seed and changes what the sensors return."""

import numpy as np
import pytest

from perceptkd.datasets.simworld import WEATHERS, Scene, WorldSpec, build_scene, cast_lidar, render_camera
from perceptkd.datasets.simworld.semantics import VOID
from perceptkd.datasets.simworld.weather import draw_weather

INSTANT = 6.0


@pytest.fixture(scope="module")
def kinds() -> dict[str, Scene]:
    """One street in every kind of weather."""
    return {
        name: build_scene(WorldSpec(seed=3, scene_name="scene-0103", weather=name, image_size=(320, 180)))
        for name in WEATHERS
    }


def test_every_kind_of_weather_occurs_among_seeds() -> None:
    drawn = [draw_weather(WorldSpec(seed=seed)).name for seed in range(120)]
    assert set(drawn) == set(WEATHERS)
    assert drawn == [draw_weather(WorldSpec(seed=seed)).name for seed in range(120)]


def test_weather_leaves_the_street_alone(kinds: dict[str, Scene]) -> None:
    for scene in kinds.values():
        np.testing.assert_array_equal(scene.agent_poses(2.0)[0], kinds["clear"].agent_poses(2.0)[0])


def test_descriptions_name_the_weather(kinds: dict[str, Scene]) -> None:
    for name, word in (("rain", "Rain"), ("night", "Night"), ("fog", "fog"), ("glare", "glare")):
        assert word in kinds[name].description


def test_rain_loses_and_adds_lidar_returns(kinds: dict[str, Scene]) -> None:
    clear, rain = (cast_lidar(kinds[name], INSTANT) for name in ("clear", "rain"))
    assert len(rain.points) < 0.97 * len(clear.points)
    assert (clear.semantic == VOID).sum() == 0
    drops = rain.points[rain.semantic == VOID]
    assert len(drops) > 20
    assert np.linalg.norm(drops[:, :3], axis=1).max() < 12
    assert (rain.instance_id[rain.semantic == VOID] == 0).all()


def test_pictures_differ_as_the_weather_does(kinds: dict[str, Scene]) -> None:
    pictures = {name: render_camera(scene, "CAM_FRONT", INSTANT) for name, scene in kinds.items()}
    bright = {name: picture.rgb.mean() for name, picture in pictures.items()}
    spread = {name: picture.rgb.astype(float).mean(-1).std() for name, picture in pictures.items()}
    assert bright["night"] < 0.5 * bright["clear"]
    assert spread["fog"] < 0.8 * spread["clear"]
    assert spread["rain"] < 0.9 * spread["clear"]
    np.testing.assert_array_equal(pictures["night"].instance, pictures["clear"].instance)
    np.testing.assert_array_equal(pictures["rain"].depth, pictures["clear"].depth)
