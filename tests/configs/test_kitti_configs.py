"""The detectors of points on KITTI and their distillations: sizes, ranges that agree, and a step on a tiny world."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from perceptkd.cli.compare import control_options
from perceptkd.cli.jobs import Job
from perceptkd.core.source import build_model, read_model_source
from perceptkd.registry import DATASETS, METRICS, MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DETECTORS = ("pointpillars", "second", "centerpoint")
#: Parameters by compression; PointDistiller's paper has these in millions.
SIZES = {
    "pointpillars": {1: 4_834_888, 4: 1_217_352, 16: 308_680},
    "second": {1: 5_325_576, 4: 1_342_824, 16: 341_448},
}
#: Config -> detector, compression, and the terms of its distillers.
DISTILLED = {
    "pointdistiller/pointdistiller_pointpillars_4x_sim.py": ("pointpillars", 4, {"graph"}),
    "pointdistiller/pointdistiller_published_pointpillars_4x_sim.py": ("pointpillars", 4, {"graph"}),
    "pointdistiller/pointdistiller_pointpillars_16x_sim.py": ("pointpillars", 16, {"graph"}),
    "pointdistiller/pointdistiller_second_4x_sim.py": ("second", 4, {"graph"}),
    "pointdistiller/pointdistiller_centerpoint_4x_sim.py": ("centerpoint", 4, {"graph"}),
    "pointdistiller/pointdistiller_logit_pointpillars_4x_sim.py": ("pointpillars", 4, {"graph", "cls", "reg"}),
    "pointdistiller/pointdistiller_logit_second_4x_sim.py": ("second", 4, {"graph", "cls", "reg"}),
    "pointdistiller/pointdistiller_logit_centerpoint_4x_sim.py": ("centerpoint", 4, {"graph", "cls", "reg"}),
    "sparsekd/sparsekd_pointpillars_4x_sim.py": ("pointpillars", 4, {"cls", "reg"}),
    "sparsekd/sparsekd_second_4x_sim.py": ("second", 4, {"cls", "reg"}),
    "sparsekd/sparsekd_centerpoint_4x_sim.py": ("centerpoint", 4, {"cls", "reg"}),
}


def load(name: str) -> Config:
    config = Config.fromfile(CONFIGS / name)
    init_default_scope(config.default_scope)
    return config


def of(model: Any, part: str) -> Any:
    """A part of a detector, whether or not it has a prefix."""
    return model.get(part, model.get(f"pts_{part}"))


@pytest.mark.parametrize("detector", DETECTORS)
def test_model_sees_the_range_of_the_data(detector: str) -> None:
    config = load(f"kitti/{detector}_sim.py")
    low, high = config.scene_range[:3], config.scene_range[3:]
    for step in (*config.train_pipeline, *config.test_pipeline):
        assert step.get("point_cloud_range", config.scene_range) == config.scene_range
    layer = config.model.data_preprocessor.voxel_layer
    assert layer.point_cloud_range == config.scene_range
    cells = [round((end - start) / size) for start, end, size in zip(low, high, layer.voxel_size)]
    encoder, middle = of(config.model, "voxel_encoder"), of(config.model, "middle_encoder")
    if detector == "second":
        assert middle.sparse_shape == [cells[2] + 1, cells[1], cells[0]]
    else:
        assert encoder.point_cloud_range == config.scene_range
        assert list(encoder.voxel_size) == list(layer.voxel_size)
        assert middle.output_shape == [cells[1], cells[0]]
    if detector == "centerpoint":
        sizes = config.model.train_cfg.pts
        assert (sizes.grid_size, sizes.point_cloud_range) == ([*cells[:2], 1], config.scene_range)
        assert list(sizes.voxel_size) == list(layer.voxel_size)
        coder, test = config.model.pts_bbox_head.bbox_coder, config.model.test_cfg.pts
        assert low[:2] == coder.pc_range == test.pc_range
        assert [task.class_names for task in config.model.pts_bbox_head.tasks] == [[n] for n in config.class_names]
    else:
        for place in config.model.bbox_head.anchor_generator.ranges:
            assert (place[:2], place[3:5]) == (low[:2], high[:2])
    for loader in (config.val_dataloader, config.test_dataloader):
        assert loader.dataset.metainfo.classes == config.class_names


@pytest.mark.parametrize("detector", SIZES)
def test_sizes_are_those_of_the_published_widths(detector: str) -> None:
    for compression, expected in SIZES[detector].items():
        source = {"config": f"configs/kitti/{detector}_sim.py", "compression": compression}
        assert sum(each.numel() for each in build_model(read_model_source(source)).parameters()) == expected


def test_centerpoint_shrinks_by_the_same_rule() -> None:
    source = {"config": "configs/kitti/centerpoint_sim.py"}
    sizes = [
        sum(each.numel() for each in build_model(read_model_source(source | {"compression": compression})).parameters())
        for compression in (1, 4)
    ]
    assert sizes[0] / sizes[1] == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("name", DISTILLED)
def test_teacher_and_student_are_of_one_config(name: str) -> None:
    """And the teacher's weights are where its own training puts them."""
    detector, compression, _ = DISTILLED[name]
    config, path = load(name), f"configs/kitti/{detector}_sim.py"
    assert config.model.student == {"config": path, "compression": compression}
    teacher = load(f"kitti/{detector}_sim.py")
    checkpoint = f"work_dirs/teachers/{detector}_sim/epoch_{teacher.train_cfg.max_epochs}.pth"
    assert config.model.teachers == {"wide": {"config": path, "checkpoint": checkpoint}}
    for key in ("train_dataloader", "val_dataloader", "test_dataloader", "test_evaluator", "default_hooks"):
        assert config[key] == teacher[key]


