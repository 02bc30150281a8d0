"""TiG-BEV: worked numbers, float64 loops after the formulas, and properties."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perceptkd.core.distiller import Step
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.tigbev import (
    TiGBEV,
    box_grid,
    expected_depth,
    foreground_depth,
    inner_depth_loss,
    inter_channel_loss,
    inter_keypoint_loss,
    smallest_of_groups,
)
from perceptkd.models.bev.geometry import build_frustum
from perceptkd.registry import DISTILLERS

Make = Callable[..., Any]
EXTENT = (-16.0, -16.0, 16.0, 16.0)
BOXES = [[(5.0, 2.0, 4.6, 2.0, 0.5), (-9.0, 8.0, 8.0, 3.0, 1.0)], [(0.0, -3.0, 4.6, 2.0, 0.1)]]
BINS = (2.0, 34.0, 0.8)
ONE = torch.tensor(1.0)


def bev_taps(bev_map: Tensor, *, layout: str = "yx", **more: Tap) -> dict[str, Tap]:
    specs = {name: TapSpec(name, layout=layout, extent=EXTENT) for name in ("keypoint", "channel")}
    return {**{name: Tap(spec, [bev_map]) for name, spec in specs.items()}, **more}


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 6, 20, 20)
    return student.requires_grad_(), teacher.requires_grad_()


@pytest.fixture
def camera_step(make_batch: Make) -> Callable[..., tuple[Step, Tensor]]:
    """camera_step(boxes=6) -> a step of two samples with six cameras and LiDAR points, and depth logits for it."""

    def make(*, boxes: int = 6) -> tuple[Step, Tensor]:
        torch.manual_seed(1)
        batch = make_batch(2, size=(64, 128), boxes=boxes, points=400, reach_m=15.0)
        student = nn.Module()
        student.camera_encoder = nn.Module()
        student.camera_encoder.view_transform = nn.Module()
        frustum = build_frustum((64, 128), (8, 16), depth_bins_m=torch.arange(*BINS))
        student.camera_encoder.view_transform.register_buffer("frustum", frustum)
        logits = torch.randn(12, len(frustum), 8, 16, requires_grad=True)
        return Step(batch=batch, data_samples=batch["data_samples"], student_model=student), logits

    return make


def depth_tap(logits: Tensor) -> Tap:
    return Tap(TapSpec("depth"), [logits])


class TestKeyPoints:
    def test_are_spread_from_edge_to_edge_of_the_enlarged_box(self) -> None:
        points = box_grid(torch.tensor([[10.0, 5.0, 4.0, 2.0, 0.0]]), num_points=(24, 24), margin_m=1.6)[0]
        assert points.shape == (576, 2)
        assert points.amin(0).tolist() == pytest.approx([10 - 3.6, 5 - 2.6])
        assert points.amax(0).tolist() == pytest.approx([10 + 3.6, 5 + 2.6])
        grid = points.view(24, 24, 2)
        assert torch.allclose(grid.diff(dim=0)[..., 0], torch.tensor(7.2 / 23), atol=1e-5)
        assert torch.allclose(grid.diff(dim=1)[..., 1], torch.tensor(5.2 / 23), atol=1e-5)

    def test_turn_with_the_box(self) -> None:
        straight, turned = (torch.tensor([[0.0, 0.0, 4.0, 2.0, yaw]]) for yaw in (0.0, math.pi / 2))
        first, second = (box_grid(box, num_points=(3, 5), margin_m=0.5)[0] for box in (straight, turned))
        assert torch.allclose(second, torch.stack((-first[:, 1], first[:, 0]), dim=1), atol=1e-6)


class TestGroups:
    def test_takes_the_first_of_equal_ones(self) -> None:
        value, group = torch.tensor([2.0, 1.0, 1.0, 0.0, 3.0]), torch.tensor([5, 5, 5, 9, 2])
        assert smallest_of_groups(value, group).tolist() == [4, 1, 3]

    def test_of_nothing_is_nothing(self) -> None:
        assert smallest_of_groups(torch.zeros(0), torch.zeros(0, dtype=torch.long)).tolist() == []


class TestInnerDepth:
    def test_expectation_of_the_bins(self) -> None:
        logits = torch.tensor([[0.1, 0.2, 0.7], [1.0, 1.0, 1e-6]]).log()
        assert expected_depth(logits, torch.tensor([2.0, 3.0, 4.0])).tolist() == pytest.approx([3.6, 2.5], abs=1e-5)

    def test_worked_example(self) -> None:
        """Errors -0.5, 1 | 2, 2.5, 0 | 7: references -0.5, 0 and 7; residuals 0, 1.5 | 2, 2.5, 0 | 0."""
        teacher = torch.tensor([10.5, 11.0, 20.0, 21.0, 22.0, 30.0])
        student = torch.tensor([10.0, 12.0, 22.0, 23.5, 22.0, 37.0], requires_grad=True)
        target = torch.tensor([3, 3, 8, 8, 8, 1])
        loss = inner_depth_loss(student, teacher, target, num_pixels=torch.tensor(6.0))
        assert loss.item() == pytest.approx((1.5**2 + 2**2 + 2.5**2) / 6)
        loss.backward()
        assert (student.grad * 3).tolist() == pytest.approx([0, 1.5, 2, 2.5, 0, 0])

    def test_an_object_that_is_only_moved_costs_nothing(self) -> None:
        teacher, target = torch.rand(30) * 30, torch.arange(30) % 4
        moved = teacher + torch.tensor([0.0, 5.0, -3.0, 0.25])[target]
        assert inner_depth_loss(moved, teacher, target, num_pixels=ONE) < 1e-9

    def test_gradient_reaches_the_student_only(self) -> None:
        student, teacher = (torch.rand(9, requires_grad=True) for _ in range(2))
        inner_depth_loss(student, teacher, torch.arange(9) % 2, num_pixels=ONE).backward()
        assert student.grad.abs().sum() > 0
        assert teacher.grad is None

    def test_agrees_with_a_loop(self) -> None:
        rng = np.random.default_rng(0)
        student, teacher, target = rng.uniform(2, 30, 200), rng.uniform(2, 30, 200), rng.integers(0, 17, 200)
        total = 0.0
        for index in range(17):
            of_object = [(s, d) for s, d, t in zip(student, teacher, target) if t == index]
            s_r, d_r = min(of_object, key=lambda pair: abs(pair[0] - pair[1]))
            total += sum(((s - s_r) - (d - d_r)) ** 2 for s, d in of_object)
        ours = inner_depth_loss(*map(torch.from_numpy, (student, teacher, target)), num_pixels=torch.tensor(200.0))
        assert ours.item() == pytest.approx(total / 200, rel=1e-9)


class TestForegroundDepth:
    """Features of 10 x 10 pixels, 2 rows and 3 columns, bins at 2, 3, 4 and 5 m."""

    frustum = build_frustum((20, 30), (2, 3), depth_bins_m=torch.arange(2.0, 6.0))

    def test_the_nearest_point_of_a_pixel_decides(self) -> None:
        points = [(5.0, 5, 3.5), (9, 1, 2.5), (25, 15, 4), (24, 11, 3), (15, 5, 3), (14, 6, 4.0)]
        boxes = torch.tensor([0, 0, 1, -1, 1, 0])
        pixel, depth, target = foreground_depth([torch.tensor([points])], [boxes], self.frustum)
        assert pixel.tolist() == [0, 1]  # the pixel of the third and fourth point shows background
        assert depth.tolist() == [2.5, 3.0]
        assert len(target.unique()) == 2

    def test_only_what_is_in_the_image_and_the_range(self) -> None:
        outside = [(-0.1, 5.0, 3.0), (30.1, 5, 3), (5, -0.1, 3), (5, 20.1, 3), (5, 5, 1.9), (5, 5, 6.1), (5, 5, -3)]
        boxes = torch.zeros(len(outside), dtype=torch.int32)
        assert all(len(part) == 0 for part in foreground_depth([torch.tensor([outside])], [boxes], self.frustum))
        inside = torch.tensor([[(0.1, 0.1, 2.0), (29.9, 19.9, 5.9)]])
        assert foreground_depth([inside], [boxes[:2]], self.frustum)[0].tolist() == [0, 5]

    def test_every_view_and_sample_has_its_own_objects(self) -> None:
        points = torch.tensor([(5.0, 5.0, 3.0), (25.0, 5.0, 4.0)]).expand(2, 2, 3)
        pixel, _, target = foreground_depth(
            [points, points], [torch.tensor([0, 0]), torch.tensor([1, 0])], self.frustum
        )
        assert pixel.tolist() == [0, 2, 6, 8, 12, 14, 18, 20]
        first, second = target[:4].view(2, 2), target[4:]
        assert (first[:, 0] == first[:, 1]).all()
        assert len(second.unique()) == 4
        assert len(target.unique()) == 6


def loop_relation(student: np.ndarray, teacher: np.ndarray) -> float:
    """Sum over boxes of the mean over rows of the squared distance, rows compared one by one."""
    total = 0.0
    for first, second in zip(student, teacher):
        rows = []
        for i in range(len(first)):
            a, b = (np.array([side[i] @ side[j] for j in range(len(side))]) for side in (first, second))
            a, b = a / math.sqrt(a @ a), b / math.sqrt(b @ b)
            rows.append(((a - b) ** 2).sum())
        total += sum(rows) / len(rows)
    return total


class TestRelations:
    def test_agree_with_a_loop(self) -> None:
        rng = np.random.default_rng(0)
        student, teacher = rng.standard_normal((3, 9, 4)), rng.standard_normal((3, 9, 5))
        tensors = torch.from_numpy(student), torch.from_numpy(teacher)
        expected = loop_relation(student, teacher) / 1.5
        assert inter_keypoint_loss(*tensors, num_boxes=torch.tensor(1.5)).item() == pytest.approx(expected, rel=1e-9)
        wide = rng.standard_normal((3, 9, 4))
        expected = loop_relation(student.transpose(0, 2, 1), wide.transpose(0, 2, 1)) / 1.5
        ours = inter_channel_loss(tensors[0], torch.from_numpy(wide), num_boxes=torch.tensor(1.5))
        assert ours.item() == pytest.approx(expected, rel=1e-9)

    def test_worked_example(self) -> None:
        """Orthogonal key points against equal ones: rows (1, 0) and (1, 1) / sqrt(2), at a distance of 2 - sqrt(2)."""
        student, teacher = torch.eye(2)[None], torch.ones(1, 2, 2)
        for loss in (inter_keypoint_loss, inter_channel_loss):
            assert loss(student, teacher, num_boxes=ONE).item() == pytest.approx(2 - math.sqrt(2))

    def test_what_does_not_count(self) -> None:
        """Scale, and a rotation of the channels (key points) or of the key points (channels)."""
        torch.manual_seed(0)
        features = torch.randn(2, 9, 4)
        rotation = torch.linalg.qr(torch.randn(9, 9)).Q
        turn = torch.linalg.qr(torch.randn(4, 4)).Q
        assert inter_keypoint_loss(3 * features @ turn, features, num_boxes=ONE) < 1e-9
        assert inter_channel_loss(3 * rotation @ features, features, num_boxes=ONE) < 1e-9
        assert inter_keypoint_loss(rotation @ features, features, num_boxes=ONE) > 1e-3
        assert inter_channel_loss(features @ turn, features, num_boxes=ONE) > 1e-3

    def test_empty_key_points_have_a_finite_gradient(self) -> None:
        student = torch.zeros(1, 4, 3, requires_grad=True)
        inter_keypoint_loss(student, torch.rand(1, 4, 3), num_boxes=ONE).backward()
        assert student.grad.isfinite().all()


class TestMethod:
    def test_builds_with_the_published_options(self) -> None:
        method = DISTILLERS.build({"type": "perceptkd.TiGBEV", "teacher": "lidar"})
        assert method.weights == {"inner_depth": 1.0, "inter_channel": 10.0, "inter_keypoint": 100.0}
        assert method.grid == {"num_points": (24, 24), "margin_m": 1.6}
        assert {name: str(tap) for name, tap in method.student_taps.items()} == {
            "keypoint": "neck[0]", "channel": "neck[0]", "depth": "camera_encoder[1]",
        }  # fmt: skip
        assert set(method.paired_aliases) == {"keypoint", "channel"}

    def test_terms_are_positive_and_only_the_student_gets_gradient(self, maps: tuple, camera_step: Make) -> None:
        student, teacher = maps
        step, logits = camera_step()
        taps = bev_taps(student, depth=depth_tap(logits)), bev_taps(teacher)
        terms = TiGBEV(num_points=(4, 3)).loss(*taps, step)
        assert set(terms) == {"inner_depth", "inter_channel", "inter_keypoint"}
        for term, source in (("inner_depth", logits), ("inter_channel", student), ("inter_keypoint", student)):
            assert terms[term].shape == ()
            assert terms[term] > 0.01
            (gradient,) = torch.autograd.grad(terms[term], source, retain_graph=True)
            assert gradient.abs().sum() > 0
        sum(terms.values()).backward()
        assert teacher.grad is None

    def test_equal_maps_cost_nothing(self, maps: tuple, make_step: Make) -> None:
        terms = TiGBEV(inner_depth=False).loss(bev_taps(maps[0]), bev_taps(maps[0].detach()), make_step(BOXES))
        assert max(terms.values()) < 1e-9

    def test_a_batch_without_boxes_gives_connected_zeros(self, maps: tuple, camera_step: Make) -> None:
        step, logits = camera_step(boxes=0)
        terms = TiGBEV().loss(bev_taps(maps[0], depth=depth_tap(logits)), bev_taps(maps[1]), step)
        assert all(value == 0 for value in terms.values())
        sum(terms.values()).backward()
        assert maps[0].grad.abs().max() == 0
        assert logits.grad.abs().max() == 0

    @pytest.mark.parametrize(("margin_m", "counts"), [(1.0, False), (4.5, True)])
    def test_reads_the_enlarged_boxes_alone(self, maps: tuple, make_step: Make, margin_m: float, counts: bool) -> None:
        """Column 16, from x = 9.6 m on, changes; the box ends at x = 6 m."""
        step = make_step([[(4.0, 4.0, 4.0, 2.0, 0.0)]])
        student, teacher = (side[:1].detach() for side in maps)
        changed = student.clone()
        changed[..., 16] += 5.0
        method = TiGBEV(inner_depth=False, margin_m=margin_m)
        first, second = (method.loss(bev_taps(side), bev_taps(teacher), step) for side in (student, changed))
        assert [bool(first[term] != second[term]) for term in first] == [counts, counts]

    def test_maps_of_another_layout_mean_the_same(self, maps: tuple, make_step: Make) -> None:
        method, step = TiGBEV(inner_depth=False), make_step(BOXES)
        expected = method.loss(bev_taps(maps[0]), bev_taps(maps[1]), step)
        turned = method.loss(bev_taps(maps[0]), bev_taps(maps[1].transpose(2, 3), layout="xy"), step)
        assert {term: value.item() for term, value in turned.items()} == {
            term: pytest.approx(value.item()) for term, value in expected.items()
        }

    def test_pixels_are_averaged_over_ranks(
        self, maps: tuple, camera_step: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        step, logits = camera_step()
        taps = bev_taps(maps[0], depth=depth_tap(logits)), bev_taps(maps[1])
        alone = TiGBEV().loss(*taps, step)["inner_depth"]
        monkeypatch.setattr("perceptkd.distillers.tigbev.all_reduce_mean", lambda count: 3 * count)
        assert TiGBEV().loss(*taps, step)["inner_depth"].item() == pytest.approx(alone.item() / 3, rel=1e-5)

    def test_other_widths_name_the_adapter(self, maps: tuple, make_step: Make) -> None:
        narrow = bev_taps(maps[0][:, :4])
        with pytest.raises(ValueError, match=r"'channel' has 4 channels in the student, 6 in the teacher.*adapter"):
            TiGBEV(inner_depth=False).loss(narrow, bev_taps(maps[1]), make_step(BOXES))

    @pytest.mark.parametrize(
        "options",
        [{"num_points": (1, 4)}, {"num_points": (4,)}, {"margin_m": -1.0}, {"eps": 1e-8}, {"weights": {"x": 1}}],
    )
    def test_wrong_options_raise(self, options: dict) -> None:
        with pytest.raises(ValueError):
            TiGBEV(**options)


class TestDepthTerm:
    def test_agrees_with_a_loop_over_points(self, maps: tuple, camera_step: Make) -> None:
        step, logits = camera_step()
        taps = bev_taps(maps[0], depth=depth_tap(logits)), bev_taps(maps[1])
        ours = TiGBEV().loss(*taps, step)["inner_depth"].item()
        assert ours == pytest.approx(loop_inner_depth(step, logits.detach().double().numpy()), rel=1e-4)

    def test_the_augmentation_of_the_scene_is_undone(self, maps: tuple, camera_step: Make) -> None:
        """Turned and scaled scenes have the depth of the cameras."""
        step, logits = camera_step()
        taps = bev_taps(maps[0], depth=depth_tap(logits)), bev_taps(maps[1])
        expected = TiGBEV().loss(*taps, step)["inner_depth"].item()
        for points, sample in zip(step.batch["inputs"]["points"], step.data_samples):
            boxes = sample.gt_instances_3d.bboxes_3d
            turn = 1.1 * turned(0.3)
            points[:, :3] = points[:, :3] @ turn.T
            boxes.rotate(0.3)
            boxes.scale(1.1)
            augmentation = np.eye(4)
            augmentation[:3, :3] = turn
            sample.set_metainfo({"lidar_aug_matrix": augmentation})
        assert TiGBEV().loss(*taps, step)["inner_depth"].item() == pytest.approx(expected, rel=1e-3)

    def test_points_of_earlier_sweeps_do_not_count(self, maps: tuple, camera_step: Make) -> None:
        step, logits = camera_step()
        taps = bev_taps(maps[0], depth=depth_tap(logits)), bev_taps(maps[1])
        expected = TiGBEV().loss(*taps, step)["inner_depth"]
        clouds = step.batch["inputs"]["points"]
        old = [torch.cat((cloud[:, :3] * 0.9, cloud[:, 3:4], cloud[:, 4:] + 0.05), dim=1) for cloud in clouds]
        step.batch["inputs"]["points"] = [torch.cat(pair) for pair in zip(clouds, old)]
        assert TiGBEV().loss(*taps, step)["inner_depth"] == expected

    def test_can_be_left_out(self, maps: tuple, make_step: Make) -> None:
        method = TiGBEV(inner_depth=False)
        assert set(method.weights) == {"inter_channel", "inter_keypoint"}
        assert "depth" not in method.student_taps
        assert set(method.loss(bev_taps(maps[0]), bev_taps(maps[1]), make_step(BOXES))) == set(method.weights)

    def test_what_it_lacks_is_named(self, maps: tuple, camera_step: Make) -> None:
        step, logits = camera_step()
        taps = bev_taps(maps[0], depth=depth_tap(logits)), bev_taps(maps[1])
        cut = [cloud[:, :4] for cloud in step.batch["inputs"]["points"]]
        for broken, words in (
            (Step(step.batch, step.data_samples), "no depth bins.*inner_depth=False"),
            (
                Step({"inputs": {}}, step.data_samples, student_model=step.student_model),
                "LiDAR points.*inner_depth=False",
            ),
            (Step({"inputs": {"points": cut}}, step.data_samples, student_model=step.student_model), "and age"),
        ):
            with pytest.raises(ValueError, match=words):
                TiGBEV().loss(*taps, broken)


def turned(yaw: float) -> Tensor:
    """Rotation matrix about z."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    return torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def loop_inner_depth(step: Step, logits: np.ndarray) -> float:
    """The depth term one point at a time: 64 x 128 pixels, features of 8 x 8, bins of BINS."""
    bins = np.arange(*BINS)
    total, count = 0.0, 0
    for index, (cloud, sample) in enumerate(zip(step.batch["inputs"]["points"], step.data_samples)):
        boxes = sample.gt_instances_3d.bboxes_3d.tensor.double().numpy()
        for view in range(6):
            camera = sample.cam2img[view] @ sample.lidar2cam[view]
            nearest: dict[tuple[int, int], tuple[float, int]] = {}
            for point in cloud[:, :3].double().numpy():
                u, v, depth = (camera @ [*point, 1.0])[:3]
                row, column = (math.floor(value / depth / 8) if depth > 0 else -1 for value in (v, u))
                in_image = 0 <= row < 8 and 0 <= column < 16 and BINS[0] <= depth < bins[-1] + BINS[2]
                if in_image and depth < nearest.get((row, column), (math.inf, 0))[0]:
                    nearest[row, column] = depth, first_box(point, boxes)
            for box in range(len(boxes)):
                pairs = []
                for (row, column), (depth, owner) in nearest.items():
                    if owner == box:
                        weights = np.exp(logits[6 * index + view, :, row, column])
                        pairs.append((weights @ bins / weights.sum(), depth))
                if pairs:
                    s_r, d_r = min(pairs, key=lambda pair: abs(pair[0] - pair[1]))
                    total += sum(((s - s_r) - (d - d_r)) ** 2 for s, d in pairs)
                    count += len(pairs)
    assert count > 20
    return total / count


def first_box(point: np.ndarray, boxes: np.ndarray) -> int:
    for number, (x, y, z, length, width, height, yaw) in enumerate(boxes[:, :7]):
        a, b = point[0] - x, point[1] - y
        along, across = math.cos(yaw) * a + math.sin(yaw) * b, math.cos(yaw) * b - math.sin(yaw) * a
        if abs(along) < length / 2 and abs(across) < width / 2 and 0 <= point[2] - z <= height:
            return number
    return -1
