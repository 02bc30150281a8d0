"""SampleObjects and AddZeroVelocity, on a ground-truth database made by hand."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints

from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_clouds import write_points
from perceptkd.datasets.seeded import seeded
from perceptkd.datasets.transforms.object_sampling import SampleObjects
from perceptkd.datasets.transforms.velocity import AddZeroVelocity
from perceptkd.ops.box_iou_rotated import box_iou_rotated
from perceptkd.ops.points_in_boxes import points_in_boxes

CLASSES = ["Pedestrian", "Cyclist", "Car"]
SIZES = {"Pedestrian": (0.8, 0.6, 1.7), "Car": (4.0, 1.8, 1.5)}
#: Relative to the centre of the bottom of a box, as the database has them; the last column tells them apart.
POINTS = np.array([[0.2, 0.1, 0.3, 7.0], [-0.2, 0.0, 1.2, 7.0], [0.0, -0.2, 0.7, 7.0]], np.float32)


def write_database(root: Path, count: int = 6, **changes: Any) -> None:
    """Per class ``count`` objects 9 m apart, cars at y = 4 m and pedestrians at y = -4 m; nobody cycles."""
    database: dict[str, list[dict[str, Any]]] = {}
    for name, y in (("Car", 4.0), ("Pedestrian", -4.0)):
        for i in range(count):
            path = f"gt_database/{name}_{i}.bin"
            write_points(root / path, POINTS)
            box = np.array([5 + 9 * i, y, -1.7, *SIZES[name], 0.3], np.float32)
            entry = {"name": name, "path": path, "box3d_lidar": box, "num_points_in_gt": 5, "difficulty": 0}
            database.setdefault(name, []).append(entry | changes)
    (root / "kitti_dbinfos_train.pkl").write_bytes(pickle.dumps(database))


def make_frame(boxes: list[list[float]] = (), labels: list[int] = (), plane: list[float] | None = None) -> dict:
    """A frame of ground points every half metre, 60 m far."""
    x, y = np.meshgrid(np.arange(0, 60, 0.5), np.arange(-8, 8, 0.5))
    ground = np.stack([x.ravel(), y.ravel(), np.full(x.size, -1.7), np.zeros(x.size)], axis=1)
    return {
        "points": LiDARPoints(torch.from_numpy(ground).float(), points_dim=4),
        "gt_bboxes_3d": LiDARInstance3DBoxes(torch.tensor(boxes).reshape(-1, 7).float()),
        "gt_labels_3d": np.array(labels, np.int64),
        "plane": plane,
    }


def make_sampler(root: Path, **fill_up_to: int) -> SampleObjects:
    return SampleObjects(data_root=str(root), classes=CLASSES, fill_up_to=fill_up_to)


def test_objects_come_with_their_points_and_labels(tmp_path: Path) -> None:
    write_database(tmp_path)
    frame = make_sampler(tmp_path, Car=2, Pedestrian=3)(make_frame())
    boxes, points = frame["gt_bboxes_3d"], frame["points"].tensor
    assert isinstance(boxes, LiDARInstance3DBoxes)
    assert frame["gt_labels_3d"].tolist() == [2, 2, 0, 0, 0]
    assert frame["gt_labels_3d"].dtype == np.int64
    for box, label in zip(boxes.tensor, frame["gt_labels_3d"]):
        assert box[3:6].tolist() == pytest.approx(SIZES[CLASSES[label]])
        inside = points[points_in_boxes(points, box[None])[:, 0]]
        expected = torch.from_numpy(POINTS) + torch.nn.functional.pad(box[:3], (0, 1))
        torch.testing.assert_close(inside, expected)  # and none of the ground that was there
    assert len(points) < 120 * 32 + 5 * 3


def test_a_frame_is_filled_up_and_no_more(tmp_path: Path) -> None:
    write_database(tmp_path)
    own = [[20, 0, -1.7, 4, 1.8, 1.5, 0], [30, 0, -1.7, 4, 1.8, 1.5, 0]]
    frame = make_sampler(tmp_path, Car=3, Pedestrian=1)(make_frame(own, [2, 2]))
    assert frame["gt_labels_3d"].tolist() == [2, 2, 2, 0]
    assert frame["gt_bboxes_3d"].tensor[:2].tolist() == torch.tensor(own).tolist()
    full = make_frame(own, [2, 2])
    assert make_sampler(tmp_path, Car=2)(full)["points"] is full["points"]


def test_nothing_overlaps(tmp_path: Path) -> None:
    """The place of car 2 is taken; two objects of the database in one place never come together."""
    write_database(tmp_path)
    database = pickle.loads((tmp_path / "kitti_dbinfos_train.pkl").read_bytes())
    database["Pedestrian"][0]["box3d_lidar"][:2] = database["Car"][0]["box3d_lidar"][:2]
    (tmp_path / "kitti_dbinfos_train.pkl").write_bytes(pickle.dumps(database))
    own = [[23, 4, -1.7, 4, 1.8, 1.5, 1.0]]
    frame = make_sampler(tmp_path, Car=15, Pedestrian=15)(make_frame(own, [-1]))
    seen = frame["gt_bboxes_3d"].tensor[:, [0, 1, 3, 4, 6]]
    assert box_iou_rotated(seen, seen).fill_diagonal_(0).max() == 0
    assert (frame["gt_labels_3d"] == 2).sum() == 5
    assert (frame["gt_labels_3d"] == 0).sum() == 5


def test_objects_stand_on_the_ground_of_the_frame(tmp_path: Path) -> None:
    """On a slope of 1:10 whose height is -1.7 m at the sensor."""
    write_database(tmp_path)
    frame = make_sampler(tmp_path, Car=6)(make_frame(plane=[-0.1, 0.0, 1.0, 1.7]))
    box = frame["gt_bboxes_3d"].tensor
    torch.testing.assert_close(box[:, 2], 0.1 * box[:, 0] - 1.7)
    points = frame["points"].tensor[:18].view(6, 3, 4)
    torch.testing.assert_close(points[..., :3] - box[:, None, :3], torch.from_numpy(POINTS[:, :3]).expand(6, 3, 3))
    again = make_sampler(tmp_path, Car=6)(make_frame())
    assert (again["gt_bboxes_3d"].tensor[:, 2] == np.float32(-1.7)).all()  # the database stays as it is


def test_contract_12_a_frame_depends_on_its_seed_alone(tmp_path: Path) -> None:
    """Whatever was sampled before, unlike with mmdet3d's sampler."""
    write_database(tmp_path)
    sampler = make_sampler(tmp_path, Car=2, Pedestrian=2)
    drawn = []
    for key in (1, 2, 3, 1):
        with seeded(key):
            drawn.append(sampler(make_frame())["gt_bboxes_3d"].tensor)
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1]) or not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("changes", [{"difficulty": -1}, {"num_points_in_gt": 4}])
def test_poor_objects_and_missing_classes_are_left_out(tmp_path: Path, changes: dict) -> None:
    write_database(tmp_path, **changes)
    frame = make_frame()
    assert make_sampler(tmp_path, Car=15, Cyclist=15)(frame)["points"] is frame["points"]
    assert len(frame["gt_bboxes_3d"]) == 0


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"kitti_dbinfos_train.pkl is missing.*create_data"):
        make_sampler(tmp_path, Car=1)
    write_database(tmp_path)
    with pytest.raises(InputError, match=r"fill_up_to names \['Bus'\], the classes are"):
        make_sampler(tmp_path, Bus=1)


def test_boxes_get_a_velocity_of_0() -> None:
    frame = make_frame([[20, 0, -1.7, 4, 1.8, 1.5, 0.5]], [2])
    before = frame["gt_bboxes_3d"].tensor.clone()
    boxes = AddZeroVelocity()(frame)["gt_bboxes_3d"]
    assert boxes.box_dim == 9
    assert torch.equal(boxes.tensor, torch.nn.functional.pad(before, (0, 2)))
    assert boxes.bev.shape == (1, 5)
    assert AddZeroVelocity()(make_frame())["gt_bboxes_3d"].tensor.shape == (0, 9)
    with pytest.raises(InputError, match="9 values and a velocity already"):
        AddZeroVelocity()(frame)
