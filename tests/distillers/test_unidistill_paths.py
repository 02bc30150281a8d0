"""Every path between sensors: its models meet at the taps, its terms train the student, its weights are the paper's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from perceptkd.core.batch import RawBatch
from perceptkd.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "unidistill"
#: Feature, relation, response and clamp of section 2.6; the paths to fusion are ours.
PUBLISHED = {
    "lidar2camera": (100.0, 40.0, 10.0, 1e-4),
    "fusion2camera": (10.0, 5.0, 10.0, 1e-3),
    "camera2lidar": (10.0, 5.0, 1.0, 1e-4),
    "fusion2lidar": (10.0, 1.0, 10.0, 1e-4),
}
PATHS = [*PUBLISHED, "lidar2fusion", "camera2fusion"]


def load(path: str, size: str) -> Config:
    """A path's config with a teacher of random weights."""
    config = Config.fromfile(CONFIGS / f"unidistill_{path}_{size}.py")
    init_default_scope("mmdet3d")
    for teacher in config.model.teachers.values():
        teacher.update(checkpoint=None, allow_random=True)
    return config


@pytest.mark.parametrize("path", PATHS)
def test_a_step_of_the_sim_path_trains_every_parameter(
    path: str, repository: Path, make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    model = MODELS.build(load(path, "sim").model).train()
    losses = model(RawBatch(make_batch(1, size=(128, 352), boxes=4), True), mode="loss")
    terms = {name: value for name, value in losses.items() if name.startswith("loss_kd/unidistill/")}
    assert {name.split("/")[-1] for name in terms} == {"feature", "relation", "response_cls", "response_reg"}
    assert all(value.isfinite() and value > 0 for value in terms.values())
    sum(terms.values()).backward()
    (distiller,) = model.distillers.each()
    for name, parameter in [*model.student.named_parameters(), *distiller.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", ["sim", "full"])
def test_teacher_and_student_are_those_of_the_name(path: str, size: str, repository: Path) -> None:
    config = load(path, size)
    teacher_sensor, student_sensor = path.split("2")
    (teacher,) = config.model.teachers
    assert teacher == config.model.distillers[0].teacher == teacher_sensor
    teacher_model = Config.fromfile(repository / config.model.teachers[teacher].config).model
    for model, sensor in ((teacher_model, teacher_sensor), (config.model.student, student_sensor)):
        sensors = {name for name in ("lidar", "camera") if f"{name}_encoder" in model}
        assert sensors == ({"lidar", "camera"} if sensor == "fusion" else {sensor})


@pytest.mark.parametrize("path", PUBLISHED)
def test_full_and_released_paths_have_the_published_weights(path: str) -> None:
    feature, relation, response, clamp = PUBLISHED[path]
    for size in ("full", "released"):
        distiller = load(path, size).model.distillers[0]
        assert distiller.weights == {"feature": feature, "relation": relation, "response": response}
        assert distiller.get("clamp", 1e-4) == clamp
        assert distiller.get("legacy", False) == (size == "released")
    teacher_is_weaker = path == "camera2lidar"
    assert ("high" in load(path, "full").model.distillers[0].get("adapters", {})) == teacher_is_weaker


@pytest.mark.parametrize("path", PUBLISHED)
def test_released_path_builds_with_its_head_on_both_sides(
    path: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    config = load(path, "released")
    with torch.device("meta"):
        student = MODELS.build(config.model.student)
        teacher = MODELS.build(Config.fromfile(next(iter(config.model.teachers.values())).config).model)
    for model in (student, teacher):
        assert type(model.bbox_head).__name__ == "IoUCenterHead"
        assert model.bbox_head.legacy
        assert {name for name, _ in model.bbox_head.task_heads[0].named_children()} >= {"heatmap", "iou", "vel"}
        assert len(model.bbox_head.task_heads) == 6
