"""UniDistill's head: targets, losses and ranking by hand, and against the authors' code where it is present."""

import ast
import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from perceptkd.models.bev import iou_center_head
from perceptkd.models.bev.iou_center_head import IoUCenterHead, aligned_iou3d, hard_focal_loss, nearest_bev_iou
from perceptkd.models.bev.nearest_targets import build_nearest_targets

CLASSES = ["car", "truck", "bus", "pedestrian"]
TASKS = [["car"], ["truck", "bus"], ["pedestrian"]]
TASK_SIZES = [len(names) for names in TASKS]
GRID = {
    "grid_size": [240, 240, 40],
    "voxel_size": [0.075, 0.075, 0.2],
    "out_size_factor": 8,
    "point_cloud_range": [-9.0, -9.0, -5.0, 9.0, 9.0, 3.0],
    "code_weights": [1.0] * 8 + [0.2] * 2,
}
FULL_GRID = {**GRID, "grid_size": [1440, 1440, 40], "point_cloud_range": [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]}


def make_head(**changes) -> IoUCenterHead:
    options = {
        "class_names": CLASSES,
        "in_channels": 8,
        "share_conv_channel": 16,
        "tasks": [{"num_class": len(names), "class_names": names} for names in TASKS],
        "common_heads": {
            "reg": (2, 2), "height": (1, 2), "dim": (3, 2), "rot": (2, 2), "vel": (2, 2), "iou": (1, 2),
        },
        "separate_head": {"type": "mmdet3d.SeparateHead", "init_bias": -2.19, "final_kernel": 3},
        "bbox_coder": {
            "type": "mmdet3d.CenterPointBBoxCoder", "pc_range": [-9.0, -9.0], "voxel_size": [0.075, 0.075],
            "out_size_factor": 8, "code_size": 9,
        },
        "loss_cls": {"type": "mmdet.GaussianFocalLoss"},
        "loss_bbox": {"type": "mmdet.L1Loss"},
        "train_cfg": GRID,
        "test_cfg": {
            "nms_thr": 0.1, "pre_max_size": 1500, "post_max_size": 100, "score_threshold": 0.1,
            "post_center_limit_range": [-12.0, -12.0, -10.0, 12.0, 12.0, 10.0],
        },
        **changes,
    }  # fmt: skip
    return IoUCenterHead(**options)


