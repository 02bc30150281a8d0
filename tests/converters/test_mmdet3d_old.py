"""mmdet3d before 1.0: boxes of old heads, written as they were decoded then, against converted heads of today."""

import math

import pytest
import torch
from mmengine import ConfigDict
from torch import Tensor, nn

from perceptkd.converters.conversion import compare
from perceptkd.converters.mmdet3d_old import convert, find_version, is_old, match_rotations, settings
from perceptkd.core.errors import InputError

SIZES = [[0.8, 0.6, 1.73], [1.76, 0.6, 1.73], [3.9, 1.6, 1.56]]  # length, width, height


def in_new_frame(boxes: Tensor) -> Tensor:
    """Boxes of the old convention in the new one, as ``tools/update_data_coords.py`` of mmdet3d 1.0 does it."""
    return torch.cat([boxes[:, :3], boxes[:, [4, 3, 5]], -boxes[:, 6:7] - math.pi / 2, boxes[:, 7:]], dim=1)


def old_anchor_boxes(head: nn.Module, features: Tensor, *, dir_offset: float) -> tuple[Tensor, Tensor]:
    """Boxes [N, 7] with the centre of the bottom in the old convention, and class logits [N, 3].

    Anchors have the sides (width, length, height); the direction class says which half turn from ``dir_offset`` on.
    """
    height, width = features.shape[2:]
    y, x = torch.meshgrid(torch.linspace(-3, 3, height), torch.linspace(0, 8, width), indexing="ij")
    anchors = torch.stack(
        [
            torch.stack(
                [x, y, *(torch.full_like(x, value) for value in (-1.0 - i / 10, wide, length, high, yaw))], dim=-1
            )
            for i, (length, wide, high) in enumerate(SIZES)
            for yaw in (0.0, 1.57)
        ],
        dim=2,
    ).view(-1, 7)

    def rows(conv: nn.Module, size: int) -> Tensor:
        return conv(features).permute(0, 2, 3, 1).reshape(-1, size)

    code = rows(head.conv_reg, 7)
    sides = code[:, 3:6].exp() * anchors[:, 3:6]
    place = code[:, :2] * anchors[:, 3:5].norm(dim=1, keepdim=True) + anchors[:, :2]
    z = code[:, 2] * anchors[:, 5] + anchors[:, 2] + anchors[:, 5] / 2 - sides[:, 2] / 2
    half = rows(head.conv_dir_cls, 2).argmax(dim=1)
    yaw = torch.remainder(code[:, 6] + anchors[:, 6] - dir_offset, math.pi) + dir_offset + math.pi * half
    return torch.cat([place, z[:, None], sides, yaw[:, None]], dim=1), rows(head.conv_cls, 3)


@pytest.mark.parametrize("dir_offset", [0.0, 0.7854])
@torch.no_grad()
def test_an_anchor_head_finds_the_same_boxes_in_the_new_frame(build, anchor_head, dir_offset: float) -> None:
    from mmdet3d.structures import LiDARInstance3DBoxes

    config = anchor_head(6, SIZES)
    old, anchors = build(config), config["anchor_generator"]
    for parameter in old.parameters():
        nn.init.normal_(parameter, std=0.4)
    features = torch.randn(1, 6, 3, 5)
    expected, logits = old_anchor_boxes(old, features, dir_offset=dir_offset)
    sizes = [[width, length, height] for length, width, height in SIZES]
    text = f"model = dict(bbox_head=dict(dir_offset={dir_offset}, anchor_generator={ {**anchors, 'sizes': sizes} }))"
    meta = {"mmdet3d_version": "0.17.1", "config": text}
    config["anchor_generator"] = {
        **anchors,
        "type": "AlignedAnchor3DRangeGenerator",
        "ranges": [[0, 0, 0, 1, 1, 1]] * 3,
    }
    state = {f"bbox_head.{key}": value for key, value in old.state_dict().items()}
    for setting in settings(state, meta, version="0.17.1", lidar=""):
        config[setting.path.removeprefix("bbox_head.")] = setting.value
    target = nn.Module()
    target.bbox_head = build(config)
    conversion = convert(state, target, version="0.17.1", meta=meta)
    assert compare(conversion, target) == ([], [])
    assert conversion.notes == ["mmdet3d 0.17.1 is older than 1.0.0rc0: the boxes of bbox_head were converted"]
    target.load_state_dict(conversion.state)
    (found,) = target.bbox_head.predict_by_feat(
        *target.bbox_head([features]), [{"box_type_3d": LiDARInstance3DBoxes}], target.bbox_head.test_cfg
    )
    expected = in_new_frame(expected)
    for label in range(3):
        own = found.labels_3d == label
        values = found.bboxes_3d.tensor[own][found.scores_3d[own].argsort(descending=True)]
        wanted = expected[logits[:, label].argsort(descending=True)]
        assert len(values) == len(wanted)
        torch.testing.assert_close(values[:, :6], wanted[:, :6], rtol=1e-4, atol=1e-4)
        turn = torch.remainder(values[:, 6] - wanted[:, 6] + math.pi, 2 * math.pi) - math.pi
        assert turn.abs().max() < 1e-4  # heads and tails are told apart


