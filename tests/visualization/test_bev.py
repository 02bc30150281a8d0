"""The bird's-eye view draws boxes where they are."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from perceptkd.visualization import bev, draw_bev
from perceptkd.visualization.bev import Area, area_of
from perceptkd.visualization.figure import CLASS_COLOURS

AREA_M = (-50.0, -50.0, 50.0, 50.0)
CAR = (20.0, 30.0, -1.0, 16.0, 8.0, 1.5, 0.0)


def frames(image: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Rectangles (left, top, right, bottom) of the panels, by their black frames, in reading order."""
    black = (image.max(axis=2) < 30).astype(np.uint8)
    contours, _ = cv2.findContours(black, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rectangles = [cv2.boundingRect(contour) for contour in contours]
    large = [(x, y, x + w - 1, y + h - 1) for x, y, w, h in rectangles if min(w, h) > 300]
    return sorted(large, key=lambda frame: (frame[1] // 50, frame[0]))


def metres(pixels: np.ndarray, frame: tuple[int, int, int, int], area_m: Area = AREA_M) -> np.ndarray:
    """Pixels [M, 2] (column, row) of a panel as (x, y) in metres."""
    left, top, right, bottom = frame
    x0, y0, x1, y1 = area_m
    x = x0 + (pixels[:, 0] - left) / (right - left) * (x1 - x0)
    y = y1 - (pixels[:, 1] - top) / (bottom - top) * (y1 - y0)
    return np.stack((x, y), axis=1)


def coloured(image: np.ndarray, label: int, frame: tuple[int, int, int, int]) -> np.ndarray:
    """Pixels (column, row) of the outline colour of a class inside of a panel."""
    bgr = np.array(to_rgb(CLASS_COLOURS[label]))[::-1] * 255
    row, column = np.nonzero(np.abs(image - bgr).max(axis=2) < 6)
    left, top, right, bottom = frame
    inside = (column > left) & (column < right) & (row > top) & (row < bottom)
    return np.stack((column, row), axis=1)[inside]


def test_a_box_is_drawn_where_it_is(tmp_path: Path, make_boxes: Callable) -> None:
    path = draw_bev(tmp_path / "new" / "bev.png", None, {"truth": make_boxes([CAR], labels=[3])}, area_m=AREA_M)
    image = cv2.imread(str(path))
    (frame,) = frames(image)
    drawn = metres(coloured(image, 3, frame), frame)
    assert len(drawn) > 50
    assert drawn.min(axis=0) == pytest.approx([12, 26], abs=0.5)
    assert drawn.max(axis=0) == pytest.approx([28, 34], abs=0.5)


def test_an_area_ahead_of_the_vehicle_fills_the_picture(tmp_path: Path, make_boxes: Callable) -> None:
    behind, beside = (-20.0, 0.0, *CAR[2:]), (20.0, -35.0, *CAR[2:])
    boxes = make_boxes([(20.0, 10.0, *CAR[2:]), behind, beside], labels=[3, 3, 3])
    area = (-4, -20, 56, 20)
    path = draw_bev(tmp_path / "bev.png", None, {"truth": boxes}, area_m=area, forward="x")
    image = cv2.imread(str(path))
    (frame,) = frames(image)
    left, top, right, bottom = frame
    assert (right - left) / (bottom - top) == pytest.approx(60 / 40, rel=0.02)
    drawn = metres(coloured(image, 3, frame), frame, area)
    assert drawn.min(axis=0) == pytest.approx([12, 6], abs=0.5)
    assert drawn.max(axis=0) == pytest.approx([28, 14], abs=0.5)


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        ((-25.0, -25.0, 25.0, 25.0), [(0, -10, "10 m"), (0, -20, "20 m")]),
        ((-2.0, -15.0, 30.0, 15.0), [(0, -10, "10 m"), (20, 0, "20 m")]),
        ((5.0, -15.0, 30.0, 15.0), [(10, 0, "10 m"), (20, 0, "20 m")]),
    ],
)
def test_rings_are_labelled_inside_of_the_picture(
    monkeypatch: pytest.MonkeyPatch, area: Area, expected: list, make_boxes: Callable
) -> None:
    labels: list[tuple] = []
    monkeypatch.setattr(bev, "save_figure", lambda figure, path: labels.extend(figure.axes[0].texts))
    draw_bev("bev.png", None, {"truth": make_boxes([CAR])}, area_m=area)
    rings = [(*label.get_position(), label.get_text()) for label in labels]
    assert rings == expected


def test_points_are_drawn(tmp_path: Path, make_boxes: Callable) -> None:
    points = torch.rand(2000, 5) * 10 - 30
    pictures = [
        cv2.imread(str(draw_bev(tmp_path / f"{name}.png", cloud, {"truth": make_boxes([])}, area_m=AREA_M)))
        for name, cloud in (("with", points), ("without", None))
    ]
    (frame,) = frames(pictures[0])
    changed = np.argwhere(np.abs(pictures[0].astype(int) - pictures[1]).max(axis=2) > 40)[:, ::-1]
    drawn = metres(changed, frame)
    drawn = drawn[(np.abs(drawn) < 50).all(axis=1)]
    assert len(drawn) > 300
    assert drawn.min() > -31
    assert drawn.max() < -19


def test_every_set_has_a_panel_and_truth_is_judged(tmp_path: Path, make_boxes: Callable) -> None:
    truth = make_boxes([CAR, (-20.0, -30.0, *CAR[2:])], labels=[0, 0])
    found_one = make_boxes([(20.5, 30.0, *CAR[2:])], labels=[0], scores=[0.9])
    boxes = {"truth": truth, "teacher": found_one, "control": make_boxes([]), "distilled": found_one}
    image = cv2.imread(str(draw_bev(tmp_path / "bev.png", None, boxes, class_names=["car"], title="Title")))
    panels = frames(image)
    assert len(panels) == 4
    counts = [len(coloured(image, 0, panel)) for panel in panels]
    assert counts[0] > counts[1] > 0
    assert counts[2] == 0
    assert counts[1] == counts[3]


def test_weak_and_far_predictions_are_left_out(tmp_path: Path, make_boxes: Callable) -> None:
    weak = make_boxes([CAR, (80.0, 0.0, *CAR[2:])], scores=[0.1, 0.9])
    image = cv2.imread(str(draw_bev(tmp_path / "bev.png", None, {"teacher": weak}, score_threshold=0.3)))
    (frame,) = frames(image)
    assert len(coloured(image, 0, frame)) == 0


def test_a_model_is_drawn_as_far_as_it_sees() -> None:
    area = [-28.8, -28.8, -5.0, 28.8, 28.8, 3.0]
    assert area_of({"type": "BEVDetector", "point_cloud_range": area}) == (-28.8, -28.8, 28.8, 28.8)
    ahead = {"data_preprocessor": {"voxel_layer": {"point_cloud_range": [0, -40, -3, 70.4, 40, 1]}}}
    assert area_of({"module": ahead, "voxel_encoder": {"point_cloud_range": [0, -20, -3, 50, 20, 1]}}) == (
        -4,
        -40,
        70.4,
        40,
    )
    assert area_of({"type": "FasterRCNN"}) == (-50, -50, 50, 50)


def test_bad_arguments(tmp_path: Path, make_boxes: Callable) -> None:
    with pytest.raises(ValueError, match="at least one set"):
        draw_bev(tmp_path / "bev.png", None, {})
    with pytest.raises(ValueError, match=r"must end in \.png"):
        draw_bev(tmp_path / "bev.jpg", None, {"truth": make_boxes([])})
