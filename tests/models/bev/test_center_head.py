"""BEVCenterHead: parity with mmdet3d's head, nothing in place, class order, precision, initialisation."""

import copy

import pytest
import torch
from mmdet3d.models.dense_heads import CenterHead
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from perceptkd.core.errors import InputError
from perceptkd.models.bev import center_head, center_targets
from perceptkd.models.bev.center_head import BEVCenterHead

CLASSES = ["car", "truck", "bus", "pedestrian"]
TASKS = [["car"], ["truck", "bus"], ["pedestrian"]]
LOW = [-16.0, -12.0]
BOX = (3.3, -4.6, -0.4, 4.0, 2.0, 1.5, 0.6, 1.0, -2.0)


def settings(nms_type: str = "circle", tasks: list[list[str]] | None = None) -> dict:
    limits = [-20.0, -20.0, -10.0, 20.0, 20.0, 10.0]
    return {
        "in_channels": 8,
        "share_conv_channel": 16,
        "tasks": [{"num_class": len(names), "class_names": names} for names in tasks or TASKS],
        "common_heads": {"reg": (2, 2), "height": (1, 2), "dim": (3, 2), "rot": (2, 2), "vel": (2, 2)},
        "separate_head": {"type": "mmdet3d.SeparateHead", "init_bias": -2.19, "final_kernel": 3},
        "bbox_coder": {
            "type": "mmdet3d.CenterPointBBoxCoder",
            "pc_range": LOW,
            "voxel_size": [0.8, 0.8],
            "out_size_factor": 1,
            "post_center_range": limits,
            "max_num": 20,
            "score_threshold": 0.1,
            "code_size": 9,
        },
        "loss_cls": {"type": "mmdet.GaussianFocalLoss", "reduction": "mean"},
        "loss_bbox": {"type": "mmdet.L1Loss", "reduction": "mean", "loss_weight": 0.25},
        "train_cfg": {
            "grid_size": [40, 30, 1],
            "voxel_size": [0.8, 0.8, 8.0],
            "out_size_factor": 1,
            "point_cloud_range": [*LOW, -5.0, 16.0, 12.0, 3.0],
            "gaussian_overlap": 0.1,
            "min_radius": 2,
            "max_objs": 50,
            "dense_reg": 1,
            "code_weights": [1.0] * 8 + [0.2] * 2,
        },
        "test_cfg": {
            "nms_type": nms_type,
            "min_radius": [4, 10, 0.2],
            "post_max_size": 10,
            "pre_max_size": 20,
            "nms_thr": 0.2,
            "score_threshold": 0.1,
            "post_center_limit_range": limits,
        },
    }


def make_head(class_names: list[str] | None = None, **changes) -> BEVCenterHead:
    return BEVCenterHead(class_names=class_names or CLASSES, **settings(**changes))


def make_instances(*boxes: tuple[float, ...], labels: list[int]) -> InstanceData:
    values = torch.tensor(boxes).reshape(-1, 9)
    return InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(values, box_dim=9, origin=(0.5, 0.5, 0.5)),
        labels_3d=torch.tensor(labels, dtype=torch.long),
    )


def test_losses_are_upstreams() -> None:
    ours, upstream = make_head(), CenterHead(**settings())
    upstream.load_state_dict(ours.state_dict())
    truth = [make_instances(BOX, (-7.7, 6.1, 0, 9, 3, 3, -2, 0, 0), labels=[0, 2]), make_instances(BOX, labels=[3])]
    maps = ours([torch.randn(2, 8, 30, 40)])
    expected = upstream.loss_by_feat(copy.deepcopy(detached(maps)), truth)
    losses = ours.loss_by_feat(maps, truth)
    assert sorted(losses) == sorted(expected)
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)


def detached(maps):
    return tuple([{key: value.detach() for key, value in level.items()} for level in task] for task in maps)


def test_the_loss_leaves_the_outputs_as_they_are() -> None:
    """Upstream overwrites the heatmap with its sigmoid, in place, and adds a key."""
    head = make_head()
    maps = head([torch.randn(1, 8, 30, 40)])
    before = copy.deepcopy(detached(maps))
    sum(head.loss_by_feat(maps, [make_instances(BOX, labels=[0])]).values()).backward()
    for task, task_before in zip(maps, before, strict=True):
        assert sorted(task[0]) == sorted(task_before[0])
        for key, value in task_before[0].items():
            torch.testing.assert_close(task[0][key], value)


