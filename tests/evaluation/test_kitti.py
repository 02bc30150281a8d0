"""The KITTI evaluation against the rules written out, on scenes by chance and on one scene for each rule."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kitti_eval import make_boxes

from perceptkd.evaluation.kitti import DIFFICULTIES, LIMITS, Curve, ap11, ap40, evaluate
from perceptkd.evaluation.kitti_boxes import TYPES, KittiTable

properties = settings(max_examples=60, deadline=None)


def box(place: int = 0, name: str = "Car", *, shift_px: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A box 80 px high of 4 x 1.5 x 2 m that counts for every difficulty, at one of many places that are apart.

    ``shift_px`` moves it within its place, in the image and on the ground, by a part of its length of 100 px and 4 m.
    """
    position = {"x": 10.0 * place + shift_px / 25, "z": 20.0, "left": 200.0 * place + shift_px, "top": 100.0}
    size = {"wide": 100.0, "high": 80.0, "length": 4.0, "height": 1.5, "width": 2.0}
    values = {"alpha": 0.0, "rotation_y": 0.0, "truncation": 0.0, "occlusion": 0, "score": 0.5}
    return {"frame": 0, "name": name, **position, **size, **values, **changes}


def table(boxes: list[dict[str, Any]]) -> KittiTable:
    def column(*names: str) -> np.ndarray:
        return np.array([[one[name] for name in names] for one in boxes], np.float64).reshape(-1, len(names))

    corner, extent = column("left", "top"), column("wide", "high")
    return KittiTable(
        frame=column("frame")[:, 0].astype(np.int64),
        label=np.array([TYPES.index(one["name"]) for one in boxes], np.int64),
        bbox=np.concatenate([corner, corner + extent], axis=1),
        alpha=column("alpha")[:, 0],
        box=np.insert(column("x", "z", "length", "height", "width", "rotation_y"), 1, 1.6, axis=1),
        truncation=column("truncation")[:, 0],
        occlusion=column("occlusion")[:, 0].astype(np.int64),
        score=column("score")[:, 0],
    )


def curve(
    truth: list[dict], detections: list[dict], name: str = "Car", difficulty: str = "easy", kind: str = "bbox"
) -> Curve:
    return evaluate(table(detections), table(truth))["strict", name, difficulty, kind]


def precision(*arguments: Any, **options: Any) -> list[float]:
    """The curve less its zeros at the end."""
    return np.trim_zeros(curve(*arguments, **options).precision, "b").tolist()


def things(reference: ModuleType, boxes: KittiTable) -> list:
    """The boxes of one frame as the slow evaluation takes them."""
    columns = zip(boxes.label, boxes.truncation, boxes.occlusion, boxes.alpha, boxes.bbox, boxes.box, boxes.score)
    return [
        reference.Thing(TYPES[label].lower(), truncation, occlusion, alpha, *bbox, *box[[4, 5, 3, 0, 1, 2, 6]], score)
        for label, truncation, occlusion, alpha, bbox, box, score in columns
    ]