def test_the_start_from_the_teacher_is_all_that_is_new_in_its_config() -> None:
    plain, start = (load(f"pointdistiller/pointdistiller_{name}_pointpillars_4x_sim.py") for name in ("logit", "start"))
    assert start.model.student.pop("checkpoint") == plain.model.teachers.wide.checkpoint
    assert start.model.pop("dry_batch") == {"dataset": plain.train_dataloader.dataset}
    assert {key: start[key] for key in plain} == {key: plain[key] for key in plain}


def test_methods_on_one_student_share_their_control() -> None:
    controls = {
        Job("control", str(CONFIGS / name), 0, Path(), control_options({})).build_config().pretty_text
        for name, (detector, compression, _) in DISTILLED.items()
        if (detector, compression) == ("pointpillars", 4)
    }
    assert len(controls) == 1


@pytest.mark.parametrize("name", [f"kitti/{detector}_sim.py" for detector in DETECTORS])
def test_another_data_set_is_another_path(name: str) -> None:
    """One line of one file, which nothing repeats."""
    root = "data/simworld_splits/kitti"
    base = (CONFIGS / "_base_/datasets/kitti_sim_splits.py").read_text()
    assert [line for line in base.splitlines() if f'"{root}"' in line] == [f'data_root = "{root}"']
    assert "simworld_splits" not in (CONFIGS / name).read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A KITTI data root with a frame of each scene: two of train, one of val and test, pictures of full size."""
    from perceptkd.datasets.simworld.writers.kitti import write_kitti_world
    from perceptkd.datasets.simworld.writers.plan import plan_kitti

    root = tmp_path_factory.mktemp("simworld") / "kitti"
    splits = {"train": 2, "tune": 1, "report": 1}
    write_kitti_world(plan_kitti("kitti", splits, num_keyframes=1, sweeps=0, image_size=(1242, 375)), root)
    return root


def build_dataset(config: Any, root: Path) -> Any:
    """The dataset of a loader, read from ``root``."""
    dataset = config.get("dataset", config)
    dataset.data_root = str(root)
    for step in dataset.pipeline:
        if "data_root" in step:
            step.data_root = str(root)
    return DATASETS.build(config)


@pytest.mark.parametrize("name", DISTILLED)
def test_a_step_reaches_every_parameter(name: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    config = load(name)
    config.model.teachers.wide.update(checkpoint=None, allow_random=True)
    dataset = build_dataset(config.train_dataloader.dataset, world)
    dataset.set_epoch(0, seed=0)
    model = MODELS.build(config.model).train()
    batch = pseudo_collate([dataset[0], dataset[1]])
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    terms = {key.rpartition("/")[2]: value for key, value in losses.items() if key.startswith("loss_kd/")}
    assert terms.keys() == DISTILLED[name][2]
    assert all(value.isfinite() and value > 0 for value in terms.values())
    missed = [key for key, each in model.named_parameters() if each.requires_grad and each.grad is None]
    assert not missed
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.grad is not None)


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_report_split_is_scored_by_the_metric_of_the_comparison(detector: str, world: Path) -> None:
    config = load(f"kitti/{detector}_sim.py")
    dataset = build_dataset(config.test_dataloader.dataset, world)
    metric = METRICS.build(config.test_evaluator | {"data_root": str(world)})
    metric.dataset_meta = dataset.metainfo
    model = build_model(read_model_source({"config": config, "compression": 16})).eval()
    with torch.no_grad():
        samples = model.test_step(pseudo_collate([dataset[i] for i in range(len(dataset))]))
    metric.process(None, [sample.to_dict() for sample in samples])
    report = metric.evaluate(len(dataset))
    assert report[config.default_hooks.checkpoint.save_best] == pytest.approx(0, abs=5)  # nobody trained it
