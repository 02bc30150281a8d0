"""BEVDistill's dense part: worked numbers, a float64 loop, properties, errors, and the release where present.

The authors' repository is not part of this project; PERCEPTKD_BEVDISTILL_REFERENCE may name a local clone of it.
"""

import ast
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmdet3d.models.utils import draw_heatmap_gaussian, gaussian_radius
from torch import Tensor

from perceptkd.core.geometry import GeometryError
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.bevdistill import BEVDistill, dense_loss, foreground_mask
from perceptkd.registry import DISTILLERS

Make = Callable[..., Any]
EXTENT = (-12.0, -8.0, 12.0, 8.0)  # 16 x 24 cells of 1 m
CAR, TRUCK, CONE = (-5.6, 3.2, 4.6, 2.0, 0.5), (6.3, -2.4, 8.0, 3.0, 1.0), (0.4, 6.5, 0.4, 0.4, 0.0)


def random_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tap(bev_map: Tensor, *, layout: str | None = "yx", extent: Any = EXTENT) -> dict[str, Tap]:
    return {"bev": Tap(TapSpec("neck", layout=layout, extent=extent), [bev_map])}


def mask_of(*samples: Sequence[Sequence[float]], size: tuple[int, int] = (16, 24)) -> Tensor:
    boxes = torch.tensor([box for sample in samples for box in sample]).view(-1, 5)
    index = torch.tensor([i for i, sample in enumerate(samples) for _ in sample], dtype=torch.long)
    return foreground_mask(boxes, index, shape=(len(samples), *size), extent=EXTENT)


def oracle_mask(boxes: Sequence[Sequence[float]]) -> Tensor:
    """CenterPoint's targets by mmdet3d, box by box, without classes."""
    mask = torch.zeros(16, 24)
    for x, y, length, width, _ in boxes:
        radius = max(1, int(gaussian_radius((torch.tensor(length), torch.tensor(width)), min_overlap=0.1)))
        draw_heatmap_gaussian(mask, torch.tensor([int(x + 12), int(y + 8)]), radius)
    return mask


def test_builds_with_the_published_weight() -> None:
    method = DISTILLERS.build({"type": "perceptkd.BEVDistill", "teacher": "lidar"})
    assert method.weights == {"dense": 0.01}
    assert str(method.student_taps["bev"]) == str(method.teacher_taps["lidar"]["bev"]) == "neck[0]"


def test_mask_of_a_small_box_by_hand() -> None:
    """Radius 1: sigma is 1/2, so a neighbour is exp(-2) and a diagonal one exp(-4)."""
    mask = mask_of([CONE])[0]
    assert mask[14, 12] == 1
    side, corner = math.exp(-2), math.exp(-4)
    expected = torch.tensor([[corner, side, corner], [side, 1, side], [corner, side, corner]])
    assert torch.allclose(mask[13:16, 11:14], expected)
    assert mask.sum() == pytest.approx(1.614604, abs=1e-5)


def test_mask_is_that_of_centerpoint() -> None:
    boxes = [CAR, TRUCK, CONE, (-5.0, 3.9, 4.6, 2.0, 0.0)]
    assert torch.allclose(mask_of(boxes)[0], oracle_mask(boxes), atol=1e-6)
    assert torch.equal(mask_of(boxes)[0], torch.stack([mask_of([box])[0] for box in boxes]).amax(dim=0))


def test_mask_keeps_samples_apart_and_leaves_out_centres_beyond_the_map() -> None:
    beyond = [(12.1, 0.0, 8.0, 3.0, 0.0), (0.0, -8.1, 8.0, 3.0, 0.0), (-12.4, 0.0, 8.0, 3.0, 0.0)]
    masks = mask_of([CAR], [], [TRUCK, *beyond])
    assert torch.equal(masks, torch.cat([mask_of([CAR]), mask_of([]), mask_of([TRUCK])]))
    assert masks[1].sum() == 0


def test_loss_by_hand() -> None:
    """Cell (0, 0): 1^2 + 2^2 under weight 1; cell (0, 1): 2^2 + 0 under 0.5; divided by 1.5."""
    student = torch.tensor([[[[1.0, 3.0]], [[2.0, 7.0]]]])
    teacher = torch.tensor([[[[0.0, 1.0]], [[4.0, 7.0]]]])
    mask = torch.tensor([[[1.0, 0.5]]])
    assert dense_loss(student, teacher, mask, total_weight=1.5, eps=1e-6).item() == pytest.approx(7 / 1.5, rel=1e-5)


def test_method_is_the_formula_in_float64(make_step: Make) -> None:
    samples = [[CAR, CONE], [TRUCK]]
    student, teacher = random_map(2, 2, 3, 16, 24)
    total, weight = 0.0, 0.0
    for b, boxes in enumerate(samples):
        mask = oracle_mask(boxes).double()
        for row in range(16):
            for column in range(24):
                difference = (student[b, :, row, column] - teacher[b, :, row, column]).double()
                total += float(mask[row, column] * (difference**2).sum())
                weight += float(mask[row, column])
    value = BEVDistill().loss(tap(student), tap(teacher), make_step(samples))["dense"]
    assert value.item() == pytest.approx(total / (weight + 1e-4), rel=1e-5)


def test_equal_maps_give_zero_and_the_scale_enters_squared(make_step: Make) -> None:
    bev_map, step = random_map(1, 3, 16, 24), make_step([[CAR]])
    assert BEVDistill().loss(tap(bev_map), tap(bev_map), step)["dense"] == 0
    once, thrice = (BEVDistill().loss(tap(k * bev_map), tap(0 * bev_map), step)["dense"] for k in (1, 3))
    assert once > 0.1
    assert thrice.item() == pytest.approx(9 * once.item())


