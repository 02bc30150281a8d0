"""Vectorised targets against mmdet3d's loop over boxes."""

import pytest
import torch
from mmdet3d.models.dense_heads import CenterHead
from mmdet3d.models.utils import gaussian_radius as reference_radius
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from perceptkd.models.bev.center_targets import build_center_targets, gaussian_radius

TASKS = (("car",), ("truck", "bus"), ("pedestrian",))
TRAIN_CFG = {
    "grid_size": [40, 30, 1],
    "voxel_size": [0.8, 0.8, 8.0],
    "out_size_factor": 1,
    "point_cloud_range": [-16.0, -12.0, -5.0, 16.0, 12.0, 3.0],
    "gaussian_overlap": 0.1,
    "min_radius": 2,
    "max_objs": 50,
    "dense_reg": 1,
    "code_weights": [1.0] * 10,
}


def random_boxes(count: int) -> torch.Tensor:
    """[N, 9] gravity centres, some beyond the high edges of the grid."""
    boxes = torch.rand(count, 9) * torch.tensor([34.0, 26.0, 2.0, 9.0, 3.0, 2.0, 6.0, 4.0, 4.0])
    return boxes + torch.tensor([-16.0, -12.0, -2.0, 0.3, 0.3, 0.5, -3.0, -2.0, -2.0])


def upstream_head() -> CenterHead:
    head = CenterHead.__new__(CenterHead)
    torch.nn.Module.__init__(head)
    head.train_cfg = TRAIN_CFG
    head.class_names = [list(names) for names in TASKS]
    head.norm_bbox = True
    head.task_heads = torch.nn.ModuleList(torch.nn.Identity() for _ in TASKS)
    return head


def targets(boxes: torch.Tensor, labels: torch.Tensor, sample: torch.Tensor, batch_size: int = 2):
    sizes = [len(names) for names in TASKS]
    return build_center_targets(
        boxes, labels, sample=sample, batch_size=batch_size, task_sizes=sizes, norm_bbox=True, train_cfg=TRAIN_CFG
    )


@pytest.mark.parametrize("seed", range(3))
def test_same_as_upstream(seed: int) -> None:
    torch.manual_seed(seed)
    counts = (17, 9)
    boxes = [random_boxes(count) for count in counts]
    labels = [torch.randint(0, 4, (count,)) for count in counts]
    instances = [
        InstanceData(bboxes_3d=LiDARInstance3DBoxes(box.clone(), box_dim=9, origin=(0.5, 0.5, 0.5)), labels_3d=label)
        for box, label in zip(boxes, labels, strict=True)
    ]
    heatmaps, codes, indices, masks = upstream_head().get_targets(instances)
    sample = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
    for index, ours in enumerate(targets(torch.cat(boxes), torch.cat(labels), sample)):
        torch.testing.assert_close(ours.heatmap, heatmaps[index])
        assert int(ours.num_boxes) == int(masks[index].sum())
        for number in range(2):
            chosen, expected = ours.sample == number, masks[index][number].bool()
            cells = ours.row[chosen] * 40 + ours.column[chosen]
            order, expected_order = cells.argsort(), indices[index][number][expected].argsort()
            torch.testing.assert_close(cells[order], indices[index][number][expected][expected_order])
            torch.testing.assert_close(
                ours.boxes[chosen][order], codes[index][number][expected][expected_order], atol=1e-5, rtol=1e-5
            )


def test_radius_is_upstreams() -> None:
    sizes = torch.rand(20, 2) * 10 + 0.2
    expected = torch.stack([reference_radius((width, length), 0.1) for length, width in sizes])
    torch.testing.assert_close(gaussian_radius(sizes[:, 0], sizes[:, 1], 0.1), expected)


def test_a_centre_below_the_low_edge_is_left_out() -> None:
    boxes = torch.tensor([[-16.3, 0.0, 0, 4, 2, 1.5, 0, 0, 0], [-15.9, 0.0, 0, 4, 2, 1.5, 0, 0, 0]])
    car = targets(boxes, torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), batch_size=1)[0]
    assert car.column.tolist() == [0]
    assert int(car.num_boxes) == 1


def test_no_boxes_at_all() -> None:
    none = torch.zeros(0, dtype=torch.long)
    for task in targets(torch.zeros(0, 9), none, none):
        assert task.heatmap.abs().sum() == 0
        assert task.heatmap.shape[0] == 2
        assert task.boxes.shape == (0, 10)


def test_boxes_of_other_labels_are_ignored() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0, 4, 2, 1.5, 0, 0, 0]])
    for task in targets(boxes, torch.tensor([-1]), torch.tensor([0]), batch_size=1):
        assert len(task.boxes) == 0