def random_truth(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes [N, 9] with gravity centres, some off the grid and some of unknown velocity, and labels."""
    boxes = np.concatenate(
        [
            rng.uniform(-10, 10, (count, 2)),
            rng.uniform(-1, 1, (count, 1)),
            rng.uniform(0.4, 5, (count, 3)),
            rng.uniform(-6, 6, (count, 1)),
            np.where(rng.random((count, 1)) < 0.3, np.nan, rng.normal(size=(count, 2))),
        ],
        axis=1,
    )
    return torch.tensor(boxes, dtype=torch.float32), torch.tensor(rng.integers(0, len(CLASSES), count))


def instances(boxes: torch.Tensor, labels: torch.Tensor) -> InstanceData:
    bboxes = LiDARInstance3DBoxes(boxes.clone(), box_dim=9, origin=(0.5, 0.5, 0.5))
    return InstanceData(bboxes_3d=bboxes, labels_3d=labels)


def targets_of(boxes: list[list[float]], labels: list[int], *, grid: dict = FULL_GRID, sizes=(1,)) -> list:
    return build_nearest_targets(
        torch.tensor(boxes).view(-1, 9),
        torch.tensor(labels, dtype=torch.long),
        sample=torch.zeros(len(labels), dtype=torch.long),
        batch_size=1,
        task_sizes=sizes,
        top_k=9,
        train_cfg=grid,
    )


class TestTargets:
    def test_f11_nine_positives_of_an_isolated_car(self) -> None:
        """Centre (10, 5) is at u = 106.67, v = 98.33: the 3 x 3 points around, or those of an equal distance."""
        (task,) = targets_of([[10.0, 5.0, -1.0, 4.62, 1.95, 1.5, 0.5, 3.0, 1.0]], [0])
        assert task.heatmap.sum() == 9
        assert task.num_positives == 9
        assert sorted(set(task.row.tolist())) == [97, 98, 99]
        assert set(task.column.tolist()) <= {105, 106, 107, 108}
        u, v = (10 + 54) / 0.6, (5 + 54) / 0.6
        distances = sorted((u - c) ** 2 + (v - r) ** 2 for r in range(180) for c in range(180))
        found = [(u - c) ** 2 + (v - r) ** 2 for r, c in zip(task.row.tolist(), task.column.tolist())]
        assert sorted(found) == pytest.approx(distances[:9])
        for row, column, code in zip(task.row, task.column, task.boxes):
            offset = [u - column.item(), v - row.item()]
            expected = [*offset, -1.0, *np.log([4.62, 1.95, 1.5]), math.sin(0.5), math.cos(0.5), 3.0, 1.0]
            assert code.tolist() == pytest.approx(expected, abs=1e-4)
            assert task.heatmap[0, 0, row, column] == 1

    def test_a_point_between_two_boxes_belongs_to_the_nearer(self) -> None:
        cars = [[0.0, 0.0, 0, 4, 2, 1.5, 0, 0, 0], [1.2, 0.0, 0, 4, 2, 1.5, 1, 0, 0]]
        (task,) = targets_of(cars, [0, 0])
        assert 9 < task.num_positives < 18
        yaws = torch.atan2(task.boxes[:, 6], task.boxes[:, 7])
        u = (torch.tensor([0.0, 1.2]) + 54) / 0.6
        nearer = (task.column[:, None] - u).abs().argmin(dim=1)
        tied = (task.column[:, None] - u).abs().diff().abs().squeeze() < 1e-4
        assert yaws[~tied].tolist() == pytest.approx(nearer[~tied].float().tolist(), abs=1e-5)

    def test_boxes_of_other_tasks_do_not_compete(self) -> None:
        here = [0.3, 0.3, 0, 4, 2, 1.5, 0, 0, 0]
        first, second = targets_of([here, here, here], [0, 1, 2], sizes=(1, 2))
        assert first.num_positives == 9
        assert second.num_positives == 9
        assert second.heatmap[0, 0].sum() == 9  # of boxes equally near the first counts

    def test_no_boxes(self) -> None:
        (task,) = targets_of([], [])
        assert task.num_positives == 0
        assert task.boxes.shape == (0, 10)


class TestLosses:
    def test_q8_the_released_iou_mixes_width_and_height(self) -> None:
        box = torch.tensor([[0.0, 0, 0, 4, 2, 1.5, 0]])
        shifted = box + torch.tensor([[0.0, 1, 0, 0, 0, 0, 0]])
        assert aligned_iou3d(box, shifted).item() == pytest.approx(1 / 3, abs=1e-4)
        assert aligned_iou3d(box, shifted, legacy=True).item() == pytest.approx(0.2, abs=1e-4)

    def test_iou_of_boxes_apart_keeps_a_gradient(self) -> None:
        box = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]])
        far = torch.tensor([[9.0, 0.2, 0.1, 1, 1, 1, 0]], requires_grad=True)
        aligned_iou3d(far, box).sum().backward()
        assert far.grad[0, 1] != 0

    @pytest.mark.parametrize(("yaw", "expected"), [(0.0, 1.0), (0.7, 1.0), (0.9, 1 / 3), (math.pi, 1.0), (-1.6, 1 / 3)])
    def test_bev_iou_of_the_nearer_axis(self, yaw: float, expected: float) -> None:
        box = torch.tensor([[1.0, 2, 0, 4, 2, 1.5, yaw]])
        assert nearest_bev_iou(box, torch.tensor([[1.0, 2, 0, 4, 2, 1.5, 0]])).item() == pytest.approx(expected)

    def test_focal_loss_by_hand(self) -> None:
        probability, target = torch.tensor([0.3, 0.2]), torch.tensor([1.0, 0.0])
        positive = 0.25 * 0.7**2 * -math.log(0.3)
        negative = 0.75 * 0.2**2 * -math.log(0.8 + 1e-4)
        assert hard_focal_loss(probability, target).item() == pytest.approx(positive + negative)

    def test_learned_scales_enter_every_task(self) -> None:
        head = make_head()
        maps = head([torch.randn(1, 8, 30, 30)])
        truth = [instances(*random_truth(np.random.default_rng(0), 5))]
        before = head.loss_by_feat(maps, truth)
        with torch.no_grad():
            head.loss_scales[1] = 2.0
        after = head.loss_by_feat(maps, truth)
        for index in range(3):
            raw = (before[f"task{index}.loss_bbox"] - math.log(2)) / 0.5
            expected = 0.5 / 4 * raw + math.log(5)
            assert after[f"task{index}.loss_bbox"].item() == pytest.approx(expected.item(), rel=1e-5)
            assert after[f"task{index}.loss_heatmap"] == before[f"task{index}.loss_heatmap"]

    def test_iou_loss_waits_for_the_regression(self, monkeypatch: pytest.MonkeyPatch) -> None:
        head = make_head()
        boxes, labels = random_truth(np.random.default_rng(0), 4)
        truth = [instances(boxes, torch.zeros_like(labels))]
        maps = head([torch.randn(1, 8, 30, 30)])
        assert head.loss_by_feat(maps, truth)["task0.loss_iou"] == 0
        (target, *_) = head.get_targets(truth)
        exact = {key: value.clone() for key, value in maps[0][0].items()}
        start = 0
        for key in ("reg", "height", "dim", "rot", "vel"):
            stop = start + exact[key].shape[1]
            exact[key][0, :, target.row, target.column] = target.boxes[:, start:stop].nan_to_num().t() + 0.02
            start = stop
        assert head.loss_by_feat(([exact], *maps[1:]), truth)["task0.loss_iou"] > 0
        # on several ranks the mean of their regression losses decides, as that of the joint batch would
        monkeypatch.setattr(iou_center_head, "all_reduce_mean", lambda value: value + 3)
        assert head.loss_by_feat(([exact], *maps[1:]), truth)["task0.loss_iou"] == 0

    @pytest.mark.parametrize(
        ("options", "velocity", "expected"),
        [
            ({}, [3.0, 1.0], {"bbox": 0.5, "iou_prediction": 2 * (37 / 43 - 0.5) - 0.2, "iou": 5 * 6 / 43}),
            ({"iou_weight": 2.0}, [3.0, 1.0], {"iou": 2 * 6 / 43}),
            ({}, [1.0, 1.0], {"bbox": 0.5 + 0.2 * 2}),
            ({}, [math.nan, math.nan], {"bbox": 0.5}),
        ],
        ids=["all", "iou_weight", "velocity", "unknown velocity"],
    )
    def test_losses_by_hand(self, options: dict, velocity: list[float], expected: dict[str, float]) -> None:
        """One car, predicted 0.3 m (half a cell) ahead with a velocity of (3, 1) m/s and an IoU map of 0.2.

        In both views the IoU is 3.7 / 4.3. Learned scales are 1: half of each loss, and log(2).
        """
        head = make_head(**options)
        truth = [instances(torch.tensor([[0.1, 0.1, 0, 4, 2, 1.5, 0, *velocity]]), torch.tensor([0]))]
        maps = maps_with([])
        (target, *_) = head.get_targets(truth)
        places = (0, slice(None), target.row, target.column)
        codes = target.boxes.t() + torch.tensor([0.5] + [0.0] * 9)[:, None]
        codes[8:] = torch.tensor([[3.0], [1.0]])
        for key, code in zip(("reg", "height", "dim", "rot", "vel"), codes.split((2, 1, 3, 2, 2))):
            maps[0][0][key][places] = code
        maps[0][0]["iou"][:] = 0.2
        losses = head.loss_by_feat(maps, truth)
        for name, value in expected.items():
            wanted = value if name == "iou" else 0.5 * value + math.log(2)
            assert losses[f"task0.loss_{name}"].item() == pytest.approx(wanted, rel=1e-4), name

    def test_all_parameters_train_and_nothing_is_overwritten(self) -> None:
        head = make_head()
        maps = head([torch.randn(2, 8, 30, 30)])
        kept = maps[0][0]["heatmap"].clone()
        truth = [instances(*random_truth(np.random.default_rng(seed), 6)) for seed in range(2)]
        losses = head.loss_by_feat(maps, truth)
        sum(losses.values()).backward()
        assert torch.equal(maps[0][0]["heatmap"], kept)
        assert all(parameter.grad is not None for parameter in head.parameters())
        assert all(value.isfinite() for value in losses.values())

    def test_without_boxes_only_the_background_counts(self) -> None:
        head = make_head()
        maps = head([torch.randn(1, 8, 30, 30)])
        losses = head.loss_by_feat(maps, [instances(torch.zeros(0, 9), torch.zeros(0, dtype=torch.long))])
        for index in range(3):
            assert losses[f"task{index}.loss_bbox"].item() == pytest.approx(math.log(2))
            assert losses[f"task{index}.loss_iou"] == 0
            assert losses[f"task{index}.loss_heatmap"] > math.log(2)


def maps_with(places: list[tuple[int, int, float, float]]) -> tuple:
    """Outputs with boxes of 4 x 2 m on the first task at (row, column), of a score and a predicted IoU each."""
    maps = []
    for classes in TASK_SIZES:
        sizes = {"heatmap": classes, "reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1}
        level = {name: torch.zeros(1, channels, 30, 30) for name, channels in sizes.items()}
        level["heatmap"] -= 20
        level["dim"][:] = torch.tensor([4.0, 2.0, 1.5]).log().view(1, 3, 1, 1)
        level["rot"][:, 1] = 1
        maps.append([level])
    for row, column, score, iou in places:
        maps[0][0]["heatmap"][0, 0, row, column] = math.log(score / (1 - score))
        maps[0][0]["iou"][0, 0, row, column] = iou
    return tuple(maps)


def predict(head: IoUCenterHead, maps: tuple) -> InstanceData:
    (result,) = head.predict_by_feat(maps, [{"box_type_3d": LiDARInstance3DBoxes}])
    return result


class TestPredictions:
    def test_box_of_a_cell(self) -> None:
        result = predict(make_head(), maps_with([(20, 10, 0.5, 0.0)]))
        assert result.bboxes_3d.gravity_center[0].tolist() == pytest.approx([-9 + 10 * 0.6, -9 + 20 * 0.6, 0.0])
        assert result.bboxes_3d.dims[0].tolist() == pytest.approx([4.0, 2.0, 1.5])
        assert result.labels_3d.tolist() == [0]

    def test_predicted_iou_decides_which_of_two_boxes_stays_and_not_its_score(self) -> None:
        head, places = make_head(), [(20, 10, 0.6, -0.5), (20, 11, 0.5, 0.9)]
        result = predict(head, maps_with(places))
        assert result.scores_3d.tolist() == pytest.approx([0.5])
        head.iou_power = 0.0
        assert predict(head, maps_with(places)).scores_3d.tolist() == pytest.approx([0.6])

    def test_low_scores_and_far_centres_are_left_out(self) -> None:
        head = make_head()
        assert len(predict(head, maps_with([(20, 10, 0.09, 0.9)]))) == 0
        head.test_cfg["post_center_limit_range"] = [0.0, 0.0, -10.0, 12.0, 12.0, 10.0]
        assert predict(head, maps_with([(20, 10, 0.5, 0.0), (20, 20, 0.4, 0.0)])).scores_3d.tolist() == [
            pytest.approx(0.4)
        ]

    @pytest.mark.parametrize(
        ("changes", "scores"),
        [
            ({}, [0.6, 0.5, 0.4]),
            ({"post_max_size": 2}, [0.6, 0.5]),
            ({"pre_max_size": 2}, [0.6]),  # chosen before NMS drops the second
            ({"nms_thr": 0.2}, [0.6, 0.55, 0.5, 0.4]),
        ],
    )
    def test_how_many_boxes_stay(self, changes: dict, scores: list[float]) -> None:
        """The second box is 3 m in front of the first: an IoU of 1 / 7. The others are alone."""
        head = make_head()
        head.test_cfg.update(changes)
        maps = maps_with([(20, 5, 0.6, 0.0), (20, 10, 0.55, 0.0), (20, 20, 0.5, 0.0), (5, 5, 0.4, 0.0)])
        assert predict(head, maps).scores_3d.tolist() == pytest.approx(scores)


@pytest.mark.parametrize(("label", "task", "channel"), [(0, 1, 1), (1, 0, 0), (2, 2, 0), (3, 1, 0)])
def test_labels_are_those_of_the_dataset(label: int, task: int, channel: int) -> None:
    """Whose order of classes is not the tasks', and not its own inverse."""
    head = make_head(class_names=["bus", "car", "pedestrian", "truck"])
    truth = instances(torch.tensor([[0.0, 0, 0, 4, 2, 1.5, 0, 0, 0]]), torch.tensor([label]))
    painted = [target.heatmap.sum(dim=(0, 2, 3)).tolist() for target in head.get_targets([truth])]
    assert [(i, j) for i, sums in enumerate(painted) for j, value in enumerate(sums) if value] == [(task, channel)]
    maps = maps_with([])
    maps[task][0]["heatmap"][0, channel, 5, 5] = 0.0
    assert predict(head, maps).labels_3d.tolist() == [label]


def test_missing_maps_are_named() -> None:
    with pytest.raises(ValueError, match=r"the maps \['iou', 'vel'\]"):
        make_head(common_heads={"reg": (2, 2), "height": (1, 2), "dim": (3, 2), "rot": (2, 2)})


@pytest.fixture(scope="module")
def reference(authors_file: Callable[[str, str], Path]) -> SimpleNamespace:
    """The authors' classes, loaded from a local clone without importing its modules; for one process."""
    names = {"math": math, "np": np, "torch": torch, "nn": torch.nn, "reduce_mean": lambda value: value}
    names |= {"BaseAssigner": object, "CenterHead": object, "logging": logging}
    for file in ("common_utils", "box_utils", "det3d", "fcos_assigner", "center_head_iou_aware"):
        path = authors_file("UNIDISTILL", f"{file}.py")
        nodes = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        exec(compile(ast.Module(nodes, []), str(path), "exec"), names)
        names[file] = SimpleNamespace(**names)
    return SimpleNamespace(**names)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(3))
