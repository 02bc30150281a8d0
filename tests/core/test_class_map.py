"""Teachers and students of other classes: which channels belong together, and where regression comes from."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.core.class_map import head_classes, match_classes, select_classes
from perceptkd.core.errors import InputError

TEACHER = [["car"], ["truck", "van"], ["pedestrian", "cyclist"]]


def teacher_maps(batch: int = 2, height: int = 3, width: int = 4) -> dict[str, list[Tensor]]:
    """Random maps of three tasks: the heatmaps of their classes, and two regression outputs."""
    generator = torch.Generator().manual_seed(0)

    def draw(channels: int) -> Tensor:
        return torch.randn(batch, channels, height, width, generator=generator)

    return {
        "heatmap": [draw(len(task)) for task in TEACHER],
        "reg": [draw(2) for _ in TEACHER],
        "dim": [draw(3) for _ in TEACHER],
    }


def select(student: list[list[str]], class_map: dict, maps: dict | None = None) -> dict[str, list[Tensor]]:
    return select_classes(maps or teacher_maps(), student, TEACHER, class_map, scores="heatmap")


def test_equal_classes_are_handed_on_as_they_are() -> None:
    maps = teacher_maps()
    selected = select(TEACHER, {}, maps)
    assert all(torch.equal(a, b) for name in maps for a, b in zip(selected[name], maps[name], strict=True))


def test_a_subset_in_another_order_takes_the_channels_of_the_same_name() -> None:
    maps = teacher_maps()
    selected = select([["cyclist", "pedestrian"], ["car"]], {}, maps)
    assert torch.equal(selected["heatmap"][0], maps["heatmap"][2].flip(1))
    assert torch.equal(selected["heatmap"][1], maps["heatmap"][0])
    assert torch.equal(selected["reg"][0], maps["reg"][2])
    assert torch.equal(selected["dim"][1], maps["dim"][0])


def test_a_merged_class_has_the_largest_logit_of_its_parts() -> None:
    maps = teacher_maps()
    selected = select([["vehicle"]], {"vehicle": ["car", "van"]}, maps)
    parts = torch.stack([maps["heatmap"][0][:, 0], maps["heatmap"][1][:, 1]])
    assert torch.equal(selected["heatmap"][0], parts.amax(dim=0)[:, None])


def test_regression_of_a_merged_class_is_that_of_the_surer_task_in_each_cell() -> None:
    maps = teacher_maps()
    selected = select([["vehicle"]], {"vehicle": ["car", "van"]}, maps)
    for b, y, x in [(0, 0, 0), (1, 2, 3), (0, 1, 2), (1, 0, 1)]:
        task = 0 if maps["heatmap"][0][b, 0, y, x] >= maps["heatmap"][1][b, 1, y, x] else 1
        assert torch.equal(selected["reg"][0][b, :, y, x], maps["reg"][task][b, :, y, x])
        assert torch.equal(selected["dim"][0][b, :, y, x], maps["dim"][task][b, :, y, x])


def test_a_class_that_nobody_wants_has_no_say_in_the_regression() -> None:
    """The truck shares the van's task, and may be far more probable than the car without taking its place."""
    maps = teacher_maps()
    maps["heatmap"][1][:, 0] = 100.0
    assert torch.equal(
        select([["car", "van"]], {}, maps)["reg"][0], select([["v"]], {"v": ["car", "van"]}, maps)["reg"][0]
    )


@given(st.permutations(range(5)), st.integers(1, 5))
def test_every_selected_channel_is_the_channel_of_that_name(order: list[int], count: int) -> None:
    names = [name for task in TEACHER for name in task]
    maps = teacher_maps(batch=1, height=1, width=2)
    logits = torch.cat(maps["heatmap"], dim=1)
    student = [names[index] for index in order[:count]]
    found = select([[name] for name in student], {}, maps)["heatmap"]
    assert all(torch.equal(head[:, 0], logits[:, names.index(name)]) for head, name in zip(found, student))


@pytest.mark.parametrize(
    ("student", "class_map", "message"),
    [
        (["car", "bus"], {}, r"the class 'bus' comes from \['bus'\], but .* class_map=dict\(bus="),
        (["car"], {"tram": ["car"]}, r"class_map names \['tram'\], which are not among the classes \['car'\]"),
        (["car"], {"car": ["car", "lorry"]}, r"the class 'car' comes from \['lorry'\]"),
        (["car"], {"car": []}, "the class 'car' comes from no class"),
        (["car", "van"], {"car": ["car", "van"]}, r"uses the classes \['van'\] of the teacher more than once"),
    ],
)
def test_maps_that_make_no_sense(student: list[str], class_map: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_classes(student, [name for task in TEACHER for name in task], class_map, whose="the teacher")


def test_one_name_may_stand_for_a_list() -> None:
    assert match_classes(["auto"], ["bus", "car"], {"auto": "car"}, whose="the teacher") == [(1,)]


def test_heads_without_class_names_cannot_be_mapped() -> None:
    with pytest.raises(InputError, match="the teacher's are not known"):
        select_classes(teacher_maps(), TEACHER, None, {}, scores="heatmap")
    with pytest.raises(InputError, match="the student's are not known"):
        select_classes(teacher_maps(), None, TEACHER, {}, scores="heatmap")
    with pytest.raises(InputError, match=r"tasks of \[1\] classes, but its output does not"):
        select_classes(teacher_maps(), TEACHER, [["car"]], {}, scores="heatmap")


def test_class_names_of_either_kind_of_detector() -> None:
    head = SimpleNamespace(class_names=[("car",), ["bus"]])
    assert head_classes(SimpleNamespace(bbox_head=head)) == [["car"], ["bus"]]
    assert head_classes(SimpleNamespace(pts_bbox_head=head)) == [["car"], ["bus"]]
    assert head_classes(SimpleNamespace(bbox_head=SimpleNamespace(class_names=("car", "bus")))) == [["car", "bus"]]
    assert head_classes(SimpleNamespace(bbox_head=SimpleNamespace())) is None
    assert head_classes(None) is None