def centre_head() -> dict:
    tasks = [{"num_class": 1, "class_names": ["a"]}, {"num_class": 2, "class_names": ["b", "c"]}]
    return {
        "type": "CenterHead", "in_channels": 6, "tasks": tasks, "share_conv_channel": 8,
        "common_heads": {"reg": (2, 2), "height": (1, 2), "dim": (3, 2), "rot": (2, 2), "vel": (2, 2)},
        "separate_head": {"type": "SeparateHead", "init_bias": -2.19, "final_kernel": 3, "head_conv": 8},
        "bbox_coder": {"type": "CenterPointBBoxCoder", "pc_range": [0, 0], "voxel_size": [1, 1], "out_size_factor": 1,
                       "post_center_range": [-99] * 3 + [99] * 3, "max_num": 64, "score_threshold": 0.0,
                       "code_size": 9},
        "loss_cls": {"type": "mmdet.GaussianFocalLoss", "reduction": "mean"}, "loss_bbox": {"type": "mmdet.L1Loss"},
        "test_cfg": {"nms_type": "circle", "min_radius": [0, 0], "post_max_size": 64,
                     "post_center_limit_range": [-99] * 3 + [99] * 3},
    }  # fmt: skip


@torch.no_grad()
def test_a_centre_head_finds_the_same_boxes_in_the_new_frame(build) -> None:
    from mmdet3d.structures import LiDARInstance3DBoxes

    torch.manual_seed(0)
    old, target = build(centre_head()), nn.Module()
    target.pts_bbox_head = build(centre_head())
    state = {f"pts_bbox_head.{key}": value for key, value in old.state_dict().items()}
    conversion = convert(state, target, version="0.18.0")
    assert compare(conversion, target) == ([], [])
    target.load_state_dict(conversion.state)
    features, metas = torch.randn(1, 6, 8, 8), [{"box_type_3d": LiDARInstance3DBoxes}]
    (before,) = old.predict_by_feat(old([features]), metas)
    (after,) = target.pts_bbox_head.predict_by_feat(target.pts_bbox_head([features]), metas)
    assert len(before.bboxes_3d) == len(after.bboxes_3d) > 20
    torch.testing.assert_close(after.scores_3d, before.scores_3d)
    wanted, found = in_new_frame(before.bboxes_3d.tensor), after.bboxes_3d.tensor
    torch.testing.assert_close(found[:, [0, 1, 2, 3, 4, 5, 7, 8]], wanted[:, [0, 1, 2, 3, 4, 5, 7, 8]])
    turn = torch.remainder(found[:, 6] - wanted[:, 6] + math.pi, 2 * math.pi) - math.pi
    assert turn.abs().max() < 1e-4


class OldPillars(nn.Module):
    """The pillars of mmdet3d 0.17: points with their offsets to the mean and, in x and y, to the pillar's centre."""

    def __init__(self, channels: int, size: list[float], low: list[float], *, legacy: bool, distance: bool) -> None:
        super().__init__()
        layer = nn.Module()
        layer.linear = nn.Linear(channels + 5 + distance, 8, bias=False)
        layer.norm = nn.BatchNorm1d(8, eps=1e-3)
        self.pfn_layers = nn.ModuleList([layer])
        self.size, self.low, self.legacy, self.distance = torch.tensor(size), torch.tensor(low), legacy, distance

    def forward(self, points: Tensor, counts: Tensor, coordinates: Tensor) -> Tensor:
        """Points [N, M, C] padded with zeros, how many of each pillar are points [N], (batch, z, y, x) [N, 4]."""
        mean = points[..., :3].sum(dim=1, keepdim=True) / counts[:, None, None]
        centre = (coordinates[:, [3, 2]] + 0.5) * self.size[:2] + self.low[:2]
        offset = points[..., :2] - centre[:, None]
        raw = torch.cat([offset, points[..., 2:]], dim=-1) if self.legacy else points
        parts = [raw, points[..., :3] - mean, offset, *([raw[..., :3].norm(dim=2, keepdim=True)] * self.distance)]
        inside = torch.arange(points.shape[1]) < counts[:, None]
        (layer,) = self.pfn_layers
        features = layer.linear(torch.cat(parts, dim=-1) * inside[..., None])
        return layer.norm(features.transpose(1, 2)).relu().max(dim=2).values