def test_gradient_reaches_the_student_under_the_mask_only(make_step: Make) -> None:
    student, teacher = (side.requires_grad_() for side in random_map(2, 1, 3, 16, 24))
    BEVDistill().loss(tap(student), tap(teacher), make_step([[CAR, TRUCK]]))["dense"].backward()
    assert teacher.grad is None
    assert torch.equal(student.grad.abs().sum(dim=1) > 0, mask_of([CAR, TRUCK]) > 0)


def test_a_batch_without_boxes_gives_a_connected_zero(make_step: Make) -> None:
    student = random_map(2, 3, 16, 24).requires_grad_()
    value = BEVDistill().loss(tap(student), tap(random_map(2, 3, 16, 24, seed=1)), make_step([[], []]))["dense"]
    value.backward()
    assert value == 0
    assert student.grad.abs().max() == 0


def test_moving_the_scene_by_whole_cells_changes_nothing(make_step: Make) -> None:
    student, teacher = random_map(2, 1, 3, 16, 24)
    box = (-2.6, -1.2, 4.6, 2.0, 0.5)
    moved = (box[0] + 3, box[1] + 2, *box[2:])
    maps = [(side, side.roll((2, 3), dims=(2, 3))) for side in (student, teacher)]
    before = BEVDistill().loss(tap(maps[0][0]), tap(maps[1][0]), make_step([[box]]))["dense"]
    after = BEVDistill().loss(tap(maps[0][1]), tap(maps[1][1]), make_step([[moved]]))["dense"]
    wrong = BEVDistill().loss(tap(maps[0][1]), tap(maps[1][1]), make_step([[box]]))["dense"]
    assert after.item() == pytest.approx(before.item(), rel=1e-5)
    assert wrong.item() != pytest.approx(before.item(), rel=1e-2)


def test_layouts_may_differ(make_step: Make) -> None:
    student, teacher = random_map(2, 1, 3, 16, 24)
    step = make_step([[CAR, TRUCK]])
    turned = tap(teacher.transpose(2, 3).contiguous(), layout="xy")
    expected = BEVDistill().loss(tap(student), tap(teacher), step)["dense"]
    assert BEVDistill().loss(tap(student), turned, step)["dense"] == expected


@pytest.mark.parametrize(
    "options", [{"overlap": 0.0}, {"overlap": 1.0}, {"min_radius": -1}, {"eps": 1e-8}, {"weights": {"sparse": 1}}]
)
def test_wrong_options_raise(options: dict) -> None:
    with pytest.raises(ValueError):
        BEVDistill(**options)


def test_maps_that_cannot_be_compared_raise(make_step: Make) -> None:
    bev_map, step = random_map(1, 3, 16, 24), make_step([[CAR]])
    with pytest.raises(ValueError, match=r"'bev' is .*adapters=dict\(bev="):
        BEVDistill().loss(tap(bev_map[:, :2]), tap(bev_map), step)
    with pytest.raises(GeometryError, match=r"12.*20"):
        BEVDistill().loss(tap(bev_map), tap(bev_map, extent=(-20.0, -8.0, 20.0, 8.0)), step)
    with pytest.raises(GeometryError, match="layout="):
        BEVDistill().loss(tap(bev_map), tap(bev_map, layout=None), step)
    with pytest.raises(GeometryError, match="extent="):
        BEVDistill().loss(tap(bev_map, extent=None), tap(bev_map, extent=None), step)


@pytest.fixture(scope="module")
def reference(authors_file: Callable[[str, str], Path]) -> Callable[..., tuple]:
    """The authors' method ``get_bev_fit_loss``, loaded from a local clone without importing its modules."""
    path = authors_file("BEVDISTILL", "bev_distiller.py")
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    (method,) = (node for node in nodes if node.name == "get_bev_fit_loss")
    method.decorator_list = []
    names = {"torch": torch, "F": F}
    names |= {"gaussian_radius": gaussian_radius, "draw_heatmap_gaussian": draw_heatmap_gaussian}
    exec(compile(ast.Module([method], []), str(path), "exec"), names)
    return names["get_bev_fit_loss"]


@pytest.mark.parametrize("seed", range(3))
def test_golden_mask_and_loss(reference: Callable, make_step: Make, seed: int) -> None:
    """One sample on the release's map of 128 x 128 cells of 0.8 m."""
    extent = (-51.2, -51.2, 51.2, 51.2)
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(40, 2, generator=generator) * 104 - 51.2  # some beyond the high edges
    size, yaw = torch.rand(40, 2, generator=generator) * 12 + 0.3, torch.rand(40, 1, generator=generator) * 6
    boxes = torch.cat((centre, size, yaw), dim=1)
    step = make_step([boxes.tolist()])
    student, teacher = torch.randn(2, 1, 4, 128, 128, generator=generator)
    grid = SimpleNamespace(grid_size=(1024, 1024), voxel_size=(0.1, 0.1))
    truth = [sample.gt_instances_3d.bboxes_3d for sample in step.data_samples]
    expected, mask = reference(grid, student, teacher, gt_bboxes_list=truth)
    ours = foreground_mask(boxes, torch.zeros(40, dtype=torch.long), shape=(1, 128, 128), extent=extent)
    assert torch.allclose(ours, mask, atol=1e-6)
    value = BEVDistill().loss(tap(student, extent=extent), tap(teacher, extent=extent), step)["dense"]
    assert value.item() == pytest.approx(expected["bev_fit_loss"].item(), rel=1e-5)
