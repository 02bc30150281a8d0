"""benchmarks/nuscenes_eval.py times nothing whose figures are not the devkit's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import nuscenes_eval
import pytest

FRAMES = 20


def test_boxes_come_frame_by_frame_and_the_same_every_time() -> None:
    predictions, truth = nuscenes_eval.make_boxes(FRAMES)
    assert (len(truth), len(predictions)) == (600, 2333)
    assert all((np.diff(boxes.frame) >= 0).all() for boxes in (truth, predictions))
    assert set(truth.label) == set(range(len(nuscenes_eval.DETECTION_NAMES)))
    again, _ = nuscenes_eval.make_boxes(FRAMES)
    assert np.array_equal(again.score, predictions.score)
    found = nuscenes_eval.devkit_boxes(predictions, FRAMES)
    assert [len(found[f"frame {frame}"]) for frame in range(FRAMES)] == np.bincount(predictions.frame).tolist()


@pytest.mark.slow
def test_every_row_can_be_measured() -> None:
    evaluation, difference, memory = nuscenes_eval.measure(FRAMES, 1)
    assert (evaluation["peer_name"], evaluation["target"]) == ("nuscenes-devkit", 1 / 20)
    assert evaluation["ours"] > 0 < evaluation["peer"]
    assert difference["met"]
    assert (memory["unit"], memory["peer_name"]) == ("MiB", "nuscenes-devkit")
    assert memory["ours"] >= 0 <= memory["peer"]


def test_figures_that_differ_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    exact: Callable[..., Any] = nuscenes_eval.evaluate

    def of_half(predictions: Any, *rest: Any) -> Any:
        return exact(predictions[: len(predictions) // 2], *rest)

    monkeypatch.setattr(nuscenes_eval, "evaluate", of_half)
    with pytest.raises(RuntimeError, match="a figure differs from the devkit's by"):
        nuscenes_eval.measure(FRAMES, 1)


def test_a_figure_that_is_missing_differs_from_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nuscenes_eval, "figures", iter)
    known, unknown = [np.array([0.5, 0.1])], [np.array([0.5, np.nan])]
    assert nuscenes_eval.largest_difference(known, [np.array([0.4, 0.1])]) == pytest.approx(0.1)
    assert nuscenes_eval.largest_difference(unknown, unknown) == 0
    assert nuscenes_eval.largest_difference(known, unknown) == np.inf
