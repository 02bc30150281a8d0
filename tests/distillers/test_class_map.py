"""``class_map``: students of some of the teacher's classes, or of merged ones, through the registered methods."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceptkd.core.distiller import Step
from perceptkd.core.errors import InputError
from perceptkd.registry import DISTILLERS

Make = Callable[..., Any]
BOXES = [[(10.0, 5.0, 4.6, 2.0, 0.5)], [(0.0, -3.0, 4.6, 2.0, 0.1)]]
TEACHER = [["car"], ["truck", "van"]]
STUDENT = [["vehicle"], ["truck"]]
CLASS_MAP = {"vehicle": ["car", "van"]}


def head(heatmaps: list[Tensor], regression: list[Tensor]) -> tuple:
    """What a centre head returns: per task a list of one dict."""
    return tuple([{"heatmap": heatmap, "reg": reg}] for heatmap, reg in zip(heatmaps, regression))


@pytest.fixture
def step(make_step: Make) -> Step:
    """Two samples with a box of class 0 each, and both models' class names."""
    made = make_step(BOXES)
    for sample in made.data_samples:
        sample.gt_instances_3d.labels_3d = torch.zeros(1, dtype=torch.long)
    made.student_model, teacher = (nn.Module() for _ in range(2))
    for model, names in ((made.student_model, STUDENT), (teacher, TEACHER)):
        model.bbox_head = nn.Module()
        model.bbox_head.class_names = names
    made.teacher_models = {"teacher": teacher}
    return made


@pytest.fixture
def taps(make_taps: Make) -> Callable[..., dict]:
    """taps(response) -> taps with that response and the same features on either side."""
    features = torch.randn(2, 4, 180, 180)

    def make(response: tuple) -> dict:
        made = make_taps(features, features, response)
        return {**made, "feature": made["low"]}

    return make


@pytest.mark.parametrize(
    ("method", "options", "terms"),
    [
        ("UniDistill", {}, ("response_cls", "response_reg")),
        ("ForegroundDistill", {}, ("response_cls", "response_reg")),
        ("SparseKD", {}, ("cls", "reg")),
        (
            "ItKD",
            {"student_channels": 4, "teacher_channels": 4, "task_classes": [1, 1], "reg_keys": ("reg",)},
            ("head",),
        ),
    ],
)
def test_a_student_that_says_what_the_merged_teacher_says_has_nothing_to_learn(
    method: str, options: dict, terms: tuple, taps: Make, step: Step
) -> None:
    car, truck, van = torch.randn(3, 2, 1, 180, 180)
    offsets = torch.randn(2, 2, 2, 180, 180)
    from_car = (car >= van).expand(2, 2, 180, 180)
    merged = head([torch.maximum(car, van), truck], [torch.where(from_car, *offsets), offsets[1]])
    teacher = head([car, torch.cat([truck, van], dim=1)], list(offsets))
    distiller = DISTILLERS.build({"type": f"perceptkd.{method}", "class_map": CLASS_MAP, **options})
    distiller.build_adapters()
    found = distiller.loss(taps(merged), taps(teacher), step)
    assert all(abs(found[term]) < 1e-6 for term in terms)
    other = head([car - 1.0, truck], list(offsets))
    assert distiller.loss(taps(other), taps(teacher), step)[terms[0]] > 1e-4


def test_without_a_class_map_the_error_tells_of_it(taps: Make, step: Step) -> None:
    maps = [torch.randn(2, channels, 180, 180) for channels in (1, 2, 1)]
    sides = taps(head(maps[::2], maps[1:2] * 2)), taps(head(maps[:2], maps[1:2] * 2))
    with pytest.raises(InputError, match=r"other classes or another order: .*class_map=dict\(car=\['car', 'van'\]\)"):
        DISTILLERS.build({"type": "perceptkd.UniDistill"}).loss(*sides, step)


def test_a_cached_teacher_has_the_classes_of_its_store(taps: Make, step: Step) -> None:
    """It is mapped and refused as the model is."""
    scores, offsets = torch.randn(3, 2, 1, 180, 180), torch.randn(2, 2, 2, 180, 180)
    sides = taps(head([*scores[:2]], [*offsets])), taps(head([scores[0], torch.cat([*scores[1:]], dim=1)], [*offsets]))
    mapped, plain = (
        DISTILLERS.build({"type": "perceptkd.UniDistill", "class_map": classes}) for classes in (CLASS_MAP, None)
    )
    expected = mapped.loss(*sides, step)
    step.teacher_models, step.stored_classes = {}, {"teacher": TEACHER}
    found = mapped.loss(*sides, step)
    assert all(torch.equal(found[term], value) for term, value in expected.items())
    step.stored_classes = {"teacher": [["truck"], ["vehicle"]]}
    with pytest.raises(InputError, match=r"other classes or another order: .*'vehicle'.*'truck'.*'truck'.*'vehicle'"):
        plain.loss(sides[0], sides[0], step)
    step.stored_classes = {}
    with pytest.raises(InputError, match="the teacher's are not known"):
        mapped.loss(*sides, step)


@pytest.mark.parametrize("method", ["DistillBEV", "TiGBEV"])
def test_methods_that_compare_no_classes_refuse_it(method: str) -> None:
    with pytest.raises(InputError, match="does not compare the classes of two heads: leave class_map out"):
        DISTILLERS.build({"type": f"perceptkd.{method}", "class_map": CLASS_MAP})
