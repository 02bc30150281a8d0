"""PVD: worked numbers and properties on hand-made voxels."""

import math
from typing import Any

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, PointData
from torch import Tensor

from perceptkd.core.distiller import Step
from perceptkd.core.errors import InputError
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.pvd import PVD, affinity_difference, divergence, retain, sampling_weights, supervoxels
from perceptkd.registry import DISTILLERS

CLASSES = 3
RARE = 2


def close(value: Tensor | float, expected: float) -> bool:
    return float(value) == pytest.approx(expected, rel=1e-5, abs=1e-7)


class TestParts:
    def test_divergence_of_a_sure_student_from_a_doubting_teacher(self) -> None:
        """0.5 ln(0.5 / 0.9) + 0.5 ln(0.5 / 0.1), and not the other way round, which is 0.3681."""
        student, teacher = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
        assert close(divergence(student + 7, teacher), 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))

    def test_divergence_of_extreme_logits_is_finite(self) -> None:
        student = torch.tensor([[1e4, -1e4]], requires_grad=True)
        divergence(student, torch.tensor([[-1e4, 1e4]])).sum().backward()
        assert student.grad.isfinite().all()

    def test_weights_fall_fivefold_with_rare_classes_and_rise_with_distance(self) -> None:
        weights = sampling_weights(torch.tensor([0.0, 1.0, 2.0, 50.0, 0.0]), torch.tensor([10.0, 10, 10, 10, 50]))
        expected = [10 / 5, 10 / (4 * math.exp(-2) + 1), 10 / (4 * math.exp(-4) + 1), 10.0, 50 / 5]
        assert weights.tolist() == pytest.approx(expected)

    def test_affinity_of_right_angles(self) -> None:
        """Student: two equal rows. Teacher: two orthogonal ones. Two off-diagonal entries differ by 1."""
        student, teacher = torch.tensor([[2.0, 0, 0], [1, 0, 0]]), torch.tensor([[1.0, 0], [0, 3]])
        assert close(affinity_difference(student, teacher, size=2), 2 / 4)
        assert close(affinity_difference(student, teacher, size=4), 2 / 16)  # as with two rows of zeros more
        padded = [torch.cat((side, torch.zeros(2, side.shape[1]))) for side in (student, teacher)]
        assert close(affinity_difference(*padded, size=4), 2 / 16)

    def test_affinity_ignores_scale_and_orthogonal_mixing(self) -> None:
        student, teacher = torch.randn(9, 6), torch.randn(9, 4)
        mixing = torch.linalg.qr(torch.randn(6, 6)).Q
        plain = affinity_difference(student, teacher, size=9).item()
        mixed = affinity_difference(3 * student @ mixing, 0.1 * teacher, size=9).item()
        assert mixed == pytest.approx(plain, rel=1e-4)
        assert close(affinity_difference(student, student @ mixing, size=9), 0.0)

    def test_rows_of_frequent_classes_are_dropped_first(self) -> None:
        is_minority = torch.arange(50) % 10 == 0
        generator = torch.Generator().manual_seed(0)
        kept = retain(is_minority, 20, generator)
        assert len(kept.unique()) == 20
        assert is_minority[kept].sum() == 5
        assert set(retain(is_minority, 3, generator).tolist()) < {0, 10, 20, 30, 40}
        assert retain(is_minority, 50, generator).tolist() == list(range(50))
        draws = [set(retain(is_minority, 20, generator).tolist()) for _ in range(40)]
        assert set().union(*draws) == set(range(50))

    def test_supervoxels_cut_each_sample_at_multiples_of_their_size(self) -> None:
        cells = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 3, 0]])
        owner, supervoxel = supervoxels(cells, (2, 3, 4))
        assert owner.tolist() == [0, 0, 0, 1]
        assert [int(supervoxel[i] == supervoxel[0]) for i in range(5)] == [1, 1, 0, 0, 0]
        assert len(supervoxel.unique()) == 4


