"""A student described by a larger model: smaller than that, and started from its weights."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

from perceptkd.cli.list_taps import main as list_taps
from perceptkd.core import DistillModel
from perceptkd.core.errors import InputError
from perceptkd.core.slicing import slice_weights
from perceptkd.core.source import build_model, read_model_source
from perceptkd.core.start import inherit_modules
from perceptkd.engine.student import student_config

LOW, HIGH = [0, -7.68, -3], [15.36, 7.68, 1]
UPSTREAM = "mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
OVERRIDES = {
    "data_preprocessor": {"voxel_layer": {"point_cloud_range": LOW + HIGH}},
    "voxel_encoder": {"point_cloud_range": LOW + HIGH},
    "middle_encoder": {"output_shape": [96, 96]},
    "test_cfg": {"nms_pre": 8},
}


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """PointPillars on a small range, with its config ``pillars.py`` and its weights ``pillars.pth`` beside it."""
    monkeypatch.chdir(tmp_path)
    Path("pillars.py").write_text(f"_base_ = [{UPSTREAM!r}]\nmodel = {OVERRIDES!r}\n")
    model = build_model(read_model_source("pillars.py"))
    torch.save({"state_dict": model.state_dict()}, "pillars.pth")
    return model.eval()


@pytest.fixture
def clouds(scene: Callable) -> dict[str, Any]:
    return scene(LOW, HIGH, columns=4, box_columns=7, classes=3)


def test_a_compact_student_starts_from_its_share_of_the_teachers_weights(teacher: Any, clouds: dict) -> None:
    """With and without distillation, and without a trace in the random numbers that follow."""
    options = {"config": "pillars.py", "checkpoint": "pillars.pth", "compression": 4}
    expected, after = None, []
    for checkpoint in (True, False):
        torch.manual_seed(7)
        kept = options if checkpoint else {key: options[key] for key in ("config", "compression")}
        model = DistillModel(kept, distill=False, dry_batch=clouds)
        model.init_weights()
        after.append(torch.rand(1))
        expected = slice_weights(teacher, model.student, clouds)
        found = model.student.state_dict()
        assert all(torch.equal(found[key], value) for key, value in expected.items()) == checkpoint
    assert expected is not None
    assert expected["backbone.blocks.2.0.weight"].shape == (128, 64, 3, 3)
    assert after[0] == after[1]


def test_the_most_important_channels_are_a_choice(teacher: Any, clouds: dict) -> None:
    options = {"config": "pillars.py", "checkpoint": "pillars.pth", "compression": 4, "importance": "first"}
    model = DistillModel(options, distill=False, dry_batch=clouds)
    model.init_weights()
    found, whole = (part.voxel_encoder.pfn_layers[0].linear.weight for part in (model.student, teacher))
    assert torch.equal(found, whole[:32])


def test_a_student_as_large_as_its_config_needs_no_batch_to_start(teacher: Any) -> None:
    model = DistillModel({"config": "pillars.py", "checkpoint": "pillars.pth", "compression": 1}, distill=False)
    model.init_weights()
    found = model.student.state_dict()
    assert all(torch.equal(found[key], value) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compresion": 4}, r"dict\(config=, checkpoint=, compression=\).*not one with config, compresion"),
        ({"compression": 4, "importance": "l1"}, "importance= chooses channels of trained weights"),
        ({"checkpoint": "pillars.pth", "importance": "size"}, "one of l1, bn_scale, first; got 'size'"),
        ({"checkpoint": "pillars.pth", "compression": 4}, r"give the model dry_batch=, such as dict\(dataset="),
    ],
)
def test_descriptions_that_say_too_little_are_refused_before_anything_is_built(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillModel({"config": "no_such_config.py", **options}, distill=False)


def test_a_compact_student_is_exported_and_listed_as_a_config_of_its_own(
    teacher: Any, capsys: pytest.CaptureFixture
) -> None:
    student = {"config": "pillars.py", "compression": 16}
    Path("run.py").write_text(f"model = dict(type='perceptkd.DistillModel', student={student!r})\n")
    plain = student_config(Config.fromfile("run.py"))
    assert (plain.default_scope, plain.model.type) == ("mmdet3d", "VoxelNet")
    assert plain.model.backbone.out_channels == [16, 32, 64]
    plain.dump("student.py")
    sizes = [
        sum(p.numel() for p in build_model(read_model_source(name)).parameters()) for name in ("student.py", student)
    ]
    assert sizes == [308_680, 308_680]
    assert list_taps(["run.py", "--filter", "^neck$"]) == 0
    assert "SECONDFPN" in capsys.readouterr().out


def heirs(inherit: Any, *, distill: bool = True, channels: int = 4, **teacher: Any) -> DistillModel:
    """A toy student of 4 channels whose distiller inherits modules of a toy teacher."""
    model = DistillModel(
        {"type": "perceptkd.ToyDetector"},
        teachers={
            "teacher": {
                "config": {"type": "perceptkd.ToyDetector", "channels": channels},
                "allow_random": True,
                **teacher,
            }
        },
        distillers=[{"type": "perceptkd.ToyDistiller", "inherit": inherit, "adapters": {"feature": None}}],
        distill=distill,
    )
    model.init_weights()
    return model


def test_a_student_inherits_the_modules_that_its_distiller_names_and_no_others() -> None:
    """A copy, so that training does not move the teacher; the control has none of it."""
    model = heirs(["neck", "bbox_head.score"])
    theirs = model.distillers.teachers["teacher"].model
    for path, equal in (("neck.reduce", True), ("bbox_head.score", True), ("backbone.0", False)):
        mine, other = model.student.get_submodule(path).weight, theirs.get_submodule(path).weight
        assert torch.equal(mine, other) == equal
        assert mine.requires_grad
        assert mine.data_ptr() != other.data_ptr()
    torch.manual_seed(5)
    plain = heirs(["neck"], distill=False).student.state_dict()
    torch.manual_seed(5)
    kept = heirs(["backbone"]).student.state_dict()
    assert torch.equal(plain["neck.reduce.weight"], kept["neck.reduce.weight"])
    assert not torch.equal(plain["backbone.0.weight"], kept["backbone.0.weight"])


def test_statistics_of_batch_norm_are_inherited() -> None:
    model = DistillModel(
        {"type": "perceptkd.ToyDetector"},
        teachers={"teacher": {"config": {"type": "perceptkd.ToyDetector"}, "allow_random": True}},
        distillers=[{"type": "perceptkd.ToyDistiller", "inherit": "backbone"}],
    )
    model.distillers.teachers["teacher"].model.backbone[1].running_mean.fill_(0.5)
    model.init_weights()
    assert model.student.backbone[1].running_mean.tolist() == [0.5] * 4


@pytest.mark.parametrize(
    ("inherit", "options", "message"),
    [
        (["nek"], {}, "inherit= names 'nek', which student and teacher must both have"),
        (["neck"], {"channels": 6}, "differ in reduce.bias, reduce.weight: leave it out"),
        (["backbone.2"], {}, "having no weights at all"),
    ],
)
def test_what_cannot_be_inherited_is_named(inherit: list, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        heirs(inherit, **options)


@pytest.mark.parametrize("inherit", ["bbox_head", "bbox_head.task_heads", "parts"])
def test_a_head_of_another_class_order_is_not_inherited(inherit: str) -> None:
    """Its shapes are equal, and so are those of its ``task_heads`` alone; ``parts`` is a module that holds the head."""
    student, teacher = (
        nn.ModuleDict({"neck": nn.Conv2d(1, 1, 1), "bbox_head": nn.ModuleDict({"task_heads": nn.Conv2d(1, 2, 1)})})
        for _ in range(2)
    )
    for model, names in ((student, [["car"], ["bus"]]), (teacher, [["bus"], ["car"]])):
        model["bbox_head"].class_names = names
        model["parts"] = nn.Sequential(model["bbox_head"])
    holder: Any = SimpleNamespace(model=teacher, name="lidar")
    expected = (
        rf"toy: .*'{inherit}' of student and 'lidar' have other classes or another order: \[\['car'\].*\[\['bus'\]"
    )
    with pytest.raises(InputError, match=expected):
        inherit_modules(student, holder, [inherit], owner="toy")
    inherit_modules(student, holder, ["neck"], owner="toy")
    teacher["bbox_head"].class_names = [("car",), ("bus",)]
    inherit_modules(student, holder, [inherit], owner="toy")
    mine, theirs = (model["bbox_head"]["task_heads"].weight for model in (student, teacher))
    assert torch.equal(mine, theirs)


def test_of_many_differences_the_first_are_named() -> None:
    student, teacher = (
        nn.ModuleDict({"neck": nn.Sequential(*(nn.Linear(1, width) for _ in range(5)))}) for width in (2, 3)
    )
    with pytest.raises(InputError, match=r"differ in 0\.bias, 0\.weight, .*, 3\.bias, 3\.weight and 2 more: leave it"):
        inherit_modules(student, SimpleNamespace(model=teacher, name="lidar"), ["neck"], owner="toy")


def test_a_cached_teacher_has_nothing_to_inherit() -> None:
    cached = SimpleNamespace(model=None, name="lidar")
    with pytest.raises(InputError, match="needs the weights of 'lidar', and a cached teacher has none"):
        inherit_modules(nn.Linear(1, 1), cached, ["0"], owner="toy")
