"""What is read of dense heads: the student's and the teacher's side by side, classes, scores."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.errors import InputError
from perceptkd.core.heads import box_channels, foreground_score, is_anchor_output, pair_heads, tapped_module
from perceptkd.core.tap import Tap, TapSpec

EXTENT = (-4.0, -4.0, 4.0, 4.0)


def tap(value: Any, layout: str = "yx") -> Tap:
    return Tap(TapSpec("bbox_head", layout=layout, extent=EXTENT), [value])


def centre_head(size: int = 4, classes: tuple[int, ...] = (1, 2)) -> tuple:
    return tuple(
        [{"heatmap": torch.randn(2, count, size, size), "reg": torch.randn(2, 2, size, size)}] for count in classes
    )


def step_of(*labels: list[int]) -> Step:
    return Step(
        data_samples=[
            SimpleNamespace(gt_instances_3d=InstanceData(labels_3d=torch.tensor(each).long())) for each in labels
        ]
    )


def channels(step: Step, head: Any = None, known: Any = None, classes: int = 3) -> list[int]:
    options: dict[str, Any] = {"channel_labels": known, "method": "Method", "device": torch.device("cpu")}
    return box_channels(step, head, classes, **options).tolist()


class TestBoxChannels:
    def test_channel_k_has_label_k(self) -> None:
        assert channels(step_of([2, 0], [], [1, -1])) == [2, 0, 1, -1]

    def test_labels_that_no_channel_has_are_not_known(self) -> None:
        assert channels(step_of([3, 7, 1])) == [-1, -1, 1]
        assert channels(step_of([0, 3, 4, 9]), known=[0, 1, 4]) == [0, -1, 2, -1]

    def test_a_head_says_its_labels(self) -> None:
        head = SimpleNamespace(task_label_to_dataset=torch.tensor([2, 0, 1]))
        assert channels(step_of([2, 0, 1, -1]), head) == [0, 1, 2, -1]

    def test_given_labels_come_first(self) -> None:
        head = SimpleNamespace(task_label_to_dataset=torch.tensor([2, 0, 1]))
        assert channels(step_of([5, 3, 4]), head, known=[4, 5, 3]) == [1, 2, 0]

    def test_as_many_labels_as_channels(self) -> None:
        with pytest.raises(InputError, match="Method: 2 channel_labels for heads with 3 class channels"):
            channels(step_of([0]), known=[0, 1])


class TestForegroundScore:
    def test_of_a_centre_head(self) -> None:
        head = centre_head()
        expected = torch.cat([task[0]["heatmap"] for task in head], dim=1).sigmoid().amax(dim=1, keepdim=True)
        assert torch.allclose(foreground_score(tap(head)), expected)
        assert torch.allclose(foreground_score(tap(head, "xy")), expected.mT)

    def test_of_an_anchor_head(self) -> None:
        scores, boxes = torch.randn(2, 6, 4, 4), torch.randn(2, 14, 4, 4)
        found = foreground_score(tap(([scores], [boxes], [boxes])))
        assert torch.allclose(found, scores.sigmoid().amax(dim=1, keepdim=True))

    def test_a_head_without_heatmaps(self) -> None:
        with pytest.raises(InputError, match=r"has no 'heatmap' to tell objects by, but \['scores'\]"):
            foreground_score(tap([{"scores": torch.zeros(1, 1, 4, 4)}]))

    @pytest.mark.parametrize(
        ("output", "expected"),
        [
            (([torch.zeros(1)], [torch.zeros(1)]), True),
            (([{"heatmap": torch.zeros(1)}],), False),
            ([], False),
            ({}, False),
        ],
    )
    def test_what_an_anchor_head_returns(self, output: Any, expected: bool) -> None:
        assert is_anchor_output(output) is expected


class TestPairHeads:
    def pair(self, student: Any, teacher: Any, **options: Any) -> Any:
        return pair_heads(tap(student), tap(teacher), Step(), distiller=Distiller(), heatmap_key="heatmap", **options)

    def test_heatmaps_of_other_sizes_only_where_that_is_asked_for(self) -> None:
        heads = centre_head(4), centre_head(8)
        with pytest.raises(InputError, match="'heatmap' is"):
            self.pair(*heads, reg_keys=())
        found = self.pair(*heads, reg_keys=(), same_grid=False)
        assert [found.student["heatmap"][0].shape[-1], found.teacher["heatmap"][0].shape[-1]] == [4, 8]

    def test_regression_on_other_grids_never_pairs(self) -> None:
        """Offsets within a cell of another size mean other metres."""
        with pytest.raises(InputError, match=r"'reg' is .*equal tasks, classes and grids; reg_keys=\(\) leaves"):
            self.pair(centre_head(4), centre_head(8), reg_keys=("reg",), same_grid=False)

    def test_other_classes_never_pair(self) -> None:
        with pytest.raises(InputError, match="'heatmap' is"):
            self.pair(centre_head(4), centre_head(8, classes=(2, 2)), reg_keys=(), same_grid=False)


def test_the_module_behind_a_tap() -> None:
    student = nn.Module()
    student.bbox_head = nn.Linear(1, 1)
    assert tapped_module(student, tap(Tensor())) is student.bbox_head
    assert tapped_module(nn.Linear(1, 1), tap(Tensor())) is None
    assert tapped_module(None, tap(Tensor())) is None
