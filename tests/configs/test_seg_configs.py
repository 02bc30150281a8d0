"""The segmentors of points: data and model agree, students are narrower, and all train and predict."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, PointData
from mmengine.config import Config
from mmengine.registry import init_default_scope

from perceptkd.datasets.semantickitti import CLASSES, IGNORED
from perceptkd.registry import DATASETS, METRICS, MODELS, TRANSFORMS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = ("minkunet", "cylinder3d")
WIDTHS = [f"seg/{name}{width}_sim.py" for name in NAMES for width in ("", "_narrow")]


def load(name: str) -> Config:
    init_default_scope("mmdet3d")
    return Config.fromfile(CONFIGS / name)


def make_scans(count: int) -> dict[str, Any]:
    """A raw batch of scans: classes by height, so that there is something to learn."""
    size, corner = torch.tensor([60, 60, 6, 1.0]), torch.tensor([-30, -30, -3, 0.0])
    clouds = [corner + size * torch.rand(1500, 4) for _ in range(count)]
    samples = []
    for points in clouds:
        labels = ((points[:, 2] + 3) * 2).long()
        labels[:50] = IGNORED
        samples.append(Det3DDataSample(gt_pts_seg=PointData(pts_semantic_mask=labels)))
    return {"inputs": {"points": clouds}, "data_samples": samples}


@pytest.mark.parametrize("name", WIDTHS)
def test_model_fits_the_classes(name: str) -> None:
    head = load(name).model.decode_head
    assert head.ignore_index == IGNORED == len(CLASSES)
    assert head.num_classes - len(CLASSES) == (1 if "cylinder3d" in name else 0)


@pytest.mark.parametrize("name", NAMES)
def test_model_sees_the_range_of_the_data(name: str) -> None:
    config = load(f"seg/{name}_sim.py")
    (reach,) = {step.max_range_m for step in (config.train_pipeline[0], config.test_pipeline[0])}
    assert config.model.data_preprocessor.voxel_layer.point_cloud_range[3] == reach
    assert config.val_evaluator.ranges_m[-1][1] == reach


@pytest.mark.parametrize("name", NAMES)
def test_a_student_has_a_quarter_of_the_channels(name: str) -> None:
    wide, narrow = (MODELS.build(load(f"seg/{name}{width}_sim.py").model) for width in ("", "_narrow"))
    sizes = [{key: value.shape for key, value in model.backbone.named_parameters()} for model in (wide, narrow)]
    assert sizes[0].keys() == sizes[1].keys()
    for key, shape in sizes[0].items():
        if len(shape) == 1:
            assert sizes[1][key][0] * 4 == shape[0], key
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (wide, narrow)]
    assert 14 < counts[0] / counts[1] < 17


@pytest.mark.parametrize("name", NAMES)
def test_distillation_pairs_the_two_widths_on_one_grid(name: str) -> None:
    config = load(f"pvd/pvd_{name}_sim.py")
    assert config.model.student == load(f"seg/{name}_narrow_sim.py").model
    teacher = load(config.model.teachers.wide.config.removeprefix("configs/"))
    assert config.model.student.data_preprocessor == teacher.model.data_preprocessor
    assert max(config.model.distillers[0].minority_classes) < len(CLASSES)
    epochs = config.train_cfg.max_epochs
    assert config.model.teachers.wide.checkpoint == f"work_dirs/teachers/{name}_sim/epoch_{epochs}.pth"


def test_rare_classes_are_those_that_the_readme_names() -> None:
    names = {CLASSES[label] for label in load("pvd/pvd_minkunet_sim.py").model.distillers[0].minority_classes}
    assert names == {
        "bicycle", "motorcycle", "person", "bicyclist", "motorcyclist", "pole", "traffic-sign",
    }  # fmt: skip


def test_every_part_of_the_data_exists() -> None:
    config = load("seg/minkunet_sim.py")
    for step in (*config.train_pipeline, *config.test_pipeline):
        TRANSFORMS.build(step)
    assert METRICS.build(config.val_evaluator).ranges_m == [(0.0, 20.0), (20.0, 40.0)]
    assert DATASETS.get(config.val_dataloader.dataset.type) is not None


@pytest.mark.parametrize("name", WIDTHS)
def test_segmentor_trains_and_predicts(name: str) -> None:
    model = MODELS.build(load(name).model)
    model.init_weights()
    batch = make_scans(2)
    losses = model.train()(**model.data_preprocessor(batch, True), mode="loss")
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert not without
    predictions = model.eval().test_step(make_scans(2))
    assert [len(each.pred_pts_seg.pts_semantic_mask) for each in predictions] == [1500, 1500]


@pytest.mark.parametrize("name", NAMES)
def test_segmentor_learns_one_batch(name: str) -> None:
    """The loss of one batch falls well below that of guessing."""
    model = MODELS.build(load(f"seg/{name}_narrow_sim.py").model)
    model.init_weights()
    batch = make_scans(1)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-2)
    totals = []
    for _ in range(15):
        total = sum(model(**model.data_preprocessor(batch, True), mode="loss").values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[0] > 0.8 * math.log(len(CLASSES))
    assert totals[-1] < 0.6 * totals[0]
