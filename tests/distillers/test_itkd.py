"""itKD: worked numbers, the auto-encoder, what a collapse would be, and bad input."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from perceptkd.core.distiller import Step
from perceptkd.core.errors import InputError
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.itkd import (
    ItKD,
    SharedAutoEncoder,
    centre_difference,
    channel_attention,
    head_attention,
    map_difference,
)

Make = Callable[..., Any]
EXTENT = (-5.0, -5.0, 5.0, 5.0)  # 10 x 10 cells of 1 m
BOXES = [(0.5, 0.5, 4.0, 2.0, 0.0), (-3.5, 2.5, 4.0, 2.0, 1.0), (3.5, -1.5, 1.0, 1.0, 0.0)]


def tap(alias: str, value: Any, **options: Any) -> Tap:
    return Tap(TapSpec(alias, layout="yx", **{"extent": EXTENT, **options}), [value])


def head(classes: Sequence[int], samples: int = 1, seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
    return tuple(
        [
            {
                name: torch.randn(samples, channels, 10, 10, generator=generator)
                for name, channels in {"heatmap": count, **sizes}.items()
            }
        ]
        for count in classes
    )


def step_of(make_step: Make, *samples: tuple[Sequence[Any], Sequence[int]]) -> Step:
    step = make_step([boxes for boxes, _ in samples])
    for sample, (_, labels) in zip(step.data_samples, samples):
        sample.gt_instances_3d.labels_3d = torch.tensor(labels).long()
    return step


def build(**options: Any) -> ItKD:
    torch.manual_seed(0)
    distiller = ItKD(**{"student_channels": 3, "teacher_channels": 6, "task_classes": [1, 2], **options})
    distiller.build_adapters()
    return distiller


def sides(samples: int = 1, classes: Sequence[int] = (1, 2)) -> tuple[dict[str, Tap], dict[str, Tap]]:
    torch.manual_seed(3)
    return tuple(
        {
            "feature": tap("neck", torch.randn(samples, channels, 10, 10)),
            "response": tap("head", head(classes, samples, n)),
        }
        for n, channels in enumerate((3, 6))
    )


def test_layers_are_those_of_the_release() -> None:
    """Channels 96 to 384, 384-128-64-32 and 32-64-128-96, with a ReLU between two layers."""
    encoder = SharedAutoEncoder(96, 384, 32)
    layers = [(part.in_channels, part.out_channels) for part in encoder.modules() if isinstance(part, nn.Conv2d)]
    assert layers == [(96, 384), (384, 128), (128, 64), (64, 32), (32, 64), (64, 128), (128, 96)]
    assert [type(part).__name__ for part in encoder.compress] == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]
    student, teacher = torch.randn(1, 96, 4, 4), torch.randn(1, 384, 4, 4)
    shapes = [tuple(part.shape) for part in encoder(student, teacher)]
    assert shapes == [(1, 32, 4, 4), (1, 32, 4, 4), (1, 384, 4, 4), (1, 96, 4, 4)]


def test_differences_by_hand() -> None:
    first, second = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    second[0, :, 0, 1] = torch.tensor([1.0, 3.0])
    assert map_difference(first, second).item() == 0.5
    cells = torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([1, 1])
    assert centre_difference(first, second, cells, max_objects=5).item() == pytest.approx(10 / (2 * 5))


class TestAttention:
    def test_by_hand(self) -> None:
        """X'X is diag(4, 1), over a scale of 1: columns of the softmax are (e^4, 1) and (1, e) over their sums."""
        outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        a, b = math.exp(4) / (math.exp(4) + 1), math.e / (math.e + 1)
        expected = torch.tensor([[2 * a, 2 * (1 - b)], [1 - a, b]])
        assert torch.allclose(channel_attention(outputs, 1.0), expected)

    def test_a_single_channel_attends_to_itself(self) -> None:
        outputs = torch.randn(5, 1)
        assert torch.equal(channel_attention(outputs, 3.0), outputs)

    def test_whole_beside_heads(self) -> None:
        outputs = torch.randn(7, 5)
        found = head_attention(outputs, [2, 3], 4.0)
        parts = [channel_attention(part, 4.0) for part in (outputs, outputs[:, :2], outputs[:, 2:])]
        assert torch.equal(found, torch.cat(parts, dim=1))

    def test_order_of_objects_does_not_matter(self) -> None:
        outputs, order = torch.randn(7, 5), torch.randperm(7)
        assert torch.allclose(head_attention(outputs, [2, 3], 4.0)[order], head_attention(outputs[order], [2, 3], 4.0))


