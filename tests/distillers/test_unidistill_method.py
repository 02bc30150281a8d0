"""The registered method: its options, its terms and weights, and the input it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from perceptkd.core.errors import InputError
from perceptkd.core.geometry import GeometryError
from perceptkd.distillers.unidistill import UniDistill
from perceptkd.registry import DISTILLERS

Make = Callable[..., Any]
BOXES = [[(10.0, 5.0, 4.6, 2.0, 0.5), (-20.0, 30.0, 8.0, 3.0, 1.0)], [(0.0, -3.0, 4.6, 2.0, 0.1)]]
TERMS = {"feature", "relation", "response_cls", "response_reg"}
EXTENT = (-54.0, -54.0, 54.0, 54.0)


def head_of(bev_map: Tensor, **renamed: str) -> tuple:
    """Two tasks cut out of a map with 10 channels."""
    keys = [renamed.get(key, key) for key in ("heatmap", "reg", "vel")]
    return tuple(
        [dict(zip(keys, (bev_map[:, start : start + 1], bev_map[:, start + 1 : start + 3], bev_map[:, start + 3 :])))]
        for start in (0, 5)
    )


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(2, 2, 10, 180, 180)
    return student.requires_grad_(), teacher.requires_grad_()


def test_builds_with_the_published_weights() -> None:
    method = DISTILLERS.build({"type": "perceptkd.UniDistill", "teacher": "lidar"})
    assert method.weights == {"feature": 100.0, "relation": 40.0, "response_cls": 10.0, "response_reg": 10.0}
    assert {name: str(tap) for name, tap in method.student_taps.items()} == {
        "low": "fuser", "high": "neck[0]", "response": "bbox_head",
    }  # fmt: skip


def test_weight_of_response_stands_for_both_terms() -> None:
    method = UniDistill(weights={"response": 3.0, "response_reg": 1.0, "feature": 2.0})
    assert method.weights == {"feature": 2.0, "relation": 40.0, "response_cls": 3.0, "response_reg": 1.0}


@pytest.mark.parametrize("options", [{}, {"legacy": True}, {"cls_mode": "per_class"}, {"relation_scope": "inter"}])
def test_terms_are_positive_and_only_the_student_gets_gradient(
    maps: tuple, make_taps: Make, make_step: Make, options: dict
) -> None:
    student, teacher = maps
    terms = UniDistill(**options).loss(
        make_taps(student, student, head_of(student)), make_taps(teacher, teacher, head_of(teacher)), make_step(BOXES)
    )
    assert set(terms) == TERMS
    for value in terms.values():
        assert value > 0.01
        assert value.shape == ()
        (gradient,) = torch.autograd.grad(value, student, retain_graph=True)
        assert gradient.abs().sum() > 0
    sum(terms.values()).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("legacy", [False, True])
def test_a_batch_without_boxes_gives_connected_zeros(
    maps: tuple, make_taps: Make, make_step: Make, legacy: bool
) -> None:
    student, teacher = maps
    terms = UniDistill(legacy=legacy).loss(
        make_taps(student, student, head_of(student)),
        make_taps(teacher, teacher, head_of(teacher)),
        make_step([[], []]),
    )
    assert all(value == 0 for value in terms.values())
    sum(terms.values()).backward()
    assert student.grad.abs().max() == 0


def test_per_class_sees_a_peak_of_the_wrong_class(make_taps: Make, make_step: Make, make_head: Make) -> None:
    bev_map = torch.zeros(1, 1, 180, 180)
    student, teacher = make_head(-5.0, 0.0), make_head(-5.0, 0.0)
    student[0][0]["heatmap"][:] = 3.0
    teacher[5][0]["heatmap"][:, 1] = 3.0
    losses = {
        mode: UniDistill(cls_mode=mode).loss(
            make_taps(bev_map, bev_map, student), make_taps(bev_map, bev_map, teacher), make_step([BOXES[1]])
        )["response_cls"]
        for mode in ("max", "per_class")
    }
    assert losses["max"] == 0
    assert losses["per_class"] > 1


def test_heads_without_dense_regression_say_so_in_the_config(maps: tuple, make_taps: Make, make_step: Make) -> None:
    student, teacher = maps
    renamed = {"heatmap": "dense_heatmap", "reg": "a", "vel": "b"}
    taps = [make_taps(side, side, head_of(side, **renamed)) for side in (student, teacher)]
    method = UniDistill(heatmap_key="dense_heatmap", reg_keys=())
    assert set(method.loss(*taps, make_step(BOXES))) == set(method.weights) == TERMS - {"response_reg"}
    with pytest.raises(ValueError, match=r"reg_keys=\(\) leaves regression out, where the method allows it"):
        UniDistill(heatmap_key="dense_heatmap").loss(*taps, make_step(BOXES))
    with pytest.raises(ValueError, match=r"need 'heatmap'.*dense_heatmap"):
        UniDistill().loss(*taps, make_step(BOXES))


def test_regression_uses_what_both_heads_have(maps: tuple, make_taps: Make, make_step: Make) -> None:
    student, teacher = (side.detach() for side in maps)
    step = make_step(BOXES)
    whole = make_taps(student, student, head_of(student))
    partial = make_taps(teacher, teacher, head_of(teacher, vel="something_else"))
    shared = UniDistill().loss(whole, partial, step)["response_reg"]
    named = UniDistill(reg_keys=("reg",)).loss(whole, make_taps(teacher, teacher, head_of(teacher)), step)
    assert shared == named["response_reg"]


def test_maps_of_different_resolution_are_compared_in_metres(make_taps: Make, make_step: Make, make_head: Make) -> None:
    def ramp(size: int) -> Tensor:
        return ((torch.arange(size) + 0.5) * 108 / size - 54).expand(2, 3, size, size)

    head = make_head(0.0, 0.0, batch_size=2)
    terms = UniDistill().loss(
        make_taps(ramp(180), ramp(90), head), make_taps(ramp(60), ramp(180), head), make_step(BOXES)
    )
    assert terms["feature"] < 1e-4
    assert terms["relation"] < 1e-4


@pytest.mark.parametrize(("layout", "extent"), [(None, EXTENT), ("yx", None)])
def test_an_undeclared_map_raises(maps: tuple, make_taps: Make, make_step: Make, layout: Any, extent: Any) -> None:
    student, teacher = maps
    declared = make_taps(student, student, head_of(student))
    undeclared = make_taps(teacher, teacher, head_of(teacher), layout=layout, extent=extent)
    for pair in ((declared, undeclared), (undeclared, declared), (undeclared, undeclared)):
        with pytest.raises(GeometryError, match=r"'low'.*give it (layout|extent)="):
            UniDistill().loss(*pair, make_step(BOXES))


def test_other_widths_name_the_adapter(maps: tuple, make_taps: Make, make_step: Make) -> None:
    student, teacher = maps
    taps = make_taps(student[:, :4], student, head_of(student)), make_taps(teacher, teacher, head_of(teacher))
    with pytest.raises(ValueError, match=r"'low' has 4 channels in the student, 10 in the teacher.*adapter"):
        UniDistill().loss(*taps, make_step(BOXES))


def test_heads_on_other_grids_or_areas_raise(maps: tuple, make_taps: Make, make_step: Make) -> None:
    student, teacher = maps
    whole = make_taps(student, student, head_of(student))
    half = make_taps(teacher, teacher, head_of(teacher[..., ::2, ::2]))
    with pytest.raises(ValueError, match=r"'heatmap' is .*equal tasks, classes and grids$"):
        UniDistill().loss(whole, half, make_step(BOXES))
    elsewhere = make_taps(teacher, teacher, head_of(teacher), extent=(-50.0, -50.0, 50.0, 50.0))
    with pytest.raises(ValueError, match=r"heads cover .*54.*50"):
        UniDistill().loss(whole, elsewhere, make_step(BOXES))


def test_heads_that_nothing_is_learned_from_may_differ(maps: tuple, make_taps: Make, make_step: Make) -> None:
    method = UniDistill(weights={"response": 0})
    assert "response" not in method.student_taps
    assert "response" not in method.teacher_taps["teacher"]
    taps = [make_taps(side, side, None) for side in maps]
    for side in taps:
        del side["response"]
    assert set(method(*taps, make_step(BOXES))) == {"feature", "relation"}
    measuring = UniDistill(weights=dict.fromkeys(TERMS, 0))
    assert "response" in measuring.student_taps


@pytest.mark.parametrize("dropped", [["low"], ["high"], ["low", "high"]])
def test_maps_that_nothing_is_learned_from_may_differ(
    maps: tuple, make_taps: Make, make_step: Make, dropped: list[str]
) -> None:
    """The other terms are those that they were."""
    terms = [{"low": "feature", "high": "relation"}[alias] for alias in dropped]
    method, step = UniDistill(weights=dict.fromkeys(terms, 0)), make_step(BOXES)
    kept = {"low", "high", "response"} - set(dropped)
    assert set(method.student_taps) == set(method.teacher_taps["teacher"]) == kept
    sides = [make_taps(side, side, head_of(side)) for side in maps]
    expected = UniDistill().loss(*sides, step)
    for side in (*sides, expected):
        for name in (*dropped, *terms):
            side.pop(name, None)
    method.build_adapters()
    found = method(*sides, step)
    assert found.keys() == expected.keys() == TERMS - set(terms)
    assert all(torch.equal(found[term], value) for term, value in expected.items())
    assert set(dropped) < set(UniDistill(weights=dict.fromkeys(TERMS, 0)).student_taps)


def test_heads_of_another_class_order_raise(maps: tuple, make_taps: Make, make_step: Make) -> None:
    models = [torch.nn.Module() for _ in range(2)]
    for model, names in zip(models, ([["car"], ["bus", "truck"]], [["car"], ["truck", "bus"]]), strict=True):
        model.bbox_head = torch.nn.Module()
        model.bbox_head.class_names = names
    taps = [make_taps(side, side, head_of(side)) for side in maps]
    step = make_step(BOXES)
    step.student_model, step.teacher_models = models[0], {"teacher": models[0]}
    assert UniDistill().loss(*taps, step)
    step.teacher_models = {"teacher": models[1]}
    with pytest.raises(ValueError, match=r"other classes or another order: .*'bus', 'truck'.*'truck', 'bus'"):
        UniDistill().loss(*taps, step)


def test_a_finer_teacher_leaves_the_student_at_its_size(maps: tuple, make_taps: Make, make_step: Make) -> None:
    student, teacher = (side.detach() for side in maps)
    method = UniDistill(weights={"response": 0})
    method.build_adapters()
    sizes = []
    method.loss = lambda own, other, step: sizes.extend(tap["low"].value.shape[2:] for tap in (own, other)) or {}
    method.weights = {}
    coarse = torch.nn.functional.avg_pool2d(student, 2)
    method(make_taps(coarse, coarse, None), make_taps(teacher, teacher, None), make_step(BOXES))
    assert sizes == [coarse.shape[2:], teacher.shape[2:]]


@pytest.mark.parametrize(
    "options",
    [
        {"relation_scope": "all"},
        {"cls_mode": "mean"},
        {"eps": 1e-8},
        {"temperature": 0.0},
        {"overlap": 1.0},
        {"min_radius": -1},
        {"clamp": 0.5},
    ],
)
def test_wrong_options_raise(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        UniDistill(**options)


def test_unknown_terms_raise() -> None:
    with pytest.raises(InputError, match=r"no terms \['x'\]"):
        UniDistill(weights={"x": 1})


@pytest.mark.gpu
@pytest.mark.parametrize("legacy", [False, True])
def test_cuda_agrees_with_the_cpu(maps: tuple, make_taps: Make, make_step: Make, legacy: bool) -> None:
    results = []
    for device in ("cpu", "cuda"):
        student, teacher = (side.detach().to(device).requires_grad_() for side in maps)
        taps = [make_taps(side, side, head_of(side)) for side in (student, teacher)]
        terms = UniDistill(legacy=legacy).loss(*taps, make_step(BOXES))
        (gradient,) = torch.autograd.grad(sum(terms.values()), student)
        results.append(({name: value.item() for name, value in terms.items()}, gradient.cpu()))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    assert torch.allclose(results[1][1], results[0][1], atol=1e-6)
