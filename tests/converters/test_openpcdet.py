"""OpenPCDet's layers and heads, and what the converted weights compute in mmdet3d's."""

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hub import get_config
from torch import Tensor, nn

from perceptkd.converters.conversion import compare
from perceptkd.converters.openpcdet import DIR_OFFSET, convert, settings
from perceptkd.core.errors import InputError

CLASSES = ("Car", "Pedestrian", "Cyclist")
SIZES = {"Car": [3.9, 1.6, 1.56], "Pedestrian": [0.8, 0.6, 1.73], "Cyclist": [1.76, 0.6, 1.73]}
TARGET_CLASSES = ("Pedestrian", "Cyclist", "Car")
NORM = {"type": "BN", "eps": 1e-3, "momentum": 0.01}


def load(state: dict, target: nn.Module, classes: Any = CLASSES, target_classes: Any = TARGET_CLASSES) -> nn.Module:
    """The target with the converted weights, of which nothing is left over on either side."""
    conversion = convert(state, target, classes=classes, target_classes=target_classes)
    mismatch = compare(conversion, target)
    assert (mismatch.missing, mismatch.shapes, conversion.unknown) == ([], [], [])
    target.load_state_dict(conversion.state)
    return target.eval()


def container(**modules: nn.Module) -> nn.Module:
    target = nn.Module()
    for name, module in modules.items():
        target.add_module(name, module)
    return target


@pytest.mark.parametrize(
    ("ups", "as_convolution"),
    [((1, 2, 4), False), ((1, 2, 4), True), ((0.5, 1, 2), True)],
    ids=["deconv", "conv", "half"],
)
@torch.no_grad()
def test_bev_backbone_and_neck(openpcdet_modules: ModuleType, build, prefixed, ups, as_convolution) -> None:
    widths, up_widths = (8, 12, 16), (10, 6, 14)
    source = openpcdet_modules.BEVBackbone(5, (1, 2, 1), (2, 2, 2), widths, ups, up_widths)
    openpcdet_modules.randomise(source)
    shared = {"in_channels": widths, "out_channels": up_widths, "norm_cfg": NORM}
    target = container(
        backbone=build({"type": "SECOND", "in_channels": 5, "out_channels": widths, "layer_nums": [1, 2, 1],
                        "layer_strides": [2, 2, 2], "norm_cfg": NORM}),
        neck=build({"type": "SECONDFPN", "upsample_strides": ups, "use_conv_for_no_stride": as_convolution, **shared}),
    )  # fmt: skip
    load(prefixed(backbone_2d=source), target)
    value = torch.randn(2, 5, 16, 24)
    torch.testing.assert_close(target.neck(target.backbone(value))[0], source(value))


