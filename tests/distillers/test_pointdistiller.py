"""PointDistiller: worked examples of the released code, and properties of graphs and loss.

Examples A to C have linear edge encoders, without norm and activation: channel 0 of the output is channel 0 of the
neighbour, channel 1 that of the centre.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from perceptkd.core.distiller import Step
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.pointdistiller import PointDistiller, graph_weights

A_TEACHER = [(0.0, 0.0), (1.0, 0.0), (5.0, 0.0), (6.0, 0.0), (20.0, 0.0)]
A_STUDENT = [(0.0,), (2.0,), (5.0,), (7.0,), (0.0,)]
A_COUNTS = [32, 32, 3, 31, 1]
B_TEACHER = [[[0.0, 1.0], [4.0, 5.0]], [[0.0, 0.0], [1.0, 0.0]]]
B_STUDENT = [[[0.0, 2.0], [3.0, 5.0]]]


def taps(**values: Any) -> dict[str, Tap]:
    return {alias: Tap(TapSpec(alias), [value]) for alias, value in values.items()}


def voxel_taps(student: Tensor, teacher: Tensor, coors: Tensor, counts: Tensor) -> tuple[dict[str, Tap], ...]:
    return taps(feature=student, coors=coors), taps(feature=teacher, coors=coors, num_points=counts)


def voxels(count: int, *, samples: int = 1) -> Tensor:
    """Coordinates (sample, z, y, x) [samples * count, 4]."""
    index = torch.arange(count)
    return torch.cat(
        [torch.stack((torch.full_like(index, n), 0 * index, index // 7, index % 7), 1) for n in range(samples)]
    )


def linear_encoders(distiller: PointDistiller) -> PointDistiller:
    """Output channel 0: channel 0 of the first half of an edge, channel 1: of the second."""
    for encoder in (*distiller.student_encoders, *distiller.teacher_encoders):
        channels = encoder.weight.shape[1] // 2
        weight = torch.zeros(2, 2 * channels)
        weight[0, 0] = weight[1, channels] = 1.0
        encoder.weight.data = weight
        encoder.after = nn.Identity()
    return distiller


def build(**options: Any) -> PointDistiller:
    distiller = PointDistiller(**{"student_channels": 1, "teacher_channels": 2, "out_channels": 2, **options})
    distiller.build_adapters()
    return distiller


def weighted(distiller: PointDistiller, *sides: dict[str, Tap]) -> float:
    return distiller.loss(*sides, Step())["graph"].item() * distiller.weight("graph", 0.0)


def example_a(**options: Any) -> float:
    sides = voxel_taps(torch.tensor(A_STUDENT), torch.tensor(A_TEACHER), voxels(5), torch.tensor(A_COUNTS))
    return weighted(linear_encoders(build(num_samples=3, k=2, **options)), *sides)


class TestExampleA:
    """Centres 0, 1 and 3 with neighbours {0, 1}, {1, 0} and {3, 2}: sums of squares 1, 3 and 3 of 12 elements."""

    def test_released(self) -> None:
        assert example_a(released=True) == 1.0

    def test_released_with_differences(self) -> None:
        assert example_a(released=True, edge="sub") == 1.0

    def test_released_without_weights_is_a_norm(self) -> None:
        assert example_a(released=True, reweight="none") == pytest.approx(5e-4 * 7**0.5, rel=1e-6)
        assert example_a(released=True, reweight="none") == pytest.approx(0.00132288, abs=5e-9)

    def test_published_softmax(self) -> None:
        assert example_a(reweight="raw", tau=1.0) == pytest.approx(1.077681, abs=5e-7)

    def test_without_weights(self) -> None:
        assert example_a(reweight="none") == pytest.approx(7 / 6)

    def test_importance_in_units_of_its_deviation(self) -> None:
        """Counts 32, 32 and 31 deviate by sqrt(2) / 3."""
        importance = torch.tensor([32.0, 32.0, 31.0]) / (2**0.5 / 3)
        weight = 3 * importance.softmax(0)
        expected = 2 * (weight @ torch.tensor([1.0, 3.0, 3.0])).item() / 12
        assert example_a() == pytest.approx(expected, rel=1e-6)
        assert example_a(tau=1e6) == pytest.approx(7 / 6)

    def test_released_number_of_voxels_is_that_of_a_batch(self) -> None:
        distiller = build(released=True)
        assert (distiller.num_samples, distiller.k) == (6000, 128)
        assert build().num_samples == 1000


def example_b(copies: int = 1, **options: Any) -> float:
    sides = (taps(feature=torch.tensor([value] * copies)) for value in (B_STUDENT, B_TEACHER))
    return weighted(linear_encoders(build(on="maps", num_samples=2, k=2, **options)), *sides)


class TestExampleB:
    """Cells 3 and 2, each with both as neighbours: sums of squares 1 and 3 of 8 elements."""

    @pytest.mark.parametrize("copies", [1, 2, 3])
    def test_released_loss_grows_with_the_batch(self, copies: int) -> None:
        assert example_b(copies, released=True) == copies

    @pytest.mark.parametrize("copies", [1, 3])
    def test_loss_does_not(self, copies: int) -> None:
        assert example_b(copies, reweight="none") == 1.0
        assert example_b(copies, reweight="raw") == pytest.approx(0.768941, abs=5e-7)

    def test_released_without_weights_is_a_norm(self) -> None:
        assert example_b(released=True, reweight="none") == pytest.approx(0.001, rel=1e-6)


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize(("pool", "expected"), [("none", 1.0), ("max", 0.5), ("mean", 0.75), (None, 0.5)])
def test_example_c(pool: str | None, expected: float, released: bool) -> None:
    """The cells of example B as points; weights change nothing in the release."""
    xyz = torch.rand(1, 4, 3)
    sides = (taps(feature=torch.tensor([value]).flatten(2), xyz=xyz) for value in (B_STUDENT, B_TEACHER))
    options = {} if released else {"reweight": "none"}
    distiller = build(on="points", num_samples=2, k=2, pool=pool, released=released, **options)
    assert weighted(linear_encoders(distiller), *sides) == pytest.approx(expected)


def test_example_d_voxels_are_paired_by_coordinate() -> None:
    """Teacher rows 0, 1 and 3 go with student rows 3, 0 and 2."""
    teacher_coors = torch.tensor([[0, 0, 0, 1], [0, 0, 2, 3], [1, 0, 0, 0], [1, 0, 5, 5]])
    student_coors = torch.tensor([[0, 0, 2, 3], [0, 0, 9, 9], [1, 0, 5, 5], [0, 0, 0, 1]])
    student, teacher = torch.arange(4.0)[:, None], 10 * torch.arange(4.0)[:, None]
    sides = (
        taps(feature=student, coors=student_coors),
        taps(feature=teacher, coors=teacher_coors, num_points=torch.tensor([5, 6, 7, 8])),
    )
    distiller = build(teacher_channels=1)
    items = distiller._voxels(student, teacher, *sides, Step())
    pairs = sorted(zip(items.teacher[:, 0].tolist(), items.student[:, 0].tolist(), items.sample.tolist()))
    assert pairs == [(0, 3, 0), (10, 0, 0), (30, 2, 1)]
    assert sorted(items.importance.tolist()) == [5, 6, 8]


def random_sides(
    *, samples: int = 2, count: int = 40, channels: tuple[int, int] = (3, 6), seed: int = 0
) -> tuple[dict[str, Tap], dict[str, Tap]]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(samples * count, width, generator=generator) for width in channels)
    counts = torch.rand(samples * count, generator=generator)  # without ties
    return voxel_taps(student.requires_grad_(), teacher.requires_grad_(), voxels(count, samples=samples), counts)


def small(**options: Any) -> PointDistiller:
    torch.manual_seed(0)
    return build(
        **{"student_channels": 3, "teacher_channels": 6, "out_channels": 4, "num_samples": 9, "k": 5} | options
    )


@pytest.mark.parametrize("released", [True, False])
def test_property_1_the_order_of_voxels_does_not_matter(released: bool) -> None:
    sides, distiller = random_sides(), small(released=released)
    expected = distiller.loss(*sides, Step())["graph"]
    order = [torch.randperm(80), torch.randperm(80)]
    shuffled = [
        {alias: tap.map(lambda tensor, rows=rows: tensor[rows]) for alias, tap in side.items()}
        for side, rows in zip(sides, order)
    ]
    assert torch.allclose(distiller.loss(*shuffled, Step())["graph"], expected, rtol=1e-5)


@pytest.mark.parametrize("pool", ["none", "max"])
def test_property_2_the_same_features_through_the_same_encoder_cost_nothing(pool: str) -> None:
    student, teacher = random_sides(channels=(6, 6))
    distiller = small(student_channels=6, pool=pool)
    distiller.student_encoders.load_state_dict(distiller.teacher_encoders.state_dict())
    same = {**student, "feature": teacher["feature"]}
    assert distiller.loss(same, teacher, Step())["graph"] == 0
    assert (
        distiller.loss({**student, "feature": teacher["feature"].map(lambda f: f.flip(0))}, teacher, Step())["graph"]
        > 0
    )


def test_property_3_and_4_gradient_reaches_the_students_part_of_the_graphs_alone() -> None:
    student, teacher = random_sides()
    distiller = small()
    distiller.loss(student, teacher, Step())["graph"].backward()
    items = distiller._voxels(student["feature"].value, teacher["feature"].value, student, teacher, Step())
    graphs = list(distiller._graphs(items, torch.Generator()))
    expected = {row for graph in graphs for row in (*graph.centre.tolist(), *graph.neighbour.flatten().tolist())}
    reached = set(student["feature"].value.grad.abs().sum(1).nonzero()[:, 0].tolist())
    assert reached == expected
    assert 0 < len(expected) < 80
    assert teacher["feature"].value.grad is None
    assert [name for name, weight in distiller.named_parameters() if weight.grad is None] == [
        name for name, _ in distiller.named_parameters() if name.startswith("teacher_encoders")
    ]


def test_graphs_stay_within_their_sample_unless_released() -> None:
    student, teacher = random_sides(samples=3)
    crossing = {}
    for released in (False, True):
        distiller = small(released=released, num_samples=40)
        items = distiller._voxels(student["feature"].value, teacher["feature"].value, student, teacher, Step())
        graphs = list(distiller._graphs(items, torch.Generator()))
        ends = [(items.sample[graph.centre][:, None] != items.sample[graph.neighbour]).float() for graph in graphs]
        crossing[released] = (len(graphs), torch.cat(ends).mean().item())
    assert crossing[False] == (3, 0.0)
    assert crossing[True][0] == 1
    assert 0.4 < crossing[True][1] < 0.7  # chance, but for the centre itself, is 2 / 3


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4), num_samples=st.integers(1, 15), k=st.integers(1, 15)
)
def test_property_7_fewer_voxels_than_centres_or_neighbours(counts: list[int], num_samples: int, k: int) -> None:
    """And samples without any: the loss is finite, and so is its gradient."""
    coors = torch.cat([voxels(count) + torch.tensor([number, 0, 0, 0]) for number, count in enumerate(counts)])
    total = sum(counts)
    student, teacher = torch.randn(total, 3, requires_grad=True), torch.randn(total, 6)
    distiller = small(num_samples=num_samples, k=k)
    loss = distiller.loss(*voxel_taps(student, teacher, coors, torch.rand(total)), Step())["graph"]
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert distiller.student_encoders[0].weight.grad.isfinite().all()
    sizes = [min(num_samples, count) * min(k, count) for count in counts]
    assert (loss == 0) or sum(sizes) >= 2


@pytest.mark.parametrize("trains", [True, False])
def test_no_voxels_give_a_zero_that_is_connected_to_all_that_is_trained(trains: bool) -> None:
    """Otherwise DDP waits for gradients that do not come."""
    distiller = small(train_teacher_encoder=trains)
    student = torch.zeros(0, 3, requires_grad=True)
    sides = voxel_taps(student, torch.zeros(0, 6), voxels(0), torch.zeros(0))
    loss = distiller.loss(*sides, Step())["graph"]
    loss.backward()
    assert loss == 0
    assert student.grad.shape == (0, 3)
    trained = [weight for weight in distiller.parameters() if weight.requires_grad]
    assert len(trained) == (6 if trains else 3)
    assert all(weight.grad is not None and not weight.grad.any() for weight in trained)


class TestNoise:
    """Property 10: a student of fresh noise cannot follow, so that only a collapse brings the loss down."""

    teacher = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))

    def train(self, **options: Any) -> tuple[float, float, float]:
        """The loss after 300 steps, what a constant student would cost, and how much the teacher's edges still vary."""
        torch.manual_seed(0)
        distiller = build(student_channels=8, teacher_channels=16, out_channels=8, num_samples=48, k=12, **options)
        optimizer = torch.optim.AdamW([w for w in distiller.parameters() if w.requires_grad], lr=1e-2)
        counts, coors = torch.rand(400), voxels(400)
        variance = []
        for step in range(300):
            sides = voxel_taps(torch.randn(400, 8), self.teacher, coors, counts)
            loss = 2 * distiller.loss(*sides, Step())["graph"]
            if step in (0, 299):
                items = distiller._voxels(sides[0]["feature"].value, self.teacher, *sides, Step())
                (edges,) = distiller.teacher_encoders[0](
                    self.teacher, list(distiller._graphs(items, torch.Generator()))
                )
                variance.append(edges.flatten(0, 1).var(dim=0).mean().item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item(), 2 * variance[0], variance[1] / variance[0]

    def test_frozen_encoder_of_the_teacher_keeps_the_loss_up(self) -> None:
        loss, floor, kept = self.train(reweight="none")
        assert loss > 0.97 * floor
        assert kept == pytest.approx(1.0)

    def test_trained_encoder_of_the_teacher_collapses(self) -> None:
        loss, floor, kept = self.train(reweight="none", train_teacher_encoder=True)
        assert loss < 0.2 * floor
        assert kept < 0.2

    def test_default_is_frozen_and_the_release_trains(self) -> None:
        for options, trained in (({}, False), ({"released": True}, True), ({"train_teacher_encoder": True}, True)):
            assert {weight.requires_grad for weight in small(**options).teacher_encoders.parameters()} == {trained}


class TestMaps:
    def sides(self, student_size: int = 6) -> tuple[dict[str, Tap], dict[str, Tap]]:
        student = (torch.randn(2, 3, student_size, student_size), torch.randn(2, 5, 3, 3))
        return taps(feature=student), taps(feature=(torch.randn(2, 6, 6, 6), torch.randn(2, 7, 3, 3)))

    def test_levels_add_up(self) -> None:
        options = {"on": "maps", "out_channels": 4, "num_samples": 4, "k": 3}
        sides = self.sides()
        both = small(student_channels=[3, 5], teacher_channels=[6, 7], **options)
        total = both.loss(*sides, Step())["graph"]
        parts = []
        for level, channels in enumerate(((3, 6), (5, 7))):
            one = small(student_channels=channels[0], teacher_channels=channels[1], **options)
            one.student_encoders[0], one.teacher_encoders[0] = (
                both.student_encoders[level],
                both.teacher_encoders[level],
            )
            parts.append(one.loss(*(taps(feature=side["feature"].value[level]) for side in sides), Step())["graph"])
        assert total.item() == pytest.approx(sum(parts).item(), rel=1e-6)

    def test_a_single_map_of_another_size_is_brought_to_the_teachers(self) -> None:
        student, teacher = torch.randn(2, 3, 3, 3), torch.randn(2, 6, 6, 6)
        distiller = small(on="maps")
        found = distiller.loss(taps(feature=student), taps(feature=teacher), Step())["graph"]
        larger = nn.functional.interpolate(student, size=(6, 6), mode="bilinear")
        assert torch.equal(distiller.loss(taps(feature=larger), taps(feature=teacher), Step())["graph"], found)

    def test_the_loss_does_not_depend_on_the_batch_size_unless_released(self) -> None:
        """Property 5, of whole graphs with their norms."""
        student, teacher = torch.randn(1, 3, 6, 6), torch.randn(1, 6, 6, 6)
        for released in (False, True):
            distiller = small(on="maps", released=released)
            losses = [
                distiller.loss(
                    taps(feature=student.repeat(size, 1, 1, 1)), taps(feature=teacher.repeat(size, 1, 1, 1)), Step()
                )["graph"].item()
                for size in (1, 3)
            ]
            assert losses[1] == pytest.approx(losses[0] * (3 if released else 1), rel=1e-4)


def test_points_in_another_order_are_paired_by_position() -> None:
    xyz, teacher = torch.rand(2, 30, 3), torch.randn(2, 6, 30)
    student = torch.randn(2, 3, 30)
    distiller = small(on="points")
    expected = distiller.loss(taps(feature=student, xyz=xyz), taps(feature=teacher, xyz=xyz), Step())["graph"]
    order = torch.randperm(30)
    shuffled = taps(feature=student[:, :, order], xyz=xyz[:, order])
    found = distiller.loss(shuffled, taps(feature=teacher, xyz=xyz), Step())["graph"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    fewer = taps(feature=student[:, :, order[:20]], xyz=xyz[:, order[:20]])
    assert distiller.loss(fewer, taps(feature=teacher, xyz=xyz), Step())["graph"].isfinite()


def test_weights_are_one_on_average() -> None:
    importance = torch.rand(50) * 30
    for mode in ("raw", "standard", "none"):
        assert graph_weights(importance, mode=mode, tau=2.0).mean().item() == pytest.approx(1.0)
    first, second = (graph_weights(scale * importance, mode="standard") for scale in (1.0, 100.0))
    assert torch.allclose(first, second)
    assert torch.equal(graph_weights(torch.full((4,), 7.0), mode="standard"), torch.ones(4))


def test_released_temperature_leaves_the_fullest_voxels_alone() -> None:
    weight = graph_weights(torch.tensor([32.0, 31.0, 32.0, 5.0]), tau=0.01)
    assert weight.tolist() == pytest.approx([2.0, 0.0, 2.0, 0.0])
