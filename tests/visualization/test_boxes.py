"""Reading boxes for pictures, and the count of found and missed ones."""

from collections.abc import Callable

import numpy as np
import pytest

from perceptkd.visualization.boxes import as_drawn, match_boxes

CAR = (10.0, 5.0, -1.0, 4.0, 2.0, 1.5, 0.0)


def at(x: float, y: float) -> tuple[float, ...]:
    return (x, y, *CAR[2:])


def test_footprint_goes_from_rear_right_to_front_right(make_boxes: Callable) -> None:
    drawn = as_drawn(make_boxes([CAR]))
    assert drawn.footprints[0].tolist() == [[8, 4], [8, 6], [12, 6], [12, 4]]
    assert drawn.centres[0].tolist() == pytest.approx([10, 5, -0.25])


def test_threshold_drops_weak_predictions_and_never_truth(make_boxes: Callable) -> None:
    boxes = [CAR, at(0, 0)]
    assert len(as_drawn(make_boxes(boxes, scores=[0.9, 0.1]), score_threshold=0.3)) == 1
    assert len(as_drawn(make_boxes(boxes), score_threshold=0.3)) == 2


def test_empty_and_bare_boxes(make_boxes: Callable) -> None:
    assert len(as_drawn(make_boxes([]))) == 0
    assert as_drawn(make_boxes([CAR]).bboxes_3d).labels.tolist() == [-1]


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="LiDARInstance3DBoxes"):
        as_drawn(np.zeros((3, 7)))


def test_matching_is_one_to_one_by_score_class_and_distance(make_boxes: Callable) -> None:
    truth = as_drawn(make_boxes([at(0, 0), at(10, 0), at(20, 0)], labels=[0, 0, 1]))
    predicted = as_drawn(
        make_boxes([at(0.5, 0), at(0.2, 0), at(12.5, 0), at(20, 0)], labels=[0, 0, 0, 0], scores=[0.5, 0.9, 0.9, 0.9])
    )
    right, found = match_boxes(predicted, truth)
    assert right.tolist() == [False, True, False, False]
    assert found.tolist() == [True, False, False]


def test_nothing_matches_nothing(make_boxes: Callable) -> None:
    empty, one = as_drawn(make_boxes([])), as_drawn(make_boxes([CAR]))
    assert match_boxes(one, empty)[0].tolist() == [False]
    assert match_boxes(empty, one)[1].tolist() == [False]