def make_scene(samples: int = 2, *, seed: int = 0) -> tuple[Tensor, Step]:
    """Cells of a 4 x 4 x 2 grid per sample, in some order, with 1 to 3 points each; the rare class is in one corner."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.arange(2))
    clouds, data_samples, cells = [], [], []
    for number in range(samples):
        own = grid[torch.randperm(len(grid), generator=generator)[: 20 + number]]
        voxel = torch.repeat_interleave(torch.arange(len(own)), 1 + torch.arange(len(own)) % 3)
        voxel_label = torch.where((own[:, :2] == 3).all(dim=1), RARE, own[:, 0] % 2)
        sample = Det3DDataSample(gt_pts_seg=PointData(pts_semantic_mask=voxel_label[voxel]))
        sample.gt_pts_seg.voxel_semantic_mask = voxel_label
        sample.point2voxel_map = voxel
        clouds.append(torch.cat((own[voxel].float() * 10, torch.zeros(len(voxel), 1)), dim=1))
        data_samples.append(sample)
        cells.append(torch.cat((torch.full((len(own), 1), number), own), dim=1))
    return torch.cat(cells), Step(batch={"inputs": {"points": clouds}}, data_samples=data_samples)


def taps(cells: Tensor, logits: Tensor, features: Tensor) -> dict[str, Tap]:
    values = {"cells": cells, "logits": logits, "features": features}
    return {alias: Tap(TapSpec(alias), [value]) for alias, value in values.items()}


def everything(**options: Any) -> PVD:
    """A distiller that draws every supervoxel and keeps all of their rows."""
    sizes = {"num_supervoxels": 99, "num_points": 100, "num_voxels": 50}
    return PVD(**{"minority_classes": (RARE,), "supervoxel_size": (2, 2, 2), **sizes, **options})


@pytest.fixture
def scene() -> tuple[Tensor, Step]:
    return make_scene()


@pytest.fixture
def sides(scene: tuple[Tensor, Step]) -> tuple[dict[str, Tap], dict[str, Tap]]:
    """Student and teacher with 6 and 8 channels on the same cells, the teacher's in another order."""
    cells, _ = scene
    student = taps(cells, torch.randn(len(cells), CLASSES), torch.randn(len(cells), 6))
    order = torch.randperm(len(cells))
    teacher = taps(cells[order], torch.randn(len(cells), CLASSES), torch.randn(len(cells), 8))
    return student, teacher


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items()}


