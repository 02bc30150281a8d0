"""The command line of the converters: what is written, what is reported, and when nothing is."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from perceptkd.cli.convert_checkpoint import main
from perceptkd.core.checkpoint import load_weights
from perceptkd.core.source import build_model, read_model_source

CONFIG = """
default_scope = "mmdet3d"
class_names = ["b", "a"]
model = dict(
    type="VoxelNet",
    data_preprocessor=dict(type="Det3DDataPreprocessor", voxel=True, voxel_layer=dict(max_num_points=5, max_voxels=100,
        point_cloud_range=[0, -4, -3, 8, 4, 1], voxel_size=[1, 1, 4])),
    voxel_encoder=dict(type="PillarFeatureNet", in_channels=4, feat_channels=[6], voxel_size=[1, 1, 4],
        point_cloud_range=[0, -4, -3, 8, 4, 1]),
    middle_encoder=dict(type="PointPillarsScatter", in_channels=6, output_shape=[8, 8]),
    backbone=dict(type="SECOND", in_channels=6, layer_nums=[1], layer_strides=[2], out_channels=[4]),
    neck=dict(type="SECONDFPN", in_channels=[4], upsample_strides=[2], out_channels=[5]),
    bbox_head=dict(type="Anchor3DHead", num_classes=2, in_channels=5, feat_channels=5, use_direction_classifier=True,
        anchor_generator=dict(type="AlignedAnchor3DRangeGenerator", ranges=[[0, -4, -1, 8, 4, -1]] * 2,
            sizes=[[1, 1, 1], [2, 1, 1]], rotations=[0, 1.57], reshape_out=False)),
)
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A small PointPillars."""
    (tmp_path / "pillars.py").write_text(CONFIG)
    return tmp_path / "pillars.py"


@pytest.fixture
def state() -> dict[str, Tensor]:
    """OpenPCDet's weights of the same."""
    block = nn.Sequential(
        nn.ZeroPad2d(1), nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4),
    )  # fmt: skip
    up = nn.Sequential(nn.ConvTranspose2d(4, 5, 2, bias=False), nn.BatchNorm2d(5))
    parts = {
        "vfe.pfn_layers.0.linear": nn.Linear(10, 6, bias=False), "vfe.pfn_layers.0.norm": nn.BatchNorm1d(6),
        "backbone_2d.blocks.0": block, "backbone_2d.deblocks.0": up, "dense_head.conv_cls": nn.Conv2d(5, 8, 1),
        "dense_head.conv_box": nn.Conv2d(5, 28, 1), "dense_head.conv_dir_cls": nn.Conv2d(5, 8, 1),
    }  # fmt: skip
    named = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return {"global_step": torch.zeros(1), **named}


def run(config: Path, state: dict, tmp_path: Path, *options: str, key: str = "model_state") -> int:
    torch.save({key: state, "epoch": 80}, tmp_path / "source.pth")
    arguments = ["openpcdet", str(config), str(tmp_path / "source.pth"), "--out", str(tmp_path / "out/teacher.pth")]
    return main([*arguments, "--classes", "a", "b", *options])


def test_weights_and_config_are_a_teacher(config, state, tmp_path, capsys) -> None:
    assert run(config, state, tmp_path) == 0
    plain = Config.fromfile(tmp_path / "out/teacher.py")
    assert plain.model.voxel_encoder.legacy is False
    assert plain.model.bbox_head.anchor_generator.type == "Anchor3DRangeGenerator"
    model = build_model(read_model_source(str(tmp_path / "out/teacher.py")))
    report = load_weights(model, tmp_path / "out/teacher.pth", owner="the teacher")
    assert report.bad_share == 0
    assert torch.equal(model.backbone.blocks[0][3].weight, state["backbone_2d.blocks.0.4.weight"])
    bias = state["dense_head.conv_dir_cls.bias"].view(2, 2, 2)
    assert torch.equal(model.bbox_head.conv_dir_cls.bias.view(2, 2, 2), bias.flip(0))  # classes in the other order
    text = capsys.readouterr().out
    total = len(model.state_dict())
    assert f"{total} of the model's {total} keys are filled" in text
    assert "not needed (1):\n  global_step" in text
    assert "the config says model.bbox_head.dir_offset=0.78539: where the direction classes begin" in text


@pytest.mark.parametrize("wrapper", ["module.", "model."])
def test_wrappers_are_taken_off(config, state, tmp_path, wrapper) -> None:
    assert run(config, {f"{wrapper}{key}": value for key, value in state.items()}, tmp_path, "--allow-unused") == 0


def test_everything_that_does_not_match_is_listed_and_nothing_written(config, state, tmp_path, capsys) -> None:
    del state["backbone_2d.blocks.0.5.running_var"]
    state["dense_head.conv_cls.weight"] = torch.zeros(8, 7, 1, 1)
    state["dense_head.conv_iou.weight"] = torch.zeros(1)
    assert run(config, state, tmp_path) == 2
    out, error = capsys.readouterr()
    assert "the checkpoint lacks (1):\n  backbone.blocks.0.4.running_var" in out
    assert "of another shape (1):\n  bbox_head.conv_cls.weight: (8, 7, 1, 1) in the checkpoint, (8, 5, 1, 1)" in out
    assert "the model lacks (1):\n  dense_head.conv_iou.weight" in out
    assert error.startswith("error: 2 keys that the model needs are not in ")
    assert not (tmp_path / "out").exists()


def test_weights_that_the_model_does_not_know_have_to_be_allowed(config, state, tmp_path, capsys) -> None:
    state["dense_head.conv_iou.weight"] = torch.zeros(1)
    assert run(config, state, tmp_path) == 2
    assert "--allow-unused leaves them out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(config, state, tmp_path, "--allow-unused") == 0