def pillars(kind: str = "PillarFeatureNet", **options: bool) -> dict:
    return {"type": kind, "in_channels": 5, "feat_channels": [8], "voxel_size": [0.5, 0.4, 4.0],
            "point_cloud_range": [-8.0, -3.0, -3.0, 8.0, 3.0, 1.0], **options}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "pts_"])
@pytest.mark.parametrize(("legacy", "distance"), [(True, False), (False, False), (False, True)])
@torch.no_grad()
def test_pillars_of_old_see_the_same(build, prefix: str, legacy: bool, distance: bool) -> None:
    config = pillars(with_distance=distance)
    low = config["point_cloud_range"][:3]
    old = OldPillars(5, config["voxel_size"], low, legacy=legacy, distance=distance).eval()
    nn.init.normal_(old.pfn_layers[0].norm.running_mean)
    state = {f"{prefix}voxel_encoder.{key}": value for key, value in old.state_dict().items()}
    meta = {"config": f"model = dict({prefix}voxel_encoder=dict(legacy={legacy}))"}
    (setting,) = settings(state, meta, version="0.17.0", lidar=prefix)
    assert (setting.path, setting.value) == (f"{prefix}voxel_encoder.legacy", False)
    target = nn.Module()
    target.add_module(f"{prefix}bbox_head", build(centre_head()))
    target.add_module(f"{prefix}voxel_encoder", build({**config, "legacy": setting.value}))
    conversion = convert(state, target, version="0.17.0", meta=meta)
    target.load_state_dict(conversion.state, strict=False)
    assert all(key.startswith(f"{prefix}bbox_head") for key in compare(conversion, target).missing)
    counts = torch.arange(20) % 5 + 1
    coordinates = torch.stack([torch.zeros(20), torch.zeros(20), torch.arange(20) % 15, torch.arange(20)], dim=1).int()
    points = torch.randn(20, 5, 5) * 20 * (torch.arange(5) < counts[:, None])[..., None]
    expected = old(points, counts, coordinates)
    found = target.get_submodule(f"{prefix}voxel_encoder")(points.clone(), counts, coordinates)
    assert expected.max() > 10
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_dynamic_pillars_kept_the_coordinates(build) -> None:
    target = nn.Module()
    target.voxel_encoder, target.bbox_head = build(pillars("DynamicPillarFeatureNet")), build(centre_head())
    weight = torch.randn(8, 10)
    conversion = convert({"voxel_encoder.pfn_layers.0.0.weight": weight}, target, version="0.17.0")
    wide = conversion.state["voxel_encoder.pfn_layers.0.0.weight"]
    assert torch.equal(wide[:, :10], weight)
    assert torch.equal(wide[:, 10], torch.zeros(8))


def test_pillars_that_are_not_old_ones_are_refused(build) -> None:
    target, key = nn.Module(), "voxel_encoder.pfn_layers.0.linear.weight"
    target.voxel_encoder, target.bbox_head = build(pillars()), build(centre_head())
    with pytest.raises(InputError, match=r"had 10 inputs before mmdet3d 1.0.0rc0, .*linear.weight has 11"):
        convert({key: torch.zeros(8, 11)}, target, version="0.17.0")
    target.voxel_encoder = build(pillars(with_distance=True))
    with pytest.raises(InputError, match="legacy=True and with_distance=True cannot"):
        convert({key: torch.zeros(8, 11)}, target, version="0.17.0", meta={"config": "model = dict(type='VoxelNet')"})


def test_what_a_checkpoint_without_config_leaves_open_is_told(build, anchor_head) -> None:
    key, target = "voxel_encoder.pfn_layers.0.linear.weight", nn.Module()
    target.voxel_encoder, target.bbox_head = build(pillars()), build(anchor_head(6, SIZES))
    state = {
        key: torch.ones(8, 10),
        **{f"bbox_head.{name}": each for name, each in target.bbox_head.state_dict().items()},
    }
    conversion = convert(state, target, version="0.17.0")
    assert conversion.state[key][0].tolist() == [0.0] * 2 + [1.0] * 6 + [2.0] * 2 + [0.0]
    notes = " ".join(conversion.notes)
    assert "PillarFeatureNet had legacy=True (True on KITTI, False in CenterPoint)" in notes
    assert "the anchors are the config's (KITTI's were those of an Anchor3DRangeGenerator" in notes
    assert "dir_offset was 0 (so on KITTI; 0.7854 on nuScenes, Lyft and Waymo)" in notes
    known = convert(state, target, version="0.17.0", meta={"config": "model = dict(type='VoxelNet')"})
    assert known.notes == conversion.notes[:1]