def test_gradients_are_finite_in_bf16_with_saturated_scores() -> None:
    """1 - 1e-4 is 1 in bf16: a loss computed there divides by zero."""
    head = make_head()
    maps = tuple([{k: v.detach().bfloat16() for k, v in level.items()} for level in t] for t in head_maps(head))
    heatmap = torch.full((1, 1, 30, 40), 40.0, dtype=torch.bfloat16, requires_grad=True)
    maps[0][0]["heatmap"] = heatmap
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = head.loss_by_feat(maps, [make_instances(BOX, labels=[0])])
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    losses["task0.loss_heatmap"].backward()
    assert heatmap.grad.isfinite().all()


def head_maps(head: BEVCenterHead):
    return head([torch.randn(1, 8, 30, 40)])


def test_a_frame_without_boxes_trains() -> None:
    head = make_head()
    losses = head.loss_by_feat(head_maps(head), [make_instances(labels=[])])
    sum(losses.values()).backward()
    assert losses["task0.loss_bbox"] == 0
    assert all(parameter.grad is not None for parameter in head.parameters())


def perfect_maps(head: BEVCenterHead, truth: InstanceData):
    """Outputs that say exactly what the targets ask for."""
    maps = head_maps(head)
    for task, target in zip(maps, head.get_targets([truth]), strict=True):
        level = task[0]
        level["heatmap"] = torch.logit(target.heatmap.clamp(1e-4, 1 - 1e-4))
        start = 0
        for key in ("reg", "height", "dim", "rot", "vel"):
            channels = level[key].shape[1]
            level[key] = torch.zeros_like(level[key])
            level[key][target.sample, :, target.row, target.column] = target.boxes[:, start : start + channels]
            start += channels
    return maps


@pytest.mark.parametrize("nms_type", ["circle", "rotate"])
@pytest.mark.parametrize("label", range(4))
def test_targets_decode_to_the_box_and_its_label(nms_type: str, label: int) -> None:
    """The dataset's class order differs from the order of the tasks."""
    names = ["bus", "pedestrian", "car", "truck"]
    head = make_head(names, nms_type=nms_type)
    truth = make_instances(BOX, labels=[label])
    maps = perfect_maps(head, truth)
    with torch.no_grad():
        result = head.predict_by_feat(maps, [{"box_type_3d": LiDARInstance3DBoxes}])[0]
    best = result.scores_3d.argmax()
    assert result.labels_3d[best] == label
    torch.testing.assert_close(result.bboxes_3d.tensor[best], truth.bboxes_3d.tensor[0], atol=1e-4, rtol=1e-4)


def test_the_class_order_decides_the_task() -> None:
    truth = make_instances(BOX, labels=[0])
    counts = [
        [int(task.num_boxes) for task in make_head(names).get_targets([truth])]
        for names in (CLASSES, ["pedestrian", "car", "truck", "bus"])
    ]
    assert counts == [[1, 0, 0], [0, 0, 1]]


def test_a_box_of_another_class_is_no_target() -> None:
    """Label -1 would be the last class if it were taken as an index."""
    for task in make_head().get_targets([make_instances(BOX, labels=[-1])]):
        assert len(task.boxes) == 0
        assert task.heatmap.sum() == 0


def test_a_label_that_the_head_does_not_know_is_named() -> None:
    with pytest.raises(InputError, match=r"boxes have the label 4, the head knows the classes \[\['car'"):
        make_head().get_targets([make_instances(BOX, labels=[4])])


def test_two_ranks_with_one_object_between_them_equal_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract 9 where there are fewer objects than ranks: the mean count is below 1 and must stay there."""
    head, features = make_head().eval(), torch.randn(2, 8, 30, 40)
    truth = [make_instances(BOX, labels=[0]), make_instances(labels=[])]
    joint = head.loss_by_feat(head([features]), truth)
    means = [count / 2 for task in head.get_targets(truth) for count in (task.num_peaks, task.num_boxes)]
    monkeypatch.setattr(center_head, "get_world_size", lambda: 2)
    ranks = []
    for rank in range(2):
        reduced = iter(means)
        monkeypatch.setattr(center_targets, "all_reduce_mean", lambda _, reduced=reduced: next(reduced))
        ranks.append(head.loss_by_feat(head([features[rank : rank + 1]]), truth[rank : rank + 1]))
    for name, value in joint.items():
        torch.testing.assert_close((ranks[0][name] + ranks[1][name]) / 2, value, rtol=1e-3, atol=1e-5)


def test_unequal_class_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="the tasks hold the classes"):
        make_head(["car", "truck", "bus", "bicycle"])


def test_initialisation_sets_the_heatmap_bias() -> None:
    head = make_head()
    head.init_weights()
    scores = torch.cat([task[0]["heatmap"].flatten() for task in head_maps(head)]).sigmoid()
    assert 0.05 < scores.mean() < 0.2
    for task_head in head.task_heads:
        torch.testing.assert_close(task_head.heatmap[-1].bias, torch.full_like(task_head.heatmap[-1].bias, -2.19))
