"""The intersection kernel against its twin, and the ops on it."""

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from perceptkd.ops import box_iou_rotated as module
from perceptkd.ops.box_iou_rotated import box_iou_rotated
from perceptkd.ops.nms import nms_rotated


def boxes(count: int) -> Tensor:
    """Random boxes; some are equal, upright, without area or share an edge."""
    found = torch.cat(
        (torch.rand(count, 2) * 6, torch.rand(count, 2) * 4, torch.rand(count, 1) * 7 - 3), dim=1
    ).double()
    found[1::5] = found[::5][: len(found[1::5])]
    found[2::5, 4] = math.pi / 2
    found[3::5, 2] = 0
    found[4::5, :] = torch.tensor([1.0, 1, 2, 2, 0])
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("first", "second"), [(1, 1), (8, 64), (21, 130), (0, 5)])
def test_equals_the_twin(kernel_device: str, dtype: torch.dtype, tolerance: float, first: int, second: int) -> None:
    from perceptkd.ops.triton_kernels.rotated_intersection import intersections

    rows, columns = boxes(first), boxes(second)
    found = intersections(rows.to(kernel_device, dtype), columns.to(kernel_device, dtype))
    expected = module._intersection_torch(rows[:, None], columns[None])
    torch.testing.assert_close(found.cpu().double(), expected, atol=tolerance, rtol=tolerance)


def test_overlap_and_suppression_reach_the_kernel(kernel_device: str, on_triton: None) -> None:
    found = boxes(40)
    area = found[:, 2] * found[:, 3]
    shared = module._intersection_torch(found[:, None], found[None])
    expected = torch.where(shared > 0, shared / (area[:, None] + area - shared), 0)
    torch.testing.assert_close(box_iou_rotated(found.to(kernel_device), found.to(kernel_device)).cpu(), expected)
    scores = torch.rand(40)
    kept = nms_rotated(found.to(kernel_device), scores.to(kernel_device), 0.3).cpu()
    order, alive = scores.argsort(descending=True), torch.ones(40, dtype=torch.bool)
    by_hand = []
    for index in order.tolist():
        if alive[index]:
            by_hand.append(index)
            alive &= expected[index] <= 0.3
    assert kept.tolist() == by_hand
