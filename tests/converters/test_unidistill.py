"""UniDistill's released detectors: every key of them finds its place in ours, and the layers compute the same."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from perceptkd.converters.conversion import compare
from perceptkd.converters.unidistill import convert
from perceptkd.core.errors import InputError

TASKS = (1, 2, 2, 1, 2, 2)
BRANCHES = {"iou": 1, "reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
SPARSE_WIDTHS = (16, 32, 64, 128)


class ReleasedHead(nn.Module):
    """``det_head.dense_head`` of the release: a bias before every norm, and 12 weights of losses."""

    def __init__(self) -> None:
        super().__init__()
        self.shared_conv = nn.Sequential(nn.Conv2d(512, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.tasks = nn.ModuleList()
        for classes in TASKS:
            task = nn.Module()
            for name, size in {**BRANCHES, "hm": classes}.items():
                hidden = (nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
                task.add_module(name, nn.Sequential(*hidden, nn.Conv2d(64, size, 3, padding=1)))
            self.tasks.append(task)
        self.auto_loss = nn.Module()
        self.auto_loss.params = nn.Parameter(torch.arange(12.0))

    def forward(self, value: Tensor) -> list[dict[str, Tensor]]:
        value = self.shared_conv(value)
        return [{name: branch(value) for name, branch in task.named_children()} for task in self.tasks]


class ReleasedModel(nn.Module):
    """The release's modules by their names; of spconv only what is needed for the keys."""

    def __init__(self, modules: ModuleType, sensors: Sequence[str]) -> None:
        super().__init__()
        if "lidar" in sensors:
            self.lidar_encoder = nn.Module()
            self.lidar_encoder.backbone_3d = modules.sparse_backbone(5, SPARSE_WIDTHS, 128, residual=True)
        if "camera" in sensors:
            self.camera_encoder = nn.Module()
            self.camera_encoder.backbone = camera = nn.Module()
            for name, shape in (("voxel_size", 3), ("voxel_coord", 3), ("voxel_num", 3), ("frustum", (112, 16, 44, 4))):
                camera.register_buffer(name, torch.zeros(shape))
            camera.depth_net = nn.Sequential(nn.Conv2d(512, 112 + 256, 1))
        if len(sensors) == 2:
            self.fusion_encoder = nn.Module()
            self.fusion_encoder.att = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(512, 512, 1), nn.Sigmoid())
            self.fusion_encoder.reduce_conv = nn.Sequential(
                nn.Conv2d(512, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU()
            )
        self.bev_encoder, self.det_head = nn.Module(), nn.Module()
        self.bev_encoder.backbone_2d = modules.BEVBackbone(256, (5, 5), (1, 2), (128, 256), (1, 2), (256, 256))
        self.det_head.dense_head = ReleasedHead()
        modules.randomise(self)


def released(modules: ModuleType, sensors: Sequence[str], target: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """The source and its weights; mmdet's backbone and mmdet3d's neck have the names that the release uses as well."""
    source = ReleasedModel(modules, sensors)
    state = dict(source.state_dict())
    if "camera" in sensors:
        for ours, theirs in (("backbone", "img_backbone"), ("neck", "img_neck")):
            for key, value in getattr(target.camera_encoder, ours).state_dict().items():
                state[f"camera_encoder.backbone.{theirs}.{key}"] = torch.rand_like(value.float()).to(value.dtype)
    return source, state


@pytest.fixture
def target(request, build, repository: Path) -> nn.Module:
    """The detector of a released config."""
    return build(Config.fromfile(repository / f"configs/bev/{request.param}_released.py").model)


@pytest.mark.parametrize(
    ("target", "sensors"),
    [("lidar_voxel", ["lidar"]), ("camera", ["camera"]), ("fusion", ["lidar", "camera"])],
    indirect=["target"],
)
@torch.no_grad()
def test_every_key_finds_its_place_and_the_layers_compute_the_same(target, sensors, openpcdet_modules) -> None:
    pytest.importorskip("spconv")
    source, state = released(openpcdet_modules, sensors, target)
    teacher = {f"teacher_model.{key}": value for key, value in state.items()}
    conversion = convert({**state, **teacher}, target)
    mismatch = compare(conversion, target)
    assert (mismatch.missing, mismatch.shapes, conversion.unknown) == ([], [], [])
    assert set(teacher) <= set(conversion.ignored)
    target.load_state_dict(conversion.state)
    target.eval()
    assert target.bbox_head.loss_scales.tolist() == [0.0, 1.0, 2.0]
    value = torch.randn(1, 256, 6, 8)
    high = source.bev_encoder.backbone_2d(value)
    torch.testing.assert_close(target.neck(target.backbone(value))[0], high, rtol=1e-4, atol=1e-5)
    for own, (other,) in zip(source.det_head.dense_head(high), target.bbox_head([high]), strict=True):
        for name, expected in own.items():
            found = other["heatmap" if name == "hm" else name]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    if "camera" in sensors:
        features = torch.randn(1, 512, 4, 4)
        expected = source.camera_encoder.backbone.depth_net(features)
        torch.testing.assert_close(target.camera_encoder.view_transform.depth_net(features), expected)
    if len(sensors) == 2:
        joined = torch.randn(1, 512, 5, 5)
        expected = source.fusion_encoder.reduce_conv(joined * source.fusion_encoder.att(joined))
        torch.testing.assert_close(target.fuser([joined[:, :256], joined[:, 256:]]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["lidar_voxel"], indirect=True)
@torch.no_grad()
def test_the_sparse_encoder_computes_the_same(target, openpcdet_modules) -> None:
    pytest.importorskip("spconv")
    source, state = released(openpcdet_modules, ["lidar"], target)
    conversion = convert(state, target)
    compare(conversion, target)
    target.load_state_dict(conversion.state)
    encoder = target.eval().lidar_encoder.middle_encoder
    encoder.sparse_shape = shape = (41, 16, 24)
    cells = np.unravel_index(np.random.default_rng(0).choice(np.prod(shape), 300, replace=False), shape)
    coordinates = torch.from_numpy(np.stack([np.zeros(300), *cells], axis=1).astype(np.int32))
    features = torch.randn(300, 5)
    expected = source.lidar_encoder.backbone_3d(features, coordinates, shape, 1)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(encoder(features, coordinates, 1), expected, rtol=1e-3, atol=1e-4)


def test_other_heads_are_refused(build, repository: Path) -> None:
    model = build(Config.fromfile(repository / "configs/bev/lidar_pillar_sim.py").model)
    with pytest.raises(InputError, match=r"are for configs/bev/\*_released.py, whose head is an IoUCenterHead"):
        convert({}, model)