@pytest.mark.parametrize(
    "meta", [{"CLASSES": ("a", "b")}, {"dataset_meta": {"classes": ["a", "b"]}}, {"config": "class_names = ['a', 'b']"}]
)
@pytest.mark.parametrize("version", ["0.17.0", "1.0.0"])
def test_classes_have_to_be_in_the_same_order(build, meta: dict, version: str) -> None:
    target = nn.Module()
    target.bbox_head = build(centre_head())
    with pytest.raises(InputError, match=r"the checkpoint has the classes \['a', 'b'\], the config \['b', 'a'\]"):
        convert(target.state_dict(), target, version=version, meta=meta, target_classes=["b", "a"])
    same, silent = (
        convert(target.state_dict(), target, version=version, meta=each, target_classes=["a", "b"]).notes
        for each in (meta, {})
    )
    assert silent == ["the checkpoint does not say its classes: they must be ['a', 'b'], in this order", *same]


def test_a_checkpoint_of_today_is_left_as_it_is(build, anchor_head) -> None:
    target = nn.Module()
    target.bbox_head = build(anchor_head(6, SIZES))
    state = target.state_dict()
    conversion = convert(state, target, version="1.0.0rc0")
    assert all(torch.equal(conversion.state[key], value) for key, value in state.items())
    assert conversion.notes == ["mmdet3d 1.0.0rc0 has today's boxes: nothing but layouts was changed"]
    assert settings(state, {}, version="1.0.0rc0", lidar="") == []


@pytest.mark.parametrize(
    ("meta", "given", "version", "old"),
    [
        ({"mmdet3d_version": "0.17.1"}, None, "0.17.1", True),
        ({"mmdet3d_version": "1.0.0rc6"}, "0.1.0", "1.0.0rc6", False),
        ({}, "0.6.0", "0.6.0", True),
        ({"mmengine_version": "0.10.1"}, None, "1.1.0", False),
    ],
)
def test_the_version_says_which_boxes_they_are(meta: dict, given: str | None, version: str, old: bool) -> None:
    assert find_version(meta, given) == version
    assert is_old(version) is old


def test_unknown_versions_have_to_be_said() -> None:
    with pytest.raises(InputError, match=r"does not say which mmdet3d wrote it: say it, as in --from-version 0.17.0"):
        find_version({})
    with pytest.raises(InputError, match="'newest' is no version"):
        find_version({}, "newest")


def test_heads_with_boxes_that_are_not_converted_are_refused(build) -> None:
    target = nn.Module()
    target.bbox_head = nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"one-stage LiDAR detectors .*, not for Module with Linear"):
        convert(target.state_dict(), target, version="0.17.0")
    two_stages = nn.Module()
    two_stages.bbox_head, two_stages.roi_head = build(centre_head()), nn.Linear(1, 1)
    with pytest.raises(InputError, match="one-stage"):
        convert({}, two_stages, version="0.17.0")


def test_the_shape_aware_head_of_ssn_is_refused(build, anchor_head) -> None:
    """It is an ``Anchor3DHead`` whose convolutions are below ``heads.N``."""
    tasks = [{"num_class": 1, "shared_conv_channels": (4,), "shared_conv_strides": (1,)}] * len(SIZES)
    target = nn.Module()
    target.pts_bbox_head = build(anchor_head(6, SIZES, type="ShapeAwareHead", tasks=tasks))
    with pytest.raises(InputError, match="not for Module with ShapeAwareHead"):
        convert(target.state_dict(), target, version="0.17.0")


def test_rotations_without_a_counterpart_are_refused() -> None:
    assert match_rotations([0, math.pi / 2])[0] == [1, 0]
    assert match_rotations([-math.pi / 4, math.pi / 4])[0] == [0, 1]
    with pytest.raises(InputError, match=r"rotations \[0, 0.5\] have no counterpart"):
        match_rotations([0, 0.5])


def test_weights_of_mmcv_s_sparse_convolutions_are_turned(build) -> None:
    config = {"type": "SparseEncoder", "in_channels": 3, "sparse_shape": [41, 16, 16], "base_channels": 4,
              "output_channels": 8, "encoder_channels": ((4,), (4, 4)), "encoder_paddings": ((1,), (1, 1))}  # fmt: skip
    target = nn.Module()
    target.middle_encoder, target.bbox_head = build(ConfigDict(config)), build(centre_head())
    state = target.state_dict()
    turned = {key: value.permute(1, 2, 3, 4, 0) if value.ndim == 5 else value for key, value in state.items()}
    conversion = convert(turned, target, version="0.17.0")
    sparse = [key for key in state if key.startswith("middle_encoder")]
    assert all(torch.equal(conversion.state[key], state[key]) for key in sparse)