def check_equal(reference: ModuleType, predictions: KittiTable, truth: KittiTable) -> dict:
    """Compares all curves; returns ours."""
    count = 1 + max(boxes.frame.max(initial=0) for boxes in (truth, predictions))
    frames = [
        tuple(things(reference, boxes[boxes.frame == frame]) for boxes in (truth, predictions))
        for frame in range(count)
    ]
    curves = evaluate(predictions, truth)
    assert len(curves) == 2 * 3 * 3 * 3
    for (limits, name, difficulty, kind), found in curves.items():
        if (limits, kind) == ("loose", "bbox"):
            continue  # as strict
        limit = LIMITS[limits][kind][name]
        expected, similarity, num_truth = reference.evaluate(frames, name, difficulty, kind, limit)
        where = f"{limits} {name} {difficulty} {kind}"
        assert found.num_truth == num_truth, where
        np.testing.assert_allclose(found.precision, expected, rtol=0, atol=1e-9, err_msg=where)
        if kind == "bbox":
            np.testing.assert_allclose(found.similarity, similarity, rtol=0, atol=1e-9, err_msg=where)
        else:
            assert found.similarity is None
    return curves


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("crowd", [1, 8])
def test_scenes_by_chance(kitti_reference, crowd, seed):
    """Usual frames, and the boxes of several in one, where they overlap each other."""
    predictions, truth = make_boxes(32, seed)
    crowded = [replace(boxes, frame=boxes.frame // crowd) for boxes in (predictions, truth)]
    curves = check_equal(kitti_reference, *crowded)
    assert curves["strict", "Car", "hard", "bbox"].num_truth > 41
    assert 5 < ap40(curves["strict", "Car", "hard", "bbox"].precision) < 95


@pytest.mark.parametrize("seed", range(3))
def test_equal_scores_and_repeated_boxes(kitti_reference, seed):
    """What comes first among equals: scores of one digit, and every box twice with other orientations."""
    predictions, truth = make_boxes(12, seed)
    predictions = predictions[np.repeat(np.arange(len(predictions)), 2)]
    turned = predictions.alpha + np.arange(len(predictions))
    check_equal(kitti_reference, replace(predictions, score=predictions.score.round(1), alpha=turned), truth)


@pytest.mark.parametrize("count", [45, 60])
def test_recall_just_between_two_scores(kitti_reference, count):
    """A wrong detection after each right one shows which scores are sampled; with 60 two recalls lie in the middle."""
    truth = [box(0, frame=frame) for frame in range(count)]
    right = [box(0, frame=frame, score=1 - frame / 100) for frame in range(count)]
    wrong = [box(1, frame=frame, score=1 - (frame + 0.5) / 100) for frame in range(count)]
    curves = check_equal(kitti_reference, table(right + wrong), table(truth))
    assert len(set(curves["strict", "Car", "easy", "bbox"].precision)) == 41


annotated = st.builds(
    box,
    place=st.integers(0, 2),
    name=st.sampled_from(["Car", "Pedestrian", "Van", "Person_sitting", "Truck", "DontCare"]),
    frame=st.integers(0, 1),
    high=st.sampled_from([25.0, 39.9, 40.0, 41.0, 80.0]),
    occlusion=st.integers(0, 3),
    truncation=st.sampled_from([0.0, 0.15, 0.4]),
)
detected = st.builds(
    box,
    place=st.integers(0, 2),
    name=st.sampled_from(["Car", "Pedestrian", "Truck"]),
    frame=st.integers(0, 1),
    shift_px=st.sampled_from([0.0, 7.5, 17.0]),
    high=st.sampled_from([20.0, 39.9, 41.0, 80.0]),
    alpha=st.sampled_from([0.0, 1.0]),
    score=st.sampled_from([0.2, 0.5, 0.8]),
)


@properties
@given(truth=st.lists(annotated, max_size=12), detections=st.lists(detected, max_size=15))
def test_every_rule_at_once(kitti_reference, truth, detections):
    """Limits met exactly, many boxes on one place, equal scores and overlaps."""
    # a region has no place on the ground, in KITTI and so here
    truth = [{**one, "x": -1000.0} if one["name"] == "DontCare" else one for one in truth]
    check_equal(kitti_reference, table(detections), table(truth))


@properties
@given(seed=st.integers(0, 20))
def test_only_the_order_of_scores_counts_and_frames_have_none(seed):
    predictions, truth = make_boxes(16, seed)
    rng = np.random.default_rng(seed)
    frames = rng.permutation(16)
    same = evaluate(
        replace(predictions, frame=frames[predictions.frame], score=np.exp(3 * predictions.score) - 9),
        replace(truth, frame=frames[truth.frame]),
    )
    for key, expected in evaluate(predictions, truth).items():
        np.testing.assert_allclose(same[key].precision, expected.precision, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "counts_for"),
    [
        ({}, "easy moderate hard"),
        ({"high": 40.0}, "moderate hard"),
        ({"high": 40.1}, "easy moderate hard"),
        ({"high": 25.0}, ""),
        ({"high": 25.1}, "moderate hard"),
        ({"occlusion": 1}, "moderate hard"),
        ({"occlusion": 2}, "hard"),
        ({"occlusion": 3}, ""),
        ({"truncation": 0.15}, "easy moderate hard"),
        ({"truncation": 0.16}, "moderate hard"),
        ({"truncation": 0.3}, "moderate hard"),
        ({"truncation": 0.31}, "hard"),
        ({"truncation": 0.5}, "hard"),
        ({"truncation": 0.51}, ""),
        ({"name": "Van"}, ""),
    ],
)
def test_what_counts_for_a_difficulty(changes, counts_for):
    counts = [d for d in DIFFICULTIES if curve([box(**changes)], [], difficulty=d).num_truth == 1]
    assert counts == counts_for.split()


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        (None, [0.5]),
        (box(1, occlusion=2), [1.0]),
        (box(1, truncation=0.9), [1.0]),
        (box(1, "Van"), [1.0]),
        (box(1, "Person_sitting"), [0.5]),
        (box(1, "Truck"), [0.5]),
    ],
)
def test_detections_of_ignored_objects_are_neither_right_nor_wrong(beside, expected):
    truth = [box(0)] + [beside] * (beside is not None)
    assert precision(truth, [box(0, score=0.5), box(1, score=0.9)]) == expected


