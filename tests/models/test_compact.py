"""Compact students have the sizes of PointDistiller's tables."""

import inspect
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from perceptkd.core.errors import InputError
from perceptkd.core.source import build_model, read_model_source
from perceptkd.models.compact import divide_width, shrink

POINTPILLARS = "mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
POINTPILLARS_FPN = "mmdet3d::pointpillars/pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d.py"
SECOND = "mmdet3d::second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py"
CENTERPOINT_PILLAR = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
CENTERPOINT_VOXEL = "mmdet3d::centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
CENTERPOINT_DCN = "mmdet3d::centerpoint/centerpoint_voxel01_second_secfpn_head-dcn_8xb4-cyclic-20e_nus-3d.py"
POINT_RCNN = "mmdet3d::point_rcnn/point-rcnn_8xb2_kitti-3d-3class.py"
#: Config, compression, parameters, and 10^9 multiply-adds of backbone, neck and head on one sample.
SIZES = [
    (POINTPILLARS, 1, 4_834_888, 34.17),
    (POINTPILLARS, 4, 1_217_352, 8.91),
    (POINTPILLARS, 16, 308_680, 2.41),
    (SECOND, 1, 5_325_576, 69.64),
    (SECOND, 4, 1_342_824, 17.73),
    (SECOND, 16, 341_448, 4.60),
    (POINT_RCNN, 1, 4_042_891, None),
    (POINT_RCNN, 8, 517_949, None),
    (POINT_RCNN, 16, 259_489, None),
    (POINTPILLARS_FPN, 1, 6_147_112, 56.5),
    (POINTPILLARS_FPN, 2, 3_115_506, 28.9),
    (POINTPILLARS_FPN, 4, 1_549_928, 14.7),
]


