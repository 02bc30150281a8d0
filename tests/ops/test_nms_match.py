"""NMS match against a loop, and mmcv's function on top of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import nms_match as module
from perceptkd.ops.nms_match import nms_match


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def match_by_definition(boxes: Tensor, scores: Tensor, iou_threshold: float) -> list[list[int]]:
    rows = boxes.tolist()
    left = sorted(range(len(rows)), key=lambda i: -float(scores[i]))
    groups = []
    while left:
        best, *rest = left
        taken = [i for i in rest if iou(rows[best], rows[i]) >= iou_threshold]
        groups.append([best, *taken])
        left = [i for i in rest if i not in taken]
    return groups


def as_lists(groups: list[Tensor]) -> list[list[int]]:
    return [group.tolist() for group in groups]


def random_boxes(count: int) -> Tensor:
    """On a coarse grid: repeated boxes, boxes without size, overlaps of exactly a half."""
    corner, size = torch.randint(0, 4, (count, 2)).double(), torch.randint(0, 4, (count, 2)).double()
    return torch.cat((corner, corner + size), dim=1)


@given(count=st.integers(0, 30), seed=st.integers(0, 10**6), threshold=st.sampled_from((0.25, 0.5, 1.0)))
@settings(max_examples=30, deadline=None)
def test_equals_a_loop(device: str, count: int, seed: int, threshold: float) -> None:
    torch.manual_seed(seed)
    boxes, scores = random_boxes(count), torch.randint(0, 5, (count,)).double()
    found = nms_match(boxes.to(device), scores.to(device), threshold)
    assert as_lists(found) == match_by_definition(boxes, scores, threshold)


def test_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = random_boxes(40), torch.rand(40)
    expected = as_lists(nms_match(boxes, scores, 0.3))
    monkeypatch.setattr(module, "_PAIRS", 1)
    assert as_lists(nms_match(boxes, scores, 0.3)) == expected
    assert 1 < len(expected) < 40


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_compute_in_float32(device: str, dtype: torch.dtype) -> None:
    """An IoU of 0.4999 is less than a half, but no float16."""
    boxes = torch.tensor([[0.0, 0, 300, 300], [0, 0, 300, 150], [0, 0, 300, 149.875]], device=device).to(dtype)
    scores = torch.tensor([0.9, 0.8, 0.7], device=device)
    assert as_lists(nms_match(boxes, scores, 0.5)) == as_lists(nms_match(boxes.float(), scores, 0.5))
    assert as_lists(nms_match(boxes[:2], scores[:2], 0.5)) == [[0, 1]]


def test_mmcv_function(device: str) -> None:
    from mmcv.ops import nms_match as mmcv_nms_match

    boxes, scores = random_boxes(40).float(), torch.rand(40)
    expected = match_by_definition(boxes, scores, 0.4)
    dets = torch.cat((boxes, scores[:, None]), dim=1)
    found = mmcv_nms_match(dets.to(device), 0.4)
    assert as_lists(found) == expected
    assert found[0].device.type == device
    assert [group.tolist() for group in mmcv_nms_match(dets.numpy(), 0.4)] == expected
    assert mmcv_nms_match(dets[:0], 0.4) == []


def test_empty_and_wrong_arguments() -> None:
    assert nms_match(torch.zeros(0, 4), torch.zeros(0), 0.5) == []
    with pytest.raises(ValueError, match=r"boxes must be .* \[N, 4\], got shape \(3, 5\) and dtype float32"):
        nms_match(torch.zeros(3, 5), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="scores must be a vector of 3 elements"):
        nms_match(torch.zeros(3, 4), torch.zeros(2), 0.5)
