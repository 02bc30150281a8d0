"""Confusion matrices and IoU: hand-made cases, and mmdet3d's seg_eval as the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perceptkd.core.errors import InputError
from perceptkd.evaluation.point_iou import confusion_matrix, intersection_over_union, summarise

CLASSES = ("road", "car", "person")


def confusion(labels, predicted, *, num_classes=3, ignore_index=3):
    return confusion_matrix(np.array(labels), np.array(predicted), num_classes=num_classes, ignore_index=ignore_index)


def test_worked_case():
    """Road: 2 right of 3, and one car called road, 2/4. Car: 1 right of 2, 1/2. Person: nobody, no prediction."""
    matrix = confusion([0, 0, 0, 1, 1, 3], [0, 0, 3, 0, 1, 1])
    assert matrix.tolist() == [[2, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    figures = summarise(matrix, classes=CLASSES, ignore_index=3)
    assert figures == {
        "mIoU": pytest.approx((2 / 4 + 1 / 2) / 2),
        "accuracy": pytest.approx(3 / 5),
        "class_accuracy": pytest.approx((2 / 3 + 1 / 2) / 2),
        "num_present": 2.0,
        "road_IoU": pytest.approx(0.5),
        "car_IoU": pytest.approx(0.5),
    }


def test_a_class_that_is_only_predicted_has_an_iou_of_zero():
    figures = summarise(confusion([0, 0], [0, 2]), classes=CLASSES, ignore_index=3)
    assert (figures["person_IoU"], figures["mIoU"], figures["num_present"]) == (0.0, 0.25, 2.0)
    assert "car_IoU" not in figures


def test_ignored_points_count_for_nobody():
    matrix = confusion([0, 3, 3], [0, 1, 3])
    assert matrix.sum() == 1
    assert summarise(matrix, classes=CLASSES, ignore_index=3)["mIoU"] == 1.0


def test_none_of_the_classes_is_a_miss_and_no_false_alarm():
    """seg_eval instead counts the first point as a car called road, and drops a person."""
    iou = intersection_over_union(confusion([0, 1, 2, 2], [3, 1, 2, 3]))
    assert iou.tolist() == [0.0, 1.0, 0.5]


@pytest.mark.parametrize("ignore_index", [-1, 255])
def test_an_ignore_index_may_lie_anywhere_outside(ignore_index):
    matrix = confusion([0, ignore_index, 1], [0, 0, ignore_index], ignore_index=ignore_index)
    assert matrix.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([0, 7], [0, 0], r"labels \[7\] are no classes \(0 to 2\)"),
        ([0, -1], [0, 0], r"labels \[-1\]"),
        ([0, 1], [0, 4], r"predictions \[4\]"),
        ([0, 1], [0], "1 points were predicted and 2 have labels"),
    ],
)
def test_what_is_no_class_is_an_error(labels, predicted, message):
    with pytest.raises(InputError, match=message):
        confusion(labels, predicted)


def test_nothing_labelled_is_an_error():
    with pytest.raises(InputError, match="nothing to evaluate"):
        summarise(confusion([3, 3], [0, 1]), classes=CLASSES, ignore_index=3)


@settings(deadline=None)  # the first example imports mmdet3d
@given(data=st.data(), ignore_index=st.sampled_from([1, 3, 255]))
def test_equals_seg_eval(data, ignore_index):
    """On several clouds, whose matrices add up, with and without a class of the data set that is ignored."""
    from mmdet3d.evaluation import seg_eval

    sizes = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    classes = st.sampled_from([0, 1, 2, ignore_index])
    truth = [data.draw(arrays(np.int64, size, elements=classes)) for size in sizes]
    predicted = [data.draw(arrays(np.int64, size, elements=st.integers(0, 2))) for size in sizes]
    if all((labels == ignore_index).all() for labels in truth):
        truth[0][0] = 0
    total = sum(confusion(*pair, ignore_index=ignore_index) for pair in zip(truth, predicted))
    ours = summarise(total, classes=CLASSES, ignore_index=ignore_index)
    with np.errstate(all="ignore"):
        reference = seg_eval(
            [labels.copy() for labels in truth],
            [labels.copy() for labels in predicted],
            dict(enumerate(CLASSES)),
            ignore_index,
            logger="silent",
        )
    assert ours["mIoU"] == pytest.approx(reference["miou"], abs=1e-12)
    assert ours["accuracy"] == pytest.approx(reference["acc"], abs=1e-12)
    assert ours["class_accuracy"] == pytest.approx(reference["acc_cls"], abs=1e-12)
    for name in CLASSES:
        assert ours.get(f"{name}_IoU", np.nan) == pytest.approx(reference[name], abs=1e-12, nan_ok=True)