class TestMethod:
    def test_a_worked_scene(self) -> None:
        """Two voxels in two supervoxels of one sample: three points in the first, one in the second.

        The student is wrong about the first, by a divergence of ln 2 in two classes. Both points and voxels agree in
        features within their supervoxel, so that affinities are equal.
        """
        cells = torch.tensor([[0, 0, 0, 0], [0, 5, 0, 0]])
        sample = Det3DDataSample(gt_pts_seg=PointData(pts_semantic_mask=torch.tensor([0, 0, 1, 0])))
        sample.gt_pts_seg.voxel_semantic_mask = torch.tensor([0, 1])
        sample.point2voxel_map = torch.tensor([0, 0, 1, 0])
        step = Step(batch={"inputs": {"points": [torch.ones(4, 4)]}}, data_samples=[sample])
        student = taps(cells, torch.tensor([[0.0, 0.0], [0.0, 50.0]]), torch.eye(2))
        teacher = taps(cells, torch.tensor([[50.0, 0.0], [0.0, 50.0]]), torch.ones(2, 3))
        terms = everything(minority_classes=()).loss(student, teacher, step)
        assert close(terms["voxel_output"], math.log(2) / (2 * 2))
        assert close(terms["point_output"], 3 * math.log(2) / (4 * 2))
        assert close(terms["voxel_affinity"], 0)
        together = everything(minority_classes=(), supervoxel_size=(9, 9, 9), num_voxels=2, num_points=5)
        terms = together.loss(student, teacher, step)
        assert close(terms["voxel_affinity"], 2 / 4)  # two pairs of voxels that the student finds unlike
        assert close(terms["point_affinity"], (2 * 3) / 25)

    def test_equal_sides_give_zero(self, scene: tuple[Tensor, Step]) -> None:
        cells, step = scene
        both = taps(cells, torch.randn(len(cells), CLASSES), torch.randn(len(cells), 6))
        assert all(close(value, 0) for value in everything().loss(both, both, step).values())

    def test_rows_of_the_teacher_are_found_by_coordinate(self, scene: tuple, sides: tuple) -> None:
        cells, step = scene
        student, teacher = sides
        order = torch.randperm(len(cells))
        shuffled = taps(*(teacher[name].value[order] for name in ("cells", "logits", "features")))
        expected = values(everything().loss(student, teacher, step))
        assert values(everything().loss(student, shuffled, step)) == pytest.approx(expected, rel=1e-5)

    def test_the_order_of_points_changes_nothing(self, scene: tuple, sides: tuple) -> None:
        _, step = scene
        expected = values(everything().loss(*sides, step))
        for number, sample in enumerate(step.data_samples):
            order = torch.randperm(len(sample.point2voxel_map))
            sample.point2voxel_map = sample.point2voxel_map[order]
            sample.gt_pts_seg.pts_semantic_mask = sample.gt_pts_seg.pts_semantic_mask[order]
            step.batch["inputs"]["points"][number] = step.batch["inputs"]["points"][number][order]
        assert values(everything().loss(*sides, step)) == pytest.approx(expected, rel=1e-5)

    def test_only_the_student_gets_gradients(self, scene: tuple, sides: tuple) -> None:
        _, step = scene
        student, teacher = ({name: tap.map(trained) for name, tap in side.items()} for side in sides)
        sum(everything().loss(student, teacher, step).values()).backward()
        for name in ("logits", "features"):
            gradient = student[name].value.grad
            assert gradient.isfinite().all()
            assert (gradient.abs().sum(dim=1) > 0).all()
            assert teacher[name].value.grad is None

    def test_voxels_that_one_side_lacks_are_left_out_with_their_points(self, scene: tuple, sides: tuple) -> None:
        """The student's cap dropped voxels 3 and 30, whose points have no row, and the teacher lacks another."""
        cells, step = scene
        student, teacher = sides
        kept = torch.tensor([row not in (3, 30) for row in range(len(cells))])
        expected_cells = kept.clone()
        expected_cells[10] = False
        lacking = (teacher["cells"].value != cells[10]).any(dim=1)
        teacher = {name: tap.map(lambda value: value[lacking]) for name, tap in teacher.items()}
        capped = {name: tap.map(lambda value: value[kept]) for name, tap in student.items()}
        whole = values(everything().loss(student, teacher, without_points(step, cells, ~expected_cells)))
        for number, sample in enumerate(step.data_samples):
            own = kept[cells[:, 0] == number]
            row = torch.where(own, own.cumsum(0) - 1, -1)
            sample.point2voxel_map = row[sample.point2voxel_map]
            sample.gt_pts_seg.voxel_semantic_mask = sample.gt_pts_seg.voxel_semantic_mask[own]
        found = values(everything().loss(capped, teacher, step))
        points = ("point_output", "point_affinity")
        assert {name: found[name] for name in points} == pytest.approx({name: whole[name] for name in points})

    def test_far_and_rare_supervoxels_are_drawn_in_proportion(self, scene: tuple, sides: tuple) -> None:
        cells, step = make_scene(1)
        distiller = everything(num_supervoxels=1)
        step.generator.manual_seed(0)
        rows = torch.arange(len(cells))
        drawn = torch.tensor([int(distiller._draw(step, cells, rows)[1]) for _ in range(1000)])
        owner, supervoxel = supervoxels(cells, (2, 2, 2))
        labels = step.data_samples[0].gt_pts_seg.voxel_semantic_mask
        distance = 10 * cells[:, 1:3].float().norm(dim=1)
        reach = torch.stack([distance[supervoxel == one].max() for one in range(len(owner))])
        rare = torch.stack([((labels == RARE) & (supervoxel == one)).sum() for one in range(len(owner))])
        weights = reach / (4 * torch.exp(-2.0 * rare) + 1)
        share = torch.bincount(drawn, minlength=len(owner)) / len(drawn)
        assert torch.allclose(share, weights / weights.sum(), atol=0.04)
        assert rare.sum() > 0

    def test_each_sample_has_its_own_draw_without_repetition(self, scene: tuple) -> None:
        cells, step = scene
        _, drawn = everything(num_supervoxels=3)._draw(step, cells, torch.arange(len(cells)))
        owner, _ = supervoxels(cells, (2, 2, 2))
        assert owner[drawn].tolist() == [0, 0, 0, 1, 1, 1]
        assert len(drawn.unique()) == 6

    def test_no_common_voxels_of_empty_sides_give_connected_zeros(self) -> None:
        cells = torch.zeros(0, 4, dtype=torch.long)
        sample = Det3DDataSample(gt_pts_seg=PointData(pts_semantic_mask=torch.zeros(0, dtype=torch.long)))
        sample.gt_pts_seg.voxel_semantic_mask = sample.point2voxel_map = torch.zeros(0, dtype=torch.long)
        step = Step(batch={"inputs": {"points": [torch.zeros(0, 4)]}}, data_samples=[sample])
        student = taps(cells, torch.zeros(0, CLASSES, requires_grad=True), torch.zeros(0, 6, requires_grad=True))
        terms = everything().loss(student, taps(cells, torch.zeros(0, CLASSES), torch.zeros(0, 8)), step)
        assert all(value == 0 and value.requires_grad for value in terms.values())

    def test_other_grids_are_refused(self, scene: tuple, sides: tuple) -> None:
        _, step = scene
        student, teacher = sides
        teacher["cells"] = teacher["cells"].map(lambda cells: cells * 3)
        with pytest.raises(InputError, match="same voxel size"):
            everything().loss(student, teacher, step)

    def test_other_classes_are_refused(self, scene: tuple, sides: tuple) -> None:
        _, step = scene
        student, teacher = sides
        with pytest.raises(InputError, match="3 classes"):
            everything(minority_classes=(CLASSES,)).loss(student, teacher, step)
        teacher["logits"] = teacher["logits"].map(lambda logits: logits[:, :2])
        with pytest.raises(InputError, match="the teacher 2"):
            everything().loss(student, teacher, step)

    def test_a_map_of_other_voxels_is_refused(self, scene: tuple, sides: tuple) -> None:
        _, step = scene
        step.data_samples[0].point2voxel_map[0] = 99
        with pytest.raises(InputError, match=r"perceptkd\.compat"):
            everything().loss(*sides, step)

    @pytest.mark.parametrize(
        "options",
        [{"supervoxel_size": (2, 2)}, {"num_points": 0}, {"supervoxel_size": (2, 0, 2)}, {"minority_classes": (-1,)}],
    )
    def test_impossible_options_are_refused(self, options: dict) -> None:
        with pytest.raises(InputError, match="supervoxel_size is three"):
            everything(**options)


def trained(value: Tensor) -> Tensor:
    return value.detach().requires_grad_() if value.is_floating_point() else value


def without_points(step: Step, cells: Tensor, dropped: Tensor) -> Step:
    """The same step with the points of some voxels in none."""
    samples = []
    for number, sample in enumerate(step.data_samples):
        own = dropped[cells[:, 0] == number]
        copy = sample.clone()
        copy.point2voxel_map = torch.where(own[sample.point2voxel_map], -1, sample.point2voxel_map)
        samples.append(copy)
    return Step(batch=step.batch, data_samples=samples)


def test_is_registered() -> None:
    assert DISTILLERS.get("perceptkd.PVD") is PVD
    assert PVD.background_terms == set(PVD.default_weights)