@pytest.mark.parametrize("name", ["Pedestrian", "Cyclist"])
@pytest.mark.parametrize("other", ["Van", "Person_sitting", "Truck"])
def test_pedestrians_neighbour_is_who_sits_and_cyclists_have_none(name, other):
    expected = 1.0 if (name, other) == ("Pedestrian", "Person_sitting") else 0.5
    assert precision([box(0, name), box(1, other)], [box(0, name), box(1, name)], name) == [expected]


@pytest.mark.parametrize(("high", "expected"), [(39.9, [1.0]), (40.0, [0.5])])
def test_low_detections_are_never_wrong(high, expected):
    assert precision([box(0)], [box(0), box(1, high=high)]) == expected


def test_low_detections_of_any_class_may_be_taken():
    """As the official code has it: the height is asked before the class."""
    truth, right = [box(high=41.0)], box(high=41.0, score=0.5)
    assert precision(truth, [box(0, "Pedestrian", high=39.9, score=0.9), right]) == []
    assert precision(truth, [box(0, "Pedestrian", high=41.0, score=0.9), right]) == [1.0]
    assert precision(truth, [box(0, "Pedestrian", high=39.9, score=0.1), right]) == [1.0]


def test_a_detection_that_counts_is_taken_before_a_low_one_with_more_overlap():
    truth = [box(0, high=41.0), box(1)]
    low, high = box(0, high=39.9, score=0.8), box(0, high=41.0, shift_px=10.0, score=0.9)
    for detections in ([low, high], [high, low]):
        assert precision(truth, [*detections, box(1, score=0.5)]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("wide", "kind", "expected"),
    [(71.0, "bbox", [1.0]), (69.0, "bbox", [0.5]), (71.0, "bev", [0.5]), (71.0, "3d", [0.5])],
)
def test_detections_in_a_region_to_not_care_about(wide, kind, expected):
    """By the share of the detection's image box, whatever the size of the region, and in the image alone."""
    region = box(1, "DontCare", wide=wide, x=-1000.0, truncation=-1.0, occlusion=-1)
    truth, detections = [box(0), region], [box(0), box(1)]
    assert precision(truth, detections, kind=kind) == expected
    if expected == [1.0]:
        wide_region = {**region, "left": 0.0, "wide": 5000.0}
        assert precision([box(0), wide_region], detections, kind=kind) == expected


def test_a_right_detection_in_a_region_is_right():
    assert precision([box(0), box(0, "DontCare", wide=5000.0)], [box(0)]) == [1.0]


def test_the_second_detection_of_an_object_is_wrong():
    truth = [box(0), box(1)]
    detections = [box(0, score=0.9), box(0, score=0.8), box(1, score=0.5)]
    assert precision(truth, detections) == [1.0, pytest.approx(2 / 3)]


def test_equal_scores_are_reached_together():
    assert precision([box(0)], [box(0), box(1)]) == [0.5]
    assert precision([box(0)], [box(0), box(1, score=0.4)]) == [1.0]


