"""Every path between sensors: its models meet at the taps, its terms train the student, its options are the paper's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from perceptkd.core.batch import RawBatch
from perceptkd.core.source import read_model_source
from perceptkd.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "unidistill"
FULL_ADAPTERS, SIM_ADAPTERS = (
    {
        alias: {"type": "conv", "kernel": 3, "norm": True, "in_channels": channels, "out_channels": channels}
        for alias, channels in sizes.items()
    }
    for sizes in ({"low": 256, "high": 512}, {"low": 64, "high": 128})
)
PILLAR_ADAPTER = {"low": {"type": "conv", "in_channels": 256, "out_channels": 64}}
RELEASED = {"adapters": {"low": None}, "legacy": True}
#: Config -> weights of feature, relation and response, and what else the distiller sets. Those of _full and _released
#: are published (section 2.6), except to fusion, which is ours; those of _sim and _demo are a tenth of them, except
#: from fusion to LiDAR, where they are those from LiDAR to camera.
DISTILLERS = {
    "lidar2camera_full": ((100.0, 40.0, 10.0), {}),
    "lidar2camera_frame": ((100.0, 40.0, 10.0), {}),
    "lidar2camera_released": ((100.0, 40.0, 10.0), RELEASED),
    "lidar2camera_sim": ((10.0, 4.0, 1.0), {}),
    "lidar2camera_sim_long": ((10.0, 4.0, 1.0), {}),
    "lidar2camera_demo": ((10.0, 4.0, 1.0), {}),
    "fusion2camera_full": ((10.0, 5.0, 10.0), {"clamp": 1e-3}),
    "fusion2camera_released": ((10.0, 5.0, 10.0), {**RELEASED, "clamp": 1e-3}),
    "fusion2camera_sim": ((1.0, 0.5, 1.0), {}),
    "camera2lidar_full": ((10.0, 5.0, 1.0), {"adapters": FULL_ADAPTERS}),
    "camera2lidar_released": ((10.0, 5.0, 1.0), RELEASED),
    "camera2lidar_sim": ((1.0, 0.5, 0.1), {"adapters": SIM_ADAPTERS}),
    "fusion2lidar_full": ((10.0, 1.0, 10.0), {}),
    "fusion2lidar_released": ((10.0, 1.0, 10.0), RELEASED),
    "fusion2lidar_sim": ((10.0, 4.0, 1.0), {"student_taps": {"low": "backbone[0]"}}),
    "lidar2fusion_full": ((10.0, 5.0, 10.0), {}),
    "lidar2fusion_sim": ((1.0, 0.5, 1.0), {}),
    "camera2fusion_full": ((10.0, 5.0, 1.0), {"adapters": FULL_ADAPTERS}),
    "camera2fusion_sim": ((1.0, 0.5, 0.1), {"adapters": SIM_ADAPTERS}),
    "centerpoint2camera_full": ((100.0, 40.0, 10.0), {}),
    "centerpoint_pillar2camera_full": ((100.0, 40.0, 10.0), {"adapters": PILLAR_ADAPTER}),
}
PUBLISHED = ("lidar2camera", "fusion2camera", "camera2lidar", "fusion2lidar")
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
    for model, sensor in ((teacher_model, teacher_sensor), (read_model_source(config).model, student_sensor)):
        sensors = {name for name in ("lidar", "camera") if f"{name}_encoder" in model}
        assert sensors == ({"lidar", "camera"} if sensor == "fusion" else {sensor})


def test_every_config_is_in_the_table() -> None:
    assert {path.stem.removeprefix("unidistill_") for path in CONFIGS.glob("unidistill_*.py")} == DISTILLERS.keys()


@pytest.mark.parametrize("name", DISTILLERS)
def test_the_distiller_sets_what_the_table_says_and_nothing_else(name: str) -> None:
    weights, options = DISTILLERS[name]
    model = load(*name.rsplit("_", 1)).model.to_dict()
    ((teacher, teacher_config),) = model["teachers"].items()
    (distiller,) = model["distillers"]
    distiller.pop("teacher_taps", None)  # test_unidistill_centerpoint.py runs them
    named = dict(zip(("feature", "relation", "response"), weights))
    assert distiller == {"type": "perceptkd.UniDistill", "teacher": teacher, "weights": named, **options}
    norm = {"norm": "train"} if name.endswith("_released") else {}
    paths = {"config": teacher_config["config"], "checkpoint": None, "allow_random": True}
    assert teacher_config == {**paths, **norm}


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
        test_cfg = {"nms_thr": 0.1, "pre_max_size": 1500, "post_max_size": 100, "score_threshold": 0.1}
        assert {key: model.bbox_head.test_cfg[key] for key in test_cfg} == test_cfg
        voxelize = model.data_preprocessor.voxelize
        assert voxelize is None or voxelize["max_voxels"] == (120_000, 120_000)  # quirk Q9


@pytest.mark.parametrize("path", PUBLISHED)
def test_released_path_keeps_close_points_and_repeats_sweeps(path: str) -> None:
    config = load(path, "released")
    wanted = {"type": "perceptkd.LoadPoints", "sweeps": 10, "remove_close_m": 0.0, "repeat_oldest": True}
    loaders = [config.train_dataloader.dataset.dataset.dataset, config.val_dataloader.dataset]
    steps = [step for dataset in loaders for step in dataset.pipeline if step.type == "perceptkd.LoadPoints"]
    assert steps == [wanted] * (1 if path.endswith("camera") else 2)  # a camera student is scored without LiDAR
    assert config.test_pipeline[0] == wanted
