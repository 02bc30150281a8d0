"""An exported student of upstream classes loads where perceptkd does not exist."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from perceptkd.cli.export_student import export_student, main
from perceptkd.core.source import build_model, read_model_source
from perceptkd.engine.student import student_config

# The maintained fork of mmcv wants compiled ops at import, so a stub stands in for them where perceptkd is shut out.
WITHOUT_PERCEPTKD = """
import sys, types
sys.modules["perceptkd"] = None
class Ops(types.ModuleType):
    __file__ = "no compiled ops"
    def __getattr__(self, name):
        return None
sys.modules["mmcv._ext"] = Ops("mmcv._ext")
"""
# What a user of an mm library writes.
LOAD = """
import sys, torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
config = Config.fromfile("student.py")
init_default_scope(config.default_scope)
model = MODELS.build(config.model)
checkpoint = torch.load("student.pth", weights_only=True)
print(type(model).__name__, model.load_state_dict(checkpoint["state_dict"], strict=True))
print("classes", checkpoint["meta"]["dataset_meta"]["classes"])
print("ours", *sorted(name for name, module in sys.modules.items() if name.startswith("perceptkd") and module))
"""


def run_in(folder: Path, script: str) -> list[str]:
    """The lines that a script prints in an interpreter of its own, started in ``folder``."""
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-3:]


def random_checkpoint(config: Config, path: Path) -> Path:
    """A full checkpoint of a distillation config, its student with random weights."""
    student = build_model(read_model_source(config.to_dict()))
    state = {f"student.{key}": value for key, value in student.state_dict().items()}
    torch.save({"meta": {"dataset_meta": {"classes": ("car",)}}, "state_dict": state}, path)
    return path


@pytest.mark.parametrize("name", ["epoch_1.pth", "epoch_1_student.pth"])
def test_loads_strictly_without_perceptkd(tiny_folder: Path, distilled_run: Path, tmp_path: Path, name: str) -> None:
    assert main([str(tiny_folder / "distill.py"), str(distilled_run / name), "--out", str(tmp_path)]) == 0
    loaded, classes, ours = run_in(tmp_path, WITHOUT_PERCEPTKD + LOAD)
    assert loaded == "RetinaNet <All keys matched successfully>"
    assert classes == "classes ('brick', 'leaf')"
    assert ours == "ours"


def test_a_student_of_mmdet3d_loads_strictly_with_compat_alone(tmp_path: Path) -> None:
    """Of perceptkd, its config imports compat (which brings the ops), and neither the core nor a registry."""
    student = "mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
    model = {"type": "perceptkd.DistillModel", "student": student, "distillers": []}
    config = Config({"model": model, "default_scope": "mmdet3d"})
    export_student(config, random_checkpoint(config, tmp_path / "full.pth"), out=tmp_path)
    loaded, _, ours = run_in(tmp_path, LOAD)
    assert loaded == "VoxelNet <All keys matched successfully>"
    modules = ours.split()[1:]
    assert {"perceptkd.compat", "perceptkd.ops.mmcv_ext"} <= set(modules)
    assert [name for name in modules if not name.startswith(("perceptkd.compat", "perceptkd.ops"))] == [
        "perceptkd",
        "perceptkd.optional",
    ]


def test_a_bev_student_loads_strictly_by_its_own_config(tmp_path: Path, repository: Path) -> None:
    """The script names no module of ours: the config does, and neither methods nor commands come in."""
    config = Config.fromfile(repository / "configs/unidistill/unidistill_lidar2camera_demo.py")
    export_student(config, random_checkpoint(config, tmp_path / "full.pth"), out=tmp_path)
    assert Config.fromfile(tmp_path / "student.py", import_custom_modules=False).custom_imports == {
        "imports": ["perceptkd.registry"], "allow_failed_imports": False,
    }  # fmt: skip
    loaded, _, ours = run_in(tmp_path, LOAD)
    assert loaded == "BEVDetector <All keys matched successfully>"
    modules = set(ours.split()[1:])
    assert {"perceptkd.registry", "perceptkd.models.bev.detector"} <= modules
    assert not {name for name in modules if name.startswith(("perceptkd.distillers", "perceptkd.cli"))}


def test_weights_are_those_of_the_checkpoint(tiny_folder: Path, distilled_run: Path, tmp_path: Path) -> None:
    weights, _ = export_student(tiny_folder / "distill.py", distilled_run / "epoch_1.pth", out=tmp_path)
    exported = torch.load(weights, weights_only=True)["state_dict"]
    full = torch.load(distilled_run / "epoch_1.pth", weights_only=False)["state_dict"]
    assert all(torch.equal(value, full[f"student.{key}"]) for key, value in exported.items())


def test_weights_that_do_not_fit_write_nothing(
    tiny_folder: Path, distilled_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [str(tiny_folder / "distill.py"), str(distilled_run / "epoch_1.pth"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--cfg-options", "model.student.neck.num_outs=4"]) == 2
    assert "does not fit this config's model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_students_of_ours_import_us() -> None:
    model = {"type": "perceptkd.DistillModel", "student": {"type": "perceptkd.BEVDetector"}, "distillers": []}
    config = student_config(Config({"model": model, "default_scope": "mmdet3d"}))
    assert config.custom_imports.imports == ["perceptkd.registry"]
    assert not config.custom_imports.allow_failed_imports


def test_students_of_mmdet3d_ask_for_compat_where_it_is() -> None:
    config = student_config(Config({"model": {"type": "VoxelNet"}, "default_scope": "mmdet3d"}))
    assert config.custom_imports.imports == ["perceptkd.compat"]
    assert config.custom_imports.allow_failed_imports


def test_a_student_given_by_path_brings_its_scope() -> None:
    student = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
    model = {"type": "perceptkd.DistillModel", "student": student, "distillers": []}
    config = student_config(Config({"model": model, "default_scope": "mmdet3d"}))
    assert (config.model.type, config.default_scope) == ("RetinaNet", "mmdet")
    assert config.get("custom_imports") is None


def test_a_preprocessor_at_the_top_comes_along() -> None:
    config = student_config(Config({"model": {"type": "RetinaNet"}, "data_preprocessor": {"type": "X"}}))
    assert config.model.data_preprocessor == {"type": "X"}


def test_where_a_run_started_from_is_not_where_its_student_does() -> None:
    """The path is of another machine; what a backbone inside starts from stays."""
    backbone = {"type": "ResNet", "init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}}
    model = {"type": "RetinaNet", "backbone": backbone, "init_cfg": {"type": "Pretrained", "checkpoint": "mine.pth"}}
    config = student_config(Config({"model": model, "default_scope": "mmdet"}))
    assert "init_cfg" not in config.model
    assert config.model.backbone.init_cfg.checkpoint == "torchvision://resnet50"