def test_scores_to_evaluate_are_those_of_the_highest_and_counts_those_of_the_most_overlapping():
    truth = [box(0), box(1)]
    near, far = box(0, score=0.8), box(0, score=0.9, shift_px=10.0, alpha=np.pi)
    found = curve(truth, [near, far, box(1, score=0.5)])
    # at 0.9 the far one alone, turned round; at 0.5 the near one, and the far one is wrong
    np.testing.assert_allclose(found.precision[:3], [1.0, 2 / 3, 0.0])
    np.testing.assert_allclose(found.similarity[:3], [2 / 3, 2 / 3, 0.0])


@pytest.mark.parametrize(("first_alpha", "second_alpha", "similarity"), [(0.0, np.pi, 0.5), (np.pi, 0.0, 0.0)])
def test_of_equal_overlaps_the_first_is_taken(first_alpha, second_alpha, similarity):
    detections = [box(0, alpha=first_alpha), box(0, alpha=second_alpha)]
    assert curve([box(0)], detections).similarity[0] == pytest.approx(similarity)


def test_of_equal_scores_the_first_is_taken():
    """To find the scores: the low one is ignored, and no score is found; else the right one's is."""
    low, right = box(high=39.9), box(high=41.0)
    assert precision([box(high=41.0)], [low, right]) == []
    assert precision([box(high=41.0)], [right, low]) == [1.0]


def test_objects_choose_in_their_order():
    """The first takes the detection between them, though it overlaps the second more; the other one is too far."""
    truth = [box(0), box(0, shift_px=12.0)]
    detections = [box(0, shift_px=8.0), box(0, shift_px=28.0, score=0.4)]
    assert precision(truth, detections) == [1.0, 1.0]
    assert precision(truth[::-1], detections) == [1.0]


@pytest.mark.parametrize(("shift_px", "is_right"), [(17.0, True), (18.0, False)])
@pytest.mark.parametrize("kind", ["bbox", "bev", "3d"])
def test_overlap_of_a_car(shift_px, is_right, kind):
    """(100 - 17) / (100 + 17) = 0.709, (100 - 18) / (100 + 18) = 0.695."""
    assert precision([box()], [box(shift_px=shift_px)], kind=kind) == [1.0] * is_right


@pytest.mark.parametrize(("wide", "is_right"), [(50.0, False), (50.1, True)])
def test_an_overlap_equal_to_the_limit_is_no_match(wide, is_right):
    assert precision([box(0, "Cyclist")], [box(0, "Cyclist", wide=wide)], "Cyclist") == [1.0] * is_right


def test_the_ground_does_not_see_heights():
    assert precision([box()], [box(height=0.8)], kind="bev") == [1.0]
    assert precision([box()], [box(height=0.8)], kind="3d") == []


def test_rotation_turns_from_z_towards_x():
    """4 x 2 m turned by 0.3: a box turned the other way overlaps by less than 0.7."""
    assert precision([box(rotation_y=0.3)], [box(rotation_y=0.35)], kind="3d") == [1.0]
    assert precision([box(rotation_y=0.3)], [box(rotation_y=-0.35)], kind="3d") == []
    # along the turned box, whose front points to x = cos 0.5, z = -sin 0.5, a shift costs less than across
    along, across = ({"x": 0.5 * np.cos(0.5), "z": 20 + side * 0.5 * np.sin(0.5)} for side in (-1, 1))
    truth = [box(rotation_y=0.5)]
    assert precision(truth, [box(rotation_y=0.5, **along)], kind="bev") == [1.0]
    assert precision(truth, [box(rotation_y=0.5, **across)], kind="bev") == []


def test_loose_limits():
    shifted = evaluate(table([box(shift_px=30.0)]), table([box()]))
    values = {key: curve.precision[0] for key, curve in shifted.items() if key[1:3] == ("Car", "easy")}
    assert {key[0::3] for key, value in values.items() if value == 1} == {("loose", "bev"), ("loose", "3d")}