def test_golden_targets_and_losses(reference: SimpleNamespace, seed: int) -> None:
    """Targets, and the loss of every task with its IoU parts; legacy, since the authors' IoU loss mixes its axes.

    An unknown velocity makes the authors' loss NaN: their data set puts 0 in its place.
    """
    rng = np.random.default_rng(seed)
    truth = [(boxes.nan_to_num(), labels) for boxes, labels in (random_truth(rng, 6) for _ in range(2))]
    assigner = reference.FCOSAssigner(
        out_size_factor=8,
        tasks=[ConfigDict(class_names=names) for names in TASKS],
        dense_reg=1,
        gaussian_overlap=0.1,
        max_objs=500,
        min_radius=2,
        mapping={name: index + 1 for index, name in enumerate(CLASSES)},
        grid_size=GRID["grid_size"],
        pc_range=GRID["point_cloud_range"],
        voxel_size=GRID["voxel_size"],
        assign_topk=9,
        with_velocity=True,
    )
    rows = torch.stack([torch.cat([boxes, labels[:, None] + 1.0], dim=1) for boxes, labels in truth])
    expected = assigner.assign_targets(rows.clone())
    head = make_head(legacy=True)
    samples = [instances(boxes, labels) for boxes, labels in truth]
    for task, found in enumerate(head.get_targets(samples)):
        torch.testing.assert_close(found.heatmap, expected["heatmap"][task], rtol=0, atol=0)
        mask = expected["mask"][task]
        assert torch.equal(found.row * 30 + found.column, expected["ind"][task][mask])
        torch.testing.assert_close(found.boxes, expected["box_encoding"][task][mask], rtol=0, atol=2e-4, equal_nan=True)

    with torch.no_grad():
        maps = head([torch.randn(2, 8, 30, 30)])
        losses = head.loss_by_feat(maps, samples)
    theirs = reference.CenterHeadIouAware.__new__(reference.CenterHeadIouAware)
    theirs.dataset, theirs.out_size_factor, theirs.iou_weight = "nuscenes", 8, 5.0
    theirs.code_weights = GRID["code_weights"]
    theirs.proposal_layer = SimpleNamespace(voxel_size=GRID["voxel_size"])
    theirs.crit, theirs.crit_reg = reference.FocalLoss(0.25, 2), reference.CenterNetRegLoss()
    theirs.crit_iou_aware, theirs.auto_loss = reference.CenterNetRegLoss(), reference.AutomaticWeightedLoss(12)
    theirs._sigmoid = lambda logits: torch.clamp(logits.sigmoid(), min=1e-4, max=1 - 1e-4)
    named = [{("hm" if key == "heatmap" else key): value for key, value in task[0].items()} for task in maps]
    total, parts = theirs.get_loss({"multi_head_features": named, **expected})
    for task in range(3):
        ours = sum(value for name, value in losses.items() if name.startswith(f"task{task}."))
        assert ours.item() == pytest.approx(parts[f"task_{task}/loss"], rel=2e-5)
    assert sum(losses.values()).item() == pytest.approx(total.item(), rel=2e-5)
