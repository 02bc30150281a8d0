"""2D boxes are drawn where they are."""

from types import SimpleNamespace

import cv2
import numpy as np
import torch
from matplotlib.colors import to_rgb
from mmengine.structures import InstanceData

from perceptkd.visualization.figure import CLASS_COLOURS
from perceptkd.visualization.images import draw_image


def test_a_box_in_the_colour_of_its_class(tmp_path) -> None:
    boxes = InstanceData(bboxes=torch.tensor([[20.0, 30.0, 70.0, 80.0]]), labels=torch.tensor([3]))
    drawn = cv2.imread(str(draw_image(tmp_path / "a.png", np.full((100, 120, 3), 255, np.uint8), boxes)))
    colour = np.array(to_rgb(CLASS_COLOURS[3]))[::-1] * 255
    row, column = np.nonzero(np.abs(drawn - colour).max(axis=2) < 3)
    assert (column.min(), row.min(), column.max(), row.max()) == (19, 29, 71, 81)


def test_names_boxes_of_mmdet_and_images_without_boxes(tmp_path) -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    empty = cv2.imread(str(draw_image(tmp_path / "a.png", image)))
    assert empty.max() == 0
    boxes = InstanceData(labels=torch.tensor([0]), metainfo={})
    boxes.bboxes = torch.tensor([[10.0, 40.0, 50.0, 55.0]])
    named = cv2.imread(str(draw_image(tmp_path / "b.png", image, boxes, class_names=["cat"])))
    plain = cv2.imread(str(draw_image(tmp_path / "c.png", image, boxes)))
    assert (named[:40] != plain[:40]).any()  # the name stands on the box
    wrapped = SimpleNamespace(tensor=boxes.bboxes)

    class Boxes(list):
        bboxes, labels = wrapped, boxes.labels

    assert np.array_equal(cv2.imread(str(draw_image(tmp_path / "d.png", image, Boxes([0])))), plain)