def test_empty_frames_and_tables():
    truth, detections = [box(frame=3)], [box(frame=3), box(frame=7)]
    assert precision(truth, detections) == [0.5]
    assert precision([box(frame=9)], [box(frame=2)]) == []
    for found in evaluate(table([]), table([])).values():
        assert (found.num_truth, found.precision.sum()) == (0, 0.0)


@pytest.mark.parametrize(("detections", "name", "num_truth"), [([box(0, "Cyclist")], "Cyclist", 0), ([], "Car", 1)])
def test_no_objects_of_a_class_and_no_detections(detections, name, num_truth):
    found = curve([box(0)], detections, name)
    assert (found.num_truth, ap11(found.precision), ap40(found.precision)) == (num_truth, 0.0, 0.0)


def test_nothing_right_or_wrong_at_a_score():
    """An ignored object takes the right detection where the overlap decides: 0 / 0 officially, 0 here."""
    truth = [box(high=41.0, occlusion=3), box(high=41.0)]
    detections = [box(high=41.0, score=0.5), box(high=39.9, score=0.9)]
    assert precision(truth, detections) == []


def test_averages_by_hand():
    """Ten cars found; a wrong detection comes after the fifth."""
    truth = [box(place) for place in range(10)]
    detections = [box(place, score=0.9 - 0.01 * place) for place in range(10)]
    found = curve(truth, [*detections, box(20, score=0.855)])
    # five of five, then six of seven, which the ten of eleven of the last score exceed
    np.testing.assert_allclose(found.precision[:11], [1.0] * 5 + [10 / 11] * 5 + [0.0])
    assert ap11(found.precision) == pytest.approx((1 + 1 + 10 / 11) / 11 * 100)
    assert ap40(found.precision) == pytest.approx((4 + 5 * 10 / 11) / 40 * 100)


@pytest.mark.parametrize(
    ("count", "expected_ap40", "expected_ap11"),
    [(1, 0.0, 100 / 11), (5, 10.0, 200 / 11), (40, 97.5, 1000 / 11), (41, 100.0, 100.0), (60, 100.0, 100.0)],
)
def test_perfect_detections_of_few_objects(count, expected_ap40, expected_ap11):
    boxes = [box(place, score=1 - place / 100) for place in range(count)]
    found = curve(boxes, boxes)
    assert ap40(found.precision) == pytest.approx(expected_ap40)
    assert ap11(found.precision) == pytest.approx(expected_ap11)


def test_recall_of_a_detector_that_finds_half():
    boxes = [box(place, score=1 - place / 1000) for place in range(400)]
    found = curve(boxes, boxes[:200])
    assert ap40(found.precision) == pytest.approx(50.0, abs=2.6)  # the last score counts as one step more
    assert set(found.precision) == {0.0, 1.0}


def test_orientation_similarity_by_hand():
    truth = [box(0), box(1), box(2)]
    detections = [box(0, score=0.9), box(1, score=0.8, alpha=np.pi / 2), box(2, score=0.7, alpha=np.pi)]
    found = curve(truth, detections)
    np.testing.assert_allclose(found.precision[:3], [1.0, 1.0, 1.0])
    np.testing.assert_allclose(found.similarity[:3], [1.0, 1.5 / 2, 1.5 / 3])
    assert ap40(found.similarity) == pytest.approx((0.75 + 0.5) / 40 * 100)


def test_no_similarity_where_a_detection_has_no_orientation():
    assert curve([box(0)], [box(0), box(1, alpha=-10.0)]).similarity is None


def test_tables_are_left_as_they_are():
    predictions, truth = make_boxes(4)
    before = [column.copy() for boxes in (predictions, truth) for column in vars(boxes).values()]
    evaluate(predictions, truth)
    after = [column for boxes in (predictions, truth) for column in vars(boxes).values()]
    assert all(np.array_equal(old, new) for old, new in zip(before, after))


@pytest.mark.parametrize("classes", [[], ["Van"], ["Car", "Bus"]])
def test_other_classes_are_refused(classes):
    with pytest.raises(ValueError, match="KITTI evaluates Car, Pedestrian, Cyclist, or some of them"):
        evaluate(table([]), table([]), classes=classes)