@torch.no_grad()
def test_pillars(openpcdet_modules: ModuleType, build, prefixed) -> None:
    size, low = [0.5, 0.5, 4.0], [0.0, -3.0, -3.0]
    source = openpcdet_modules.randomise(openpcdet_modules.PillarVFE(4, 16, size, low))
    state = prefixed(vfe=source)
    (setting,) = settings(state, target_classes=TARGET_CLASSES, lidar="")
    assert (setting.path, setting.value) == ("voxel_encoder.legacy", False)
    encoder = build({"type": "PillarFeatureNet", "in_channels": 4, "feat_channels": [16], "voxel_size": size,
                     "point_cloud_range": [*low, 8.0, 3.0, 1.0], "legacy": setting.value})  # fmt: skip
    load(state, container(voxel_encoder=encoder))
    coordinates = torch.stack(
        [torch.arange(20) // 10, torch.zeros(20), torch.arange(20) % 12, torch.arange(20) % 7], dim=1
    )
    counts = torch.arange(20) % 5 + 1
    voxels = torch.randn(20, 5, 4) * (torch.arange(5) < counts[:, None])[..., None]
    expected = source(voxels, counts, coordinates.int())
    torch.testing.assert_close(encoder(voxels, counts, coordinates.int()), expected)
    encoder.legacy = True  # the setting is needed, or this test could not fail
    assert not torch.allclose(encoder(voxels.clone(), counts, coordinates.int()), expected, atol=1e-3)


@pytest.mark.parametrize("layout", ["spconv-2.1", "spconv-2.0", "spconv-1"])
@pytest.mark.parametrize("residual", [False, True])
@torch.no_grad()
def test_sparse_encoder_equals_spconv_s(openpcdet_modules: ModuleType, build, prefixed, residual, layout) -> None:
    """Kernels keep their orientation in every layout, biases go into the norms, stages begin where they should."""
    pytest.importorskip("spconv")
    widths, shape = (4, 4, 6, 8), (41, 16, 24)
    source = openpcdet_modules.randomise(openpcdet_modules.sparse_backbone(3, widths, 16, residual=residual))
    if residual:
        channels = ((4, 4, 4), (4, 4, 6), (6, 6, 8), (8, 8))
        paddings = ((0, 0, 1), (0, 0, 1), (0, 0, [0, 1, 1]), (0, 0))
    else:
        channels, paddings = ((4,), (4, 4, 4), (6, 6, 6), (8, 8, 8)), ((1,), (1, 1, 1), (1, 1, 1), ((0, 1, 1), 1, 1))
    encoder = build({"type": "SparseEncoder", "in_channels": 3, "sparse_shape": shape, "order": ("conv", "norm", "act"),
                     "norm_cfg": {"type": "BN1d", "eps": 1e-3, "momentum": 0.01}, "base_channels": 4,
                     "output_channels": 16, "encoder_channels": channels, "encoder_paddings": paddings,
                     "block_type": "basicblock" if residual else "conv_module"})  # fmt: skip
    state = prefixed(backbone_3d=source)
    order = {"spconv-2.1": (0, 1, 2, 3, 4), "spconv-2.0": (1, 2, 3, 0, 4), "spconv-1": (1, 2, 3, 4, 0)}[layout]
    state = {key: value.permute(order) if value.ndim == 5 else value for key, value in state.items()}
    load(state, container(middle_encoder=encoder))
    generator = np.random.default_rng(0)
    cells = np.unravel_index(generator.choice(np.prod(shape), 400, replace=False), shape)
    coordinates = torch.from_numpy(np.stack([np.arange(400) % 2, *cells], axis=1).astype(np.int32))
    features = torch.randn(400, 3)
    expected = source(features, coordinates, shape, 2)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(encoder(features, coordinates, 2), expected, rtol=1e-4, atol=1e-5)


def openpcdet_anchor_boxes(head: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (centre, sides, yaw) [N, 7] and class probabilities [N, K] as OpenPCDet decodes them, class by class."""
    height, width = features.shape[2:]
    x, y = torch.linspace(0, 8, width), torch.linspace(-3, 3, height)
    anchors = []
    for name in CLASSES:
        bottom = -1.0 - TARGET_CLASSES.index(name) / 10
        for yaw in (0.0, 1.57):
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
            length, wide, high = SIZES[name]
            rest = torch.tensor([bottom + high / 2, length, wide, high, yaw]).expand(height, width, 5)
            anchors.append(torch.cat([grid_x[..., None], grid_y[..., None], rest], dim=-1))
    anchors = torch.stack(anchors, dim=2).view(-1, 7)  # row, column, class, rotation

    def rows(conv: nn.Module, size: int) -> Tensor:
        return conv(features).permute(0, 2, 3, 1).reshape(-1, size)

    code, scores = rows(head.conv_box, 7), rows(head.conv_cls, len(CLASSES)).sigmoid()
    direction = rows(head.conv_dir_cls, 2).argmax(dim=1)
    diagonal = anchors[:, 3:5].norm(dim=1, keepdim=True)
    place = code[:, :2] * diagonal + anchors[:, :2]
    z = code[:, 2:3] * anchors[:, 5:6] + anchors[:, 2:3]
    sides = code[:, 3:6].exp() * anchors[:, 3:6]
    yaw = torch.remainder(code[:, 6] + anchors[:, 6] - DIR_OFFSET, math.pi) + DIR_OFFSET + math.pi * direction
    return torch.cat([place, z, sides, yaw[:, None]], dim=1), scores


@torch.no_grad()
def test_anchor_head_finds_the_same_boxes_with_classes_in_another_order(
    openpcdet_modules: ModuleType, build, prefixed, anchor_head
) -> None:
    head = openpcdet_modules.AnchorHead(6, 3)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    state = prefixed(dense_head=head)
    config = anchor_head(6, [SIZES[name] for name in TARGET_CLASSES])
    for setting in settings(state, target_classes=TARGET_CLASSES, lidar=""):
        *parents, last = setting.path.removeprefix("bbox_head.").split(".")
        (config[parents[0]] if parents else config)[last] = setting.value
    target = load(state, container(bbox_head=build(config)))
    features = torch.randn(1, 6, 3, 5)
    expected, scores = openpcdet_anchor_boxes(head, features)
    from mmdet3d.structures import LiDARInstance3DBoxes

    (found,) = target.bbox_head.predict_by_feat(
        *target.bbox_head([features]), [{"box_type_3d": LiDARInstance3DBoxes}], target.bbox_head.test_cfg
    )
    for label, name in enumerate(TARGET_CLASSES):
        own = found.labels_3d == label
        values = torch.cat([found.bboxes_3d.gravity_center[own], found.bboxes_3d.tensor[own, 3:]], dim=1)
        order = scores[:, CLASSES.index(name)].argsort(descending=True)
        values = values[found.scores_3d[own].argsort(descending=True)]
        assert len(values) == len(expected)
        torch.testing.assert_close(values[:, :6], expected[order, :6], rtol=1e-4, atol=1e-4)
        turn = torch.remainder(values[:, 6] - expected[order, 6] + math.pi, 2 * math.pi) - math.pi
        assert turn.abs().max() < 1e-4


CENTRE_OUTPUTS = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}


@pytest.fixture
def centre_target(build) -> nn.Module:
    """A centre head of two tasks, of which the second has two classes."""
    tasks = [{"num_class": 1, "class_names": ["a"]}, {"num_class": 2, "class_names": ["b", "c"]}]
    return container(pts_bbox_head=build({
        "type": "CenterHead", "in_channels": 6, "tasks": tasks, "share_conv_channel": 8,
        "common_heads": {"reg": (2, 2), "height": (1, 2), "dim": (3, 2), "rot": (2, 2), "vel": (2, 2)},
        "separate_head": {"type": "SeparateHead", "init_bias": -2.19, "final_kernel": 3, "head_conv": 8},
        "bbox_coder": {"type": "CenterPointBBoxCoder", "pc_range": [0, 0], "voxel_size": [1, 1], "out_size_factor": 1},
        "loss_cls": {"type": "mmdet.GaussianFocalLoss", "reduction": "mean"}, "loss_bbox": {"type": "mmdet.L1Loss"},
    }))  # fmt: skip


@torch.no_grad()
def test_centre_head_finds_the_same_boxes(openpcdet_modules: ModuleType, centre_target, prefixed) -> None:
    source = openpcdet_modules.randomise(openpcdet_modules.CentreHead(6, 8, (1, 2), CENTRE_OUTPUTS))
    load(prefixed(dense_head=source), centre_target, classes=("a", "b", "c"))
    features = torch.randn(1, 6, 8, 8)
    mine, theirs = source(features), centre_target.pts_bbox_head([features])
    for own, (other,) in zip(mine, theirs, strict=True):
        for name, renamed in (
            ("center", "reg"),
            ("center_z", "height"),
            ("dim", "dim"),
            ("vel", "vel"),
            ("hm", "heatmap"),
        ):
            torch.testing.assert_close(other[renamed], own[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            torch.atan2(other["rot"][:, 0], other["rot"][:, 1]), torch.atan2(own["rot"][:, 1], own["rot"][:, 0])
        )  # (sin, cos) there, (cos, sin) here


def test_heads_of_centres_have_to_be_in_the_order_of_the_tasks(
    openpcdet_modules: ModuleType, centre_target, prefixed
) -> None:
    state = prefixed(dense_head=openpcdet_modules.CentreHead(6, 8, (1, 2), CENTRE_OUTPUTS))
    with pytest.raises(InputError, match=r"classes \['b', 'a', 'c'\], the tasks of the config \['a', 'b', 'c'\]"):
        convert(state, centre_target, classes=["b", "a", "c"], target_classes=())
    said = convert(state, centre_target, classes=["a", "b", "c"], target_classes=())
    assert said.notes == ["heads_list.0 is a, heads_list.1 is b + c"]
    silent = convert(state, centre_target, classes=None, target_classes=())
    assert silent.notes == [f"{said.notes[0]}. Nobody checked it: compare CLASS_NAMES_EACH_HEAD, or say --classes"]


@pytest.mark.parametrize("classes", [("Car",), ("Car", "Pedestrian", "Tram")])
def test_classes_that_differ_are_named(openpcdet_modules: ModuleType, build, prefixed, anchor_head, classes) -> None:
    state = prefixed(dense_head=openpcdet_modules.AnchorHead(6, 3))
    target = container(bbox_head=build(anchor_head(6, [SIZES[name] for name in TARGET_CLASSES])))
    with pytest.raises(InputError, match=r"the checkpoint has the classes \['Car'.*the config \['Pedestrian'"):
        convert(state, target, classes=classes, target_classes=TARGET_CLASSES)


def test_norms_with_another_eps_are_refused(openpcdet_modules: ModuleType, build, prefixed) -> None:
    source = openpcdet_modules.BEVBackbone(5, (1,), (1,), (8,), (1,), (8,))
    backbone = build({"type": "SECOND", "in_channels": 5, "out_channels": [8], "layer_nums": [1], "layer_strides": [1],
                      "norm_cfg": {"type": "BN", "eps": 1e-5}})  # fmt: skip
    with pytest.raises(InputError, match=r"backbone.blocks.0.1 of the config has eps=1e-05, the weights need 0.001"):
        convert(prefixed(backbone_2d=source), container(backbone=backbone), classes=(), target_classes=())


def test_keys_without_a_counterpart_are_reported(openpcdet_modules: ModuleType, build, prefixed) -> None:
    source = openpcdet_modules.BEVBackbone(5, (1, 1), (1, 2), (8, 8), (1, 2), (8, 8))
    state = {**prefixed(backbone_2d=source), "global_step": torch.zeros(1), "image_head.weight": torch.zeros(1)}
    backbone = build({"type": "SECOND", "in_channels": 5, "out_channels": [8], "layer_nums": [2], "layer_strides": [1]})
    target = container(backbone=backbone)
    conversion = convert(state, target, classes=(), target_classes=())
    mismatch = compare(conversion, target)
    assert conversion.ignored == ["global_step"]
    assert "image_head.weight" in conversion.unknown
    assert "backbone.blocks.1.0.weight (renamed)" in conversion.unknown
    assert "backbone.blocks.0.6.weight" in mismatch.missing  # the third convolution of the target's block
    assert mismatch.shapes == []


@pytest.mark.parametrize(
    "name",
    [
        "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py",
        "second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py",
        "centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
    ],
)
def test_upstream_s_configs_are_filled_whole(openpcdet_modules: ModuleType, build, prefixed, name: str) -> None:
    """The widths of OpenPCDet's ``pointpillar.yaml``, ``second.yaml`` and ``cbgs_voxel01_res3d_centerpoint.yaml``."""
    pytest.importorskip("spconv")
    two_levels = ((5, 5), (1, 2), (128, 256), (1, 2), (256, 256))
    if name.startswith("pointpillars"):
        levels = ((3, 5, 5), (2, 2, 2), (64, 128, 256), (1, 2, 4), (128, 128, 128))
        pillars = openpcdet_modules.PillarVFE(4, 64, [0.16, 0.16, 4], [0, -39.68, -3])
        head = openpcdet_modules.AnchorHead(384, 3)
        state = prefixed(vfe=pillars, backbone_2d=openpcdet_modules.BEVBackbone(64, *levels), dense_head=head)
    elif name.startswith("second"):
        sparse = openpcdet_modules.sparse_backbone(4, (16, 32, 64, 64), 128, residual=False)
        head = openpcdet_modules.AnchorHead(512, 3)
        dense = openpcdet_modules.BEVBackbone(256, *two_levels)
        state = prefixed(backbone_3d=sparse, backbone_2d=dense, dense_head=head)
    else:
        sparse = openpcdet_modules.sparse_backbone(5, (16, 32, 64, 128), 128, residual=True)
        head = openpcdet_modules.CentreHead(512, 64, (1, 2, 2, 1, 2, 2), CENTRE_OUTPUTS)
        dense = openpcdet_modules.BEVBackbone(256, *two_levels)
        state = prefixed(backbone_3d=sparse, backbone_2d=dense, dense_head=head)
    classes = None if name.startswith("centerpoint") else CLASSES
    load({**state, "global_step": torch.zeros(1)}, build(get_config(f"mmdet3d::{name}").model), classes=classes)
