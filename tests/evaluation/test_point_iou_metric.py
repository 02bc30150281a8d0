"""PointIoUMetric: frames add up, ranges are horizontal, and processes gather matrices, not points."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from perceptkd.core.errors import InputError
from perceptkd.engine.distributed import leave_processes
from perceptkd.evaluation.point_iou_metric import PointIoUMetric
from perceptkd.registry import METRICS

META = {"classes": ("road", "car", "person"), "ignore_index": 3}
FRAMES = (  # labels, predictions, distances along x
    ([0, 0, 1, 3], [0, 1, 1, 0], [1.0, 5.0, 10.0, 2.0]),
    ([1, 2, 2, 0], [1, 2, 0, 0], [3.0, 9.9, 30.0, 80.0]),
)


def frame(labels, predicted, distances):
    points = torch.zeros(len(labels), 4)
    points[:, 1] = -torch.tensor(distances)
    points[:, 2] = 100.0  # height is no distance
    sample = {
        "eval_ann_info": {"pts_semantic_mask": np.array(labels)},
        "pred_pts_seg": {"pts_semantic_mask": torch.tensor(predicted)},
    }
    return points, sample


def fill(metric, frames):
    metric.dataset_meta = META
    for content in frames:
        points, sample = frame(*content)
        metric.process({"inputs": {"points": [points]}}, [sample])
    return metric


def test_frames_add_up():
    """Road 2 of 4 (one called car, one person called road), car 2 of 3, person 1 of 2."""
    figures = fill(PointIoUMetric(), FRAMES).evaluate(2)
    assert figures["seg/road_IoU"] == pytest.approx(2 / 4)
    assert figures["seg/car_IoU"] == pytest.approx(2 / 3)
    assert figures["seg/person_IoU"] == pytest.approx(1 / 2)
    assert figures["seg/mIoU"] == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 3)
    assert figures["seg/accuracy"] == pytest.approx(5 / 7)


def test_a_batch_equals_its_frames_one_by_one():
    (first, one), (second, two) = (frame(*content) for content in FRAMES)
    metric = PointIoUMetric(ranges_m=[(0, 10)])
    metric.dataset_meta = META
    metric.process({"inputs": {"points": [first, second]}}, [one, two])
    assert metric.evaluate(2) == fill(PointIoUMetric(ranges_m=[(0, 10)]), FRAMES).evaluate(2)


def test_ranges_take_points_by_horizontal_distance():
    """Within 10 m: road right and called car, car right, person right; from there a car, a person and a road."""
    ranges = [(0, 10), (10, None), (200, 300)]
    figures = fill(PointIoUMetric(ranges_m=ranges), FRAMES).evaluate(2)
    assert figures["seg/mIoU_0-10m"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert figures["seg/mIoU_10-infm"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert "seg/mIoU_200-300m" not in figures


@pytest.mark.parametrize("ranges", [[(10, 5)], [(-1, 5)], [(5, 5)]])
def test_impossible_ranges_are_refused(ranges):
    with pytest.raises(InputError, match="near < far"):
        PointIoUMetric(ranges_m=ranges)


def test_dropped_points_are_an_error():
    points, sample = frame(*FRAMES[0])
    sample["pred_pts_seg"]["pts_semantic_mask"] = torch.tensor([0, 1])
    metric = PointIoUMetric()
    metric.dataset_meta = META
    with pytest.raises(InputError, match="2 points were predicted and 4 have labels"):
        metric.process({"inputs": {"points": [points]}}, [sample])


def test_is_built_from_a_config():
    init_default_scope("mmdet3d")
    assert isinstance(METRICS.build({"type": "perceptkd.PointIoUMetric"}), PointIoUMetric)


def test_two_processes_give_the_figures_of_one(tmp_path, run_ranks):
    """Three frames on two ranks: the sampler gives the first one twice, which must count once."""
    frames = [*FRAMES, ([2, 2], [2, 1], [4.0, 50.0])]
    expected = fill(PointIoUMetric(ranges_m=[(0, 10)]), frames).evaluate(3)
    torch.save(frames, tmp_path / "frames.pt")
    for figures in run_ranks(Path(__file__), tmp_path):
        assert figures == expected


def evaluate_share(rank: int, folder: Path) -> None:
    """What a process of the test above does."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    frames = torch.load(folder / "frames.pt")
    shares = ([frames[0], frames[2]], [frames[1], frames[0]])
    torch.save(fill(PointIoUMetric(ranges_m=[(0, 10)]), shares[rank]).evaluate(3), folder / f"{rank}.pt")
    leave_processes()


if __name__ == "__main__":
    evaluate_share(int(sys.argv[1]), Path(sys.argv[2]))