def build(config: str, compression: float) -> Any:
    """The compact model of a config."""
    return build_model(read_model_source({"config": config, "compression": compression}))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def giga_multiply_adds(model: Any) -> float:
    """Of what follows the BEV map, without computing anything."""
    part = {name.removeprefix("pts_"): module.to("meta") for name, module in model.named_children()}
    grid = getattr(part["middle_encoder"], "sparse_shape", None)
    size = [side // 8 for side in grid[1:]] if grid else [part["middle_encoder"].ny, part["middle_encoder"].nx]
    features = torch.empty(1, part["backbone"].blocks[0][0].in_channels, *size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part["bbox_head"](part["neck"](part["backbone"](features)))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(("config", "compression", "expected", "multiply_adds"), SIZES)
def test_sizes_are_those_of_the_published_widths(
    config: str, compression: float, expected: int, multiply_adds: float | None
) -> None:
    model = build(config, compression)
    assert parameters(model) == expected
    if multiply_adds is not None:
        digits = 1 if config == POINTPILLARS_FPN else 2
        assert round(giga_multiply_adds(model), digits) == multiply_adds


@pytest.mark.parametrize("config", [CENTERPOINT_PILLAR, CENTERPOINT_VOXEL])
def test_centerpoint_shrinks_by_the_same_rule(config: str) -> None:
    sizes = [parameters(build(config, compression)) for compression in (1, 4, 16)]
    for compression, size in zip((4, 16), sizes[1:]):
        assert sizes[0] / size == pytest.approx(compression, rel=0.03)


def test_widths_of_the_published_8x_pointrcnn() -> None:
    model = shrink(read_model_source(POINT_RCNN).model, 8)
    assert model["backbone"]["sa_channels"] == (
        ((5, 5, 11), (11, 11, 22)),
        ((22, 22, 45), (22, 34, 45)),
        ((45, 70, 91), (45, 70, 91)),
        ((91, 91, 182), (91, 137, 182)),
    )
    assert model["neck"]["fp_channels"] == [(546, 182, 182), (272, 182, 182), (215, 91, 91), (92, 45, 45)]
    assert model["rpn_head"]["pred_layer_cfg"] == {
        "in_channels": 45,
        "cls_linear_channels": (91, 91),
        "reg_linear_channels": (91, 91),
    }
    head = model["roi_head"]["bbox_head"]
    assert (head["in_channels"], head["mlp_channels"]) == (5, [45, 45])
    assert head["sa_channels"] == ((45, 45, 45), (45, 45, 91), (91, 91, 182))
    assert head["pred_layer_cfg"]["in_channels"] == 182


@pytest.mark.parametrize("config", [SECOND, POINT_RCNN])
def test_compression_of_1_changes_nothing_and_no_compression_changes_its_argument(config: str) -> None:
    source, again = read_model_source(config).model, read_model_source(config).model
    assert shrink(source, 1) == source
    shrink(source, 16)
    assert source == again


def test_layers_of_a_pillar_encoder_stay_even_where_they_are_concatenated() -> None:
    encoder = {"type": "PillarFeatureNet", "feat_channels": [64, 64]}
    compact = shrink({"type": "VoxelNet", "voxel_encoder": encoder}, 2)["voxel_encoder"]
    assert compact["feat_channels"] == [44, 45]
    assert MODELS.build({"_scope_": "mmdet3d", **compact}).pfn_layers[1].linear.in_features == 44


def test_deformable_heads_keep_their_groups() -> None:
    model = read_model_source(CENTERPOINT_DCN).model
    head = shrink(model, 4)["pts_bbox_head"]
    assert (head["share_conv_channel"], head["separate_head"]["dcn_config"]["in_channels"]) == (32, 32)
    with pytest.raises(InputError, match="4 groups of dcn_config do not divide 45"):
        shrink(model, 2)


def test_defaults_are_those_of_mmdet3d() -> None:
    """The widths that a config may leave out."""

    def default(kind: str, argument: str) -> Any:
        return inspect.signature(MODELS.get(f"mmdet3d.{kind}")).parameters[argument].default

    model = {
        "type": "VoxelNet",
        "middle_encoder": {"type": "SparseEncoder"},
        "backbone": {"type": "SECOND", "in_channels": 256, "out_channels": [128]},
        "neck": {"type": "SECONDFPN", "out_channels": [256]},
        "bbox_head": {"type": "CenterHead", "separate_head": {"type": "SeparateHead"}},
    }
    head = shrink(model, 4)["bbox_head"]
    for key, value in shrink(model, 4)["middle_encoder"].items():
        if key != "type":
            assert value == _halved(default("SparseEncoder", key))
    assert head["share_conv_channel"] == _halved(default("CenterHead", "share_conv_channel"))
    assert head["separate_head"]["head_conv"] == _halved(default("SeparateHead", "head_conv"))
    pillars = shrink({"type": "VoxelNet", "voxel_encoder": {"type": "PillarFeatureNet"}}, 4)["voxel_encoder"]
    assert pillars["feat_channels"] == _halved(default("PillarFeatureNet", "feat_channels"))


def _halved(value: Any) -> Any:
    return value // 2 if isinstance(value, int) else type(value)(map(_halved, value))


@given(width=st.integers(1, 4096), compression=st.floats(1, 256))
def test_a_width_is_never_0_and_falls_with_compression(width: int, compression: float) -> None:
    compact = divide_width(width, compression)
    assert 1 <= compact <= width
    assert divide_width(width, 1) == width
    assert compact >= divide_width(width, compression * 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"type": "RetinaNet", "backbone": {"type": "ResNet"}},
            "RetinaNet cannot be made compact: backbone=ResNet.*SECOND",
        ),
        ({"type": "MVXNet", "img_backbone": {"type": "SECOND"}}, "img_backbone=SECOND.*with or without pts_"),
        ({"type": "EncoderDecoder"}, "it has no parts"),
    ],
)
def test_unknown_architectures_are_refused_with_the_known_ones(model: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        shrink(model, 4)
    assert shrink(model, 1) == model


def test_a_compression_below_1_is_refused() -> None:
    with pytest.raises(InputError, match=r"compression must be at least 1.*got 0\.5"):
        shrink({"type": "VoxelNet"}, 0.5)
