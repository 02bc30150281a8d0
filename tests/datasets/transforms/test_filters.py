"""FilterRange and FilterClasses."""

import numpy as np
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints

from perceptkd.datasets.transforms.filters import FilterClasses, FilterRange

RANGE = (-10.0, -10.0, -5.0, 10.0, 10.0, 3.0)


def sample(*centres: tuple[float, float, float]) -> dict:
    rows = [[*centre, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0] for centre in centres]
    boxes = LiDARInstance3DBoxes(torch.tensor(rows).reshape(-1, 9), box_dim=9, origin=(0.5, 0.5, 0.5))
    return {"gt_bboxes_3d": boxes, "gt_labels_3d": np.arange(len(rows), dtype=np.int64)}


def test_a_box_is_kept_when_a_corner_is_inside() -> None:
    results = FilterRange(RANGE).transform(sample((0, 0, 0), (11.5, 0, 0), (13, 0, 0), (0, 0, 9)))
    assert results["gt_labels_3d"].tolist() == [0, 1]
    assert len(results["gt_bboxes_3d"]) == 2


def test_points_are_filtered_in_the_plane_only() -> None:
    points = torch.tensor([[0, 0, 0, 1, 0], [0, 0, 50, 1, 0], [10, 0, 0, 1, 0], [-10, -10, 0, 1, 0]]).float()
    results = FilterRange(RANGE).transform({"points": LiDARPoints(points, points_dim=5)})
    torch.testing.assert_close(results["points"].tensor, points[[0, 1, 3]])


def test_other_classes_are_left_out() -> None:
    given = sample((0, 0, 0), (1, 0, 0), (2, 0, 0))
    given["gt_labels_3d"] = np.array([-1, 9, 10])
    results = FilterClasses(10).transform(given)
    assert results["gt_labels_3d"].tolist() == [9]
    assert results["gt_bboxes_3d"].tensor[0, 0] == 1


def test_a_frame_without_boxes_passes() -> None:
    results = FilterClasses(10).transform(FilterRange(RANGE).transform(sample()))
    assert len(results["gt_bboxes_3d"]) == 0
    assert results["gt_labels_3d"].shape == (0,)
