"""Any mm config is a student or a teacher: a dict, a path, or ``lib::path``."""

from pathlib import Path

import pytest
from mmengine.config import Config

from perceptkd.core.source import build_model, load_config, read_model_source

RETINANET = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_model_dict_is_taken_as_it_is_and_not_changed() -> None:
    model = {"type": "ToyDetector", "channels": 8}
    source = read_model_source(model)
    assert (source.model, source.scope, source.path, source.stem) == (model, None, None, "toydetector")
    assert source.model is not model


def test_a_config_path_gives_the_model_and_its_family(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.py", "default_scope = 'mmdet'\nmodel = dict(type='RetinaNet')\n")
    source = read_model_source(path)
    assert (source.model["type"], source.scope, source.stem) == ("RetinaNet", "mmdet", "tiny")
    assert read_model_source(Config.fromfile(path)).scope == "mmdet"


def test_a_top_level_data_preprocessor_belongs_to_the_model(tmp_path: Path) -> None:
    text = "model = dict(type='X')\ndata_preprocessor = dict(type='Y')\n"
    assert read_model_source(write(tmp_path / "a.py", text)).model["data_preprocessor"] == {"type": "Y"}


def test_a_library_config_is_found_and_built_in_its_family() -> None:
    source = read_model_source(RETINANET)
    assert (source.scope, source.stem) == ("mmdet", "retinanet_r18_fpn_1x_coco")
    source.model["backbone"]["init_cfg"] = None
    assert type(build_model(source)).__module__ == "mmdet.models.detectors.retinanet"


def test_a_perceptkd_path_is_found_in_a_checkout(repository: Path) -> None:
    source = read_model_source("perceptkd::bev/camera_sim.py")
    assert source.model["type"].endswith("BEVDetector")
    assert read_model_source("configs/bev/camera_sim.py").model == source.model


def test_the_student_of_a_distillation_config_is_meant(tmp_path: Path) -> None:
    inner = write(tmp_path / "inner.py", "default_scope = 'mmdet'\nmodel = dict(type='FCOS')\n")
    by_path = f"model = dict(type='perceptkd.DistillModel', student={inner!r})\n"
    by_dict = (
        "default_scope = 'mmdet3d'\nmodel = dict(type='perceptkd.DistillModel', student=dict(type='CenterPoint'))\n"
    )
    assert read_model_source(write(tmp_path / "a.py", by_path)).model["type"] == "FCOS"
    source = read_model_source(write(tmp_path / "b.py", by_dict))
    assert (source.model["type"], source.scope) == ("CenterPoint", "mmdet3d")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("configs/no_such.py", r"The config configs/no_such\.py does not exist"),
        ("mmdet::retinanet/no_such.py", r"mmdet has no config retinanet/no_such\.py"),
        ("perceptkd::no_such.py", r"The config perceptkd::no_such\.py does not exist"),
    ],
)
def test_contract_14_a_missing_config_is_named(source: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        read_model_source(source)


def test_contract_14_a_config_without_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"empty\.py has no 'model'"):
        read_model_source(write(tmp_path / "empty.py", "lr = 1\n"))


def test_a_config_that_is_misspelt_is_shown_its_neighbours(repository: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"beside it are \S*unidistill_lidar2camera_demo\.py"):
        load_config(repository / "configs/unidistill/unidistill_lidar2cam_demo.py")
    with pytest.raises(FileNotFoundError, match=r"beside it are .*lidar_voxel_demo\.py"):
        load_config(repository / "configs/unidistill/xyz.py")
