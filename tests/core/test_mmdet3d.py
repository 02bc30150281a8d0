"""Contracts 3 and 5 on upstream detectors of mmdet3d, which write into what they are given.

``PillarFeatureNet(legacy=True)`` shifts the points of its voxels in place, and the loss of ``CenterHead`` puts a
sigmoid over its own logits (``clip_sigmoid``).
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from perceptkd.core import DistillModel
from perceptkd.core.batch import RawBatch
from perceptkd.core.distiller import Step
from perceptkd.core.tap import TapCollector, TapError, Taps, map_tensors
from perceptkd.distillers.unidistill import UniDistill

LOW, HIGH = [-9.6, -9.6, -5.0], [9.6, 9.6, 3.0]
UPSTREAM = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
BEV = {"layout": "yx", "extent": (-9.6, -9.6, 9.6, 9.6)}
TAPS = {
    "low": {"path": "pts_middle_encoder", **BEV},
    "high": {"path": "pts_neck[0]", **BEV},
    "response": {"path": "pts_bbox_head", **BEV},
}


class WatchingUniDistill(UniDistill):
    """Remembers what it was given."""

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        self.seen = {"student": student, "teacher": teacher}
        return super().loss(student, teacher, step)


def fingerprint(batch: Any) -> list[bytes]:
    """Every byte of the inputs and boxes of a batch."""
    found: list[bytes] = []
    map_tensors(lambda tensor: found.append(tensor.numpy().tobytes()), batch["inputs"])
    for sample in batch["data_samples"]:
        boxes = sample.gt_instances_3d
        found += [boxes.bboxes_3d.tensor.numpy().tobytes(), boxes.labels_3d.numpy().tobytes()]
        found.append(repr((sorted(sample.keys()), sorted(sample.metainfo))).encode())
    return found


@pytest.fixture
def config_path(tmp_path: Path, centerpoint_config: Callable) -> Path:
    """A config file over upstream's: CenterPoint on pillars, smaller in range and width, with the legacy encoder."""
    model = centerpoint_config(UPSTREAM, LOW, HIGH, [96, 96, 1])
    overrides = {
        "data_preprocessor": {"voxel_layer": model["data_preprocessor"]["voxel_layer"]},
        "pts_voxel_encoder": {"legacy": True, "point_cloud_range": LOW + HIGH},
        "pts_middle_encoder": {"output_shape": (96, 96)},
        "pts_backbone": {"layer_nums": [1, 1, 1]},
        **{key: model[key] for key in ("train_cfg", "test_cfg")},
    }
    path = tmp_path / "centerpoint_small.py"
    path.write_text(f"_base_ = [{UPSTREAM!r}]\nmodel = {overrides!r}\n")
    return path


@pytest.fixture
def model(config_path: Path) -> DistillModel:
    """A CenterPoint that learns from another one by UniDistill, both run for their loss, taps of all kinds."""
    torch.manual_seed(0)
    return DistillModel(
        str(config_path),
        teachers={"lidar": {"config": str(config_path), "allow_random": True, "forward_mode": "loss"}},
        distillers=[WatchingUniDistill(teacher="lidar", name="watch", student_taps=TAPS, teacher_taps=TAPS)],
    ).train()


@pytest.fixture
def clouds(scene: Callable) -> dict[str, Any]:
    return scene(LOW, HIGH, columns=5, box_columns=9, classes=10)


def both_sides(model: DistillModel) -> dict[str, Any]:
    return {"student": model.student, "teacher": model.distillers.teachers["lidar"].model}


def test_config_inherits_from_mmdet3d(config_path: Path) -> None:
    config = Config.fromfile(config_path).model
    assert (config.type, config.pts_bbox_head.type) == ("CenterPoint", "CenterHead")
    assert config.pts_voxel_encoder.legacy


def test_contract_03_the_raw_batch_survives_an_encoder_that_writes_into_its_voxels(
    model: DistillModel, clouds: dict
) -> None:
    """The data pipeline makes the voxels here, so that they are part of the batch that both models share."""
    clouds["inputs"]["voxels"] = model.student.data_preprocessor(clouds, True)["inputs"]["voxels"]
    received = {}
    for side, part in both_sides(model).items():
        part.data_preprocessor = BaseDataPreprocessor()  # hands the tensors of the batch on as they are
        part.pts_voxel_encoder.register_forward_pre_hook(
            lambda module, inputs, side=side: received.update({side: inputs[0].clone()})
        )
    before, voxels = fingerprint(clouds), clouds["inputs"]["voxels"]["voxels"].clone()
    losses = model(RawBatch(clouds, True), mode="loss")
    assert fingerprint(clouds) == before
    assert torch.equal(received["student"], voxels)
    assert torch.equal(received["teacher"], voxels)  # and not what the student's encoder had made of them
    assert model.parse_losses(losses)[0] > 0
    shared = copy.deepcopy(clouds)  # the detector without a wrapper does write, so that this test can fail
    with torch.no_grad():
        model.student(**model.student.data_preprocessor(shared, True), mode="loss")
    assert fingerprint(shared) != before


def test_contract_05_tapped_heatmaps_stay_logits_when_the_head_overwrites_them(
    model: DistillModel, clouds: dict
) -> None:
    logits: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    outputs: dict[str, list[Tensor]] = {"student": [], "teacher": []}

    def watch(side: str, output: Tensor) -> None:
        logits[side].append(output.detach().clone())
        outputs[side].append(output)

    for side, part in both_sides(model).items():
        for task in part.pts_bbox_head.task_heads:
            task.heatmap.register_forward_hook(lambda module, inputs, output, side=side: watch(side, output))
    before = fingerprint(clouds)
    losses = model(RawBatch(clouds, True), mode="loss")
    for side, taps in model.distillers["watch"].seen.items():
        tapped = [task[0]["heatmap"] for task in taps["response"].value]
        assert len(tapped) == len(logits[side]) == 6
        assert all(torch.equal(mine, logit) for mine, logit in zip(tapped, logits[side]))
        assert min(heatmap.min() for heatmap in tapped) < 0  # no probabilities
        assert all(torch.equal(over, logit.sigmoid()) for over, logit in zip(outputs[side], logits[side]))
    total, logged = model.parse_losses(losses)
    assert {"feature", "relation", "response_cls", "response_reg"} == {
        key.split("/")[-1] for key in logged if key.startswith("loss_kd/watch/") and logged[key] > 0
    }
    total.backward()
    gradients = {name: parameter.grad for name, parameter in model.student.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    assert fingerprint(clouds) == before


def test_contract_05_without_a_clone_the_overwritten_heatmap_raises(model: DistillModel, clouds: dict) -> None:
    tap = {"path": "pts_bbox_head[0][0]['heatmap']", "clone": False}
    collector = TapCollector.attach(model.student, {"heatmap": tap}, owner="student")
    data = model.student.data_preprocessor(clouds, True)
    with pytest.raises(TapError, match=r"'heatmap'.*overwritten in place"), torch.no_grad(), collector.recording():
        model.student(**data, mode="loss")
