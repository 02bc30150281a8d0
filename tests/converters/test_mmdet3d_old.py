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
    old = build(config)
    for parameter in old.parameters():
        nn.init.normal_(parameter, std=0.4)
    features = torch.randn(1, 6, 3, 5)
    expected, logits = old_anchor_boxes(old, features, dir_offset=dir_offset)
    meta = {"mmdet3d_version": "0.17.1", "config": f"model = dict(bbox_head=dict(dir_offset={dir_offset}))"}
    state = {f"bbox_head.{key}": value for key, value in old.state_dict().items()}
    for setting in settings(state, meta, version="0.17.1", lidar=""):
        config[setting.path.removeprefix("bbox_head.")] = setting.value
    target = nn.Module()
    target.bbox_head = build(config)
    conversion = convert(state, target, version="0.17.1")
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