def test_terms_by_their_definitions(make_step: Make) -> None:
    """Two samples, three objects of two tasks, one object off the map."""
    samples = ([BOXES[0], (30.0, 0.0, 1.0, 1.0, 0.0)], [0, 1]), (BOXES[1:], [2, 0])
    student, teacher = sides(2)
    distiller = build()
    terms = distiller.loss(student, teacher, step_of(make_step, *samples))

    maps = student["feature"].value, teacher["feature"].value
    codes = distiller.auto_encoder(*maps)
    assert terms["compression"].item() == pytest.approx((codes[0] - codes[1]).abs().mean().item(), rel=1e-5)
    cells = [(0, 5, 5), (1, 7, 1), (1, 3, 8)]
    interchange = 0.0
    for mine, other in ((codes[2], maps[1]), (codes[3], maps[0])):
        squares = sum((mine[b, :, y, x] - other[b, :, y, x]).square().sum() for b, y, x in cells)
        interchange += (mine - other).abs().mean() + squares / (2 * 500 * mine.shape[1])
    assert terms["interchange"].item() == pytest.approx(interchange.item(), rel=1e-5)

    expected = 0.0
    for task, (groups, places) in enumerate(
        (([1, 2, 1, 3, 2, 2], [[cells[0]], [cells[2]]]), ([2, 2, 1, 3, 2, 2], [[cells[1]]]))
    ):
        total = 0.0
        for of_sample in places:
            mixed = []
            for side in (student, teacher):
                outputs = side["response"].value[task][0]
                rows = torch.stack(
                    [torch.cat([level[b, :, y, x] for level in outputs.values()]) for b, y, x in of_sample]
                )
                mixed.append(distiller.mixing[task](head_attention(rows, groups, 500**0.5)))
            total += (mixed[0] - mixed[1]).abs().sum()
        expected += total / (sum(map(len, places)) + 1e-4) / 2
    assert terms["head"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_reaches_the_student_and_the_auto_encoder(make_step: Make) -> None:
    student, teacher = sides()
    leaves = [side["feature"].value.requires_grad_() for side in (student, teacher)]
    heads = [side["response"].value[0][0]["heatmap"].requires_grad_() for side in (student, teacher)]
    distiller = build()
    sum(distiller.loss(student, teacher, step_of(make_step, (BOXES, [0, 1, 2]))).values()).backward()
    assert leaves[0].grad.abs().sum() > 0
    assert heads[0].grad.abs().sum() > 0
    assert leaves[1].grad is None
    assert heads[1].grad is None
    assert all(weight.grad.isfinite().all() for weight in distiller.auto_encoder.parameters())
    assert all(weight.grad is None for weight in distiller.mixing.parameters())


@pytest.mark.parametrize("train_mixing", [True, False])
def test_no_objects_leave_the_maps_and_a_zero_with_a_gradient(make_step: Make, train_mixing: bool) -> None:
    """Of everything that is trained, for DDP not to wait."""
    student, teacher = sides()
    heatmap = student["response"].value[1][0]["heatmap"].requires_grad_()
    distiller = build(train_mixing=train_mixing)
    terms = distiller.loss(student, teacher, step_of(make_step, ([], [])))
    sum(terms.values()).backward()
    assert terms["head"] == 0
    assert terms["compression"] > 0
    assert heatmap.grad is not None
    assert not heatmap.grad.any()
    trained = [weight for weight in distiller.parameters() if weight.requires_grad]
    assert len(trained) == 14 + 4 * train_mixing
    assert all(weight.grad is not None for weight in trained)


@pytest.mark.parametrize("train_mixing", [True, False])
def test_a_mixing_layer_that_was_trained_could_do_without_the_student(make_step: Make, train_mixing: bool) -> None:
    """With weights of 0 every student is like the teacher; so they are not trained unless that is asked for."""
    distiller = build(train_mixing=train_mixing)
    assert {weight.requires_grad for weight in distiller.mixing.parameters()} == {train_mixing}
    step = step_of(make_step, (BOXES, [0, 1, 2]))
    assert distiller.loss(*sides(), step)["head"] > 0
    for layer in distiller.mixing:
        layer.weight.data.zero_()
    assert distiller.loss(*sides(), step)["head"] == 0


def test_channels_of_a_dry_pass() -> None:
    distiller = ItKD()
    distiller.build_adapters(*sides())
    assert distiller.task_classes == [1, 2]
    assert (distiller.auto_encoder.widen.in_channels, distiller.auto_encoder.widen.out_channels) == (3, 6)
    assert [layer.weight.shape for layer in distiller.mixing] == [(11, 22), (12, 24)]


@pytest.mark.parametrize("missing", ["student_channels", "teacher_channels", "task_classes"])
def test_channels_that_nobody_says(missing: str) -> None:
    with pytest.raises(InputError, match="or the model dry_batch="):
        build(**{missing: None})


@pytest.mark.parametrize(
    "options", [{"reg_keys": ()}, {"reg_keys": ("iou",)}, {"code_channels": 0}, {"max_objects": 0}]
)
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError, match="ItKD: "):
        build(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_channels": 4}, "it must have 4 and 6 channels on one grid"),
        ({"task_classes": [1, 3]}, r"the heads have tasks of \[1, 2\] classes"),
    ],
)
def test_what_the_options_say_and_the_models_have(make_step: Make, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(**options).loss(*sides(), step_of(make_step, (BOXES, [0, 1, 2])))


def test_heads_without_a_regression_output(make_step: Make) -> None:
    student, teacher = sides()
    del student["response"].value[0][0]["vel"], student["response"].value[1][0]["vel"]
    with pytest.raises(InputError, match=r"share \['reg', 'height', 'dim', 'rot'\]"):
        build().loss(student, teacher, step_of(make_step, (BOXES, [0, 1, 2])))
    assert build(reg_keys=("reg", "height", "dim", "rot")).loss(
        student, teacher, step_of(make_step, (BOXES, [0, 1, 2]))
    )
