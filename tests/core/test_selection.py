"""An adapter of type 'select' leaves out the channels of the teacher that its narrower student does not have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from perceptkd.core import DistillModel
from perceptkd.core.align import AdapterConfig, AlignError, build_pair_adapter
from perceptkd.core.batch import RawBatch
from perceptkd.core.cached_teacher import CachedTeacher
from perceptkd.core.errors import InputError
from perceptkd.core.selection import choose_channels
from perceptkd.core.source import build_model, read_model_source
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.registry import DISTILLERS, MODELS

SELECT = {"adapters": {"feature": "select"}}


def test_the_selected_channels_are_those_of_a_student_cut_out_of_the_teacher(
    tmp_path: Path, distill_model: Callable, batch: Any
) -> None:
    torch.manual_seed(5)
    trained = MODELS.build({"type": "perceptkd.ToyDetector", "channels": 6})
    important = [0, 2, 3, 5]
    trained.neck.reduce.weight.data[important] *= 100
    torch.save(trained.state_dict(), tmp_path / "teacher.pth")
    model = distill_model(
        teacher={"channels": 6},
        options={"checkpoint": str(tmp_path / "teacher.pth")},
        distiller=SELECT,
        dry_batch=batch,
    )
    adapter = model.distillers["toydistiller"].adapters["feature"]
    assert adapter.layers[0].channels.tolist() == important
    first, second = Tap(TapSpec("neck"), [torch.rand(2, 4, 4, 4)]), Tap(TapSpec("neck"), [torch.rand(2, 6, 4, 4)])
    mine, selected = adapter(first, second)
    assert torch.equal(mine.value, first.value)
    assert torch.equal(selected.value, second.value[:, important])
    model(RawBatch(batch, True), mode="loss")["loss_kd/toydistiller/feature"].backward()
    assert model.student.neck.reduce.weight.grad.abs().sum() > 0
    assert not list(adapter.parameters())


def test_channels_of_concatenated_maps_of_a_compact_detector(scene: Callable, tmp_path: Path) -> None:
    """The BEV map of PointPillars: three times as many of 128 channels, so that each third is chosen by itself."""
    low, high = [0, -7.68, -3], [15.36, 7.68, 1]
    upstream = "mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
    overrides = {
        "data_preprocessor": {"voxel_layer": {"point_cloud_range": low + high}},
        "voxel_encoder": {"point_cloud_range": low + high},
        "middle_encoder": {"output_shape": [96, 96]},
        "test_cfg": {"nms_pre": 8},
    }
    path = tmp_path / "pillars.py"
    path.write_text(f"_base_ = [{upstream!r}]\nmodel = {overrides!r}\n")
    teacher = build_model(read_model_source(str(path)))
    for deblock in teacher.neck.deblocks:
        deblock[1].weight.data.uniform_()
    torch.save(teacher.state_dict(), tmp_path / "pillars.pth")
    weights = {"config": str(path), "checkpoint": str(tmp_path / "pillars.pth")}
    model = DistillModel(
        {**weights, "compression": 4},
        teachers={"teacher": weights},
        distillers=[
            {
                "type": "perceptkd.ToyDistiller",
                "student_taps": {"feature": "neck[0]"},
                "teacher_taps": {"feature": "neck[0]"},
                **SELECT,
            }
        ],
        dry_batch=scene(low, high, columns=4, box_columns=7, classes=3),
    )
    model.init_weights()
    channels = model.distillers["toydistiller"].adapters["feature"].layers[0].channels
    assert torch.bincount(channels // 128).tolist() == [64, 64, 64]
    for third, deblock in enumerate(teacher.neck.deblocks):
        own = channels[64 * third : 64 * (third + 1)] - 128 * third
        strength = deblock[0].weight.abs().sum(dim=(0, 2, 3))
        assert torch.equal(own, strength.topk(64).indices.sort().values)
        assert torch.equal(model.student.neck.deblocks[third][1].weight, deblock[1].weight[own])


@pytest.mark.parametrize(
    ("distiller", "options", "message"),
    [
        (SELECT, {}, r"'feature' needs channels=, or a dry_batch="),
        (
            {"adapters": {"feature": {"type": "select", "importance": "size"}}},
            {"dry": True},
            "importance must be one of",
        ),
        (
            {"student_taps": {"feature": "bbox_head[1]"}, **SELECT},
            {"dry": True},
            "student has 1 channels, but by layers of the same names it would have 4",
        ),
        (
            {"student_taps": {"feature": "bbox_head"}, "teacher_taps": {"feature": "backbone"}, **SELECT},
            {"dry": True},
            "selects channels of features, not of predictions",
        ),
    ],
)
def test_selections_that_cannot_be_made(
    distill_model: Callable, batch: Any, distiller: dict, options: dict, message: str
) -> None:
    dry_batch = batch if options.get("dry") else None
    with pytest.raises((AlignError, InputError), match=message):
        distill_model(teacher={"channels": 6}, distiller=distiller, dry_batch=dry_batch)


def test_a_cached_teacher_cannot_tell_which_of_its_channels_matter(toy: type) -> None:
    distiller = DISTILLERS.build({"type": "perceptkd.ToyDistiller", **SELECT})
    teachers = {"teacher": CachedTeacher("teacher", {}, cache=None)}
    with pytest.raises(AlignError, match=r"'feature' needs channels=: a cached teacher has no weights"):
        choose_channels(distiller, toy(), {}, teachers, None)


def test_channels_can_be_named_level_by_level() -> None:
    student, teacher = (
        Tap(TapSpec("neck"), [tuple(torch.rand(1, channels, size, size) for size in (8, 4))]) for channels in (2, 3)
    )
    adapter = build_pair_adapter("fpn", AdapterConfig(type="select", channels=[[0, 2], [2, 1]]), student, teacher)
    _, selected = adapter(student, teacher)
    assert torch.equal(selected.value[0], teacher.value[0][:, [0, 2]])
    assert torch.equal(selected.value[1], teacher.value[1][:, [2, 1]])
    rows = Tap(TapSpec("encoder"), [torch.rand(5, 3)])
    few = Tap(TapSpec("encoder"), [torch.rand(5, 1)])
    _, selected = build_pair_adapter("rows", AdapterConfig(type="select", channels=[2]), few, rows)(few, rows)
    assert torch.equal(selected.value, rows.value[:, 2:])
