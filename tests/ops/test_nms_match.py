"""NMS match against a loop, the torch form against numba, and mmcv's function on top."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import nms as nms_module
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


def assert_forms_agree(boxes: Tensor, threshold: float) -> int:
    """Returns how many groups both forms found in boxes that are sorted already."""
    owner, groups = module._owners_numba(boxes, threshold)
    expected, expected_groups = module._owners_torch(boxes, threshold)
    assert groups == expected_groups
    assert owner.dtype == expected.dtype == torch.int64
    assert owner.tolist() == expected.tolist()
    return groups


@given(
    count=st.integers(0, 40),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from((-1.0, 0.0, 0.25, 0.3, 1 / 3, 0.5, 0.6, 1.0, 1.5, math.nan)),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    side=st.sampled_from((1.0, 0.1, 1e-19, 1e20)),
)
@settings(max_examples=100, deadline=None)
def test_torch_and_numba_agree(count: int, seed: int, threshold: float, dtype: torch.dtype, side: float) -> None:
    """At the threshold in the boxes' own precision too, and where areas are subnormal, zero or infinite."""
    torch.manual_seed(seed)
    assert_forms_agree((random_boxes(count) * side).to(dtype), threshold)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_torch_and_numba_agree_on_boxes_without_a_size(dtype: torch.dtype, value: float) -> None:
    """Corners in the wrong order, infinite or no number."""
    boxes = torch.randint(0, 4, (200, 4)).to(dtype)
    boxes[torch.rand(200, 4) < 0.1] = value
    for threshold in (0.0, 0.25, 0.5):
        assert_forms_agree(boxes, threshold)


def test_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch form, with blocks and parts small enough that there are several."""
    monkeypatch.setattr(nms_module, "_BLOCK", 16)
    monkeypatch.setattr(module, "_PAIRS", 1)
    assert 1 < assert_forms_agree(random_boxes(40), 0.3) < 40


def test_rows_that_are_not_contiguous_and_need_gradients() -> None:
    """As mmcv passes them: columns of one tensor."""
    boxes, scores = random_boxes(40), torch.rand(40)
    rows = torch.cat((boxes, scores[:, None].double()), dim=1).requires_grad_()
    found = nms_match(rows[:, :4], rows[:, 4], 0.3)
    assert as_lists(found) == as_lists(nms_match(boxes, scores, 0.3))
    assert {group.dtype for group in found} == {torch.int64}


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