def test_old_checkpoints_of_mmdet3d(config, tmp_path, capsys) -> None:
    weights, pillars = (
        build_model(read_model_source(str(config))).state_dict(),
        "voxel_encoder.pfn_layers.0.linear.weight",
    )
    weights[pillars] = torch.randn(6, 9)
    arguments = ["mmdet3d-old", str(config), str(tmp_path / "old.pth"), "--out", str(tmp_path / "new.pth")]
    torch.save({"meta": {"epoch": 1}, "state_dict": weights}, tmp_path / "old.pth")
    assert main(arguments) == 2
    assert "say it, as in --from-version 0.17.0" in capsys.readouterr().err
    torch.save({"meta": {"mmdet3d_version": "0.17.0"}, "state_dict": weights}, tmp_path / "old.pth")
    assert main(arguments) == 0
    assert (
        "note: mmdet3d 0.17.0 is older than 1.0.0rc0: the boxes of bbox_head were converted" in capsys.readouterr().out
    )
    found = torch.load(tmp_path / "new.pth")
    assert not torch.equal(found["bbox_head.conv_dir_cls.weight"], weights["bbox_head.conv_dir_cls.weight"])
    assert torch.equal(found["backbone.blocks.0.0.weight"], weights["backbone.blocks.0.0.weight"])
    assert found[pillars].shape == (6, 10)
    assert Config.fromfile(tmp_path / "new.py").model.voxel_encoder.legacy is False
    assert main([*arguments, "--from-version", "1.0.0"]) == 0  # what the checkpoint says counts
    weights[pillars] = torch.randn(6, 10)
    torch.save({"meta": {"mmdet3d_version": "0.17.0"}, "state_dict": weights}, tmp_path / "old.pth")
    assert main(arguments) == 2
    assert "had 9 inputs before mmdet3d 1.0.0rc0" in capsys.readouterr().err


def test_an_old_config_says_what_an_old_checkpoint_does_not(config, tmp_path, capsys) -> None:
    weights = build_model(read_model_source(str(config))).state_dict()
    weights["voxel_encoder.pfn_layers.0.linear.weight"] = torch.randn(6, 9)
    torch.save({"meta": {"CLASSES": ("b", "a")}, "state_dict": weights}, tmp_path / "old.pth")
    (tmp_path / "old.py").write_text("""
model = dict(
    type="VoxelNet",
    voxel_encoder=dict(type="PillarFeatureNet", legacy=False),
    bbox_head=dict(type="Anchor3DHead", dir_offset=0.7854, anchor_generator=dict(type="Anchor3DRangeGenerator",
        ranges=[[0, -4, -1, 9, 4, -1]] * 2, sizes=[[1, 3, 2], [1, 2, 1]], rotations=[0, 1.57], reshape_out=False)))
""")
    arguments = ["mmdet3d-old", str(config), str(tmp_path / "old.pth"), "--out", str(tmp_path / "new.pth")]
    arguments += ["--from-version", "0.17.0"]
    assert main(arguments) == 0
    assert "assumed: PillarFeatureNet had legacy=True (True" in capsys.readouterr().out
    assert main([*arguments, "--from-config", str(tmp_path / "old.py")]) == 0
    assert "assumed" not in capsys.readouterr().out
    head = Config.fromfile(tmp_path / "new.py").model.bbox_head
    assert head.dir_offset == pytest.approx(-math.pi / 2 - 0.7854)
    assert head.anchor_generator.type == "Anchor3DRangeGenerator"
    assert head.anchor_generator.ranges == [[0, -4, -1, 9, 4, -1]] * 2
    assert head.anchor_generator.sizes == [[3, 1, 2], [2, 1, 1]]
    found = torch.load(tmp_path / "new.pth")["voxel_encoder.pfn_layers.0.linear.weight"]
    assert torch.equal(found[:, :9], weights["voxel_encoder.pfn_layers.0.linear.weight"])


def test_mistakes_are_one_sentence(config, state, tmp_path, capsys) -> None:
    assert run(config, state, tmp_path, "--out", str(tmp_path / "teacher.py")) == 2
    assert "name it" in capsys.readouterr().err
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 no checkpoint")
    assert main(["openpcdet", str(config), str(tmp_path / "cut.pth"), "--out", str(tmp_path / "x.pth")]) == 2
    assert "truncated or not a checkpoint" in capsys.readouterr().err
    assert run(config, state, tmp_path, "--classes", "a", "c") == 2
    assert "the checkpoint has the classes ['a', 'c'], the config ['b', 'a']" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "threatened"), [("pillars.pth", "pillars.py"), ("trained.pth", "trained.py"), ("source.pth", "source.pth")]
)
def test_nothing_that_is_read_is_written_over(out, threatened, config, state, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained.py").write_text(CONFIG)
    torch.save({"state_dict": state, "meta": {}}, "source.pth")
    before = (tmp_path / threatened).read_bytes()
    arguments = ["mmdet3d-old", "pillars.py", "source.pth", "--from-config", "trained.py", "--out"]
    assert main([*arguments, str(tmp_path / out)]) == 2
    assert f"{out} would write over" in capsys.readouterr().err
    assert (tmp_path / threatened).read_bytes() == before


@pytest.mark.parametrize("name", ["openpcdet", "mmdet3d_old", "unidistill"])
def test_the_scripts_name_themselves(repository, name) -> None:
    script = repository / f"tools/model_converters/{name}.py"
    found = subprocess.run([sys.executable, script, "-h"], capture_output=True, text=True, check=True).stdout
    assert found.startswith(f"usage: {name}.py [-h]")
    assert len(script.read_text().splitlines()) <= 30
