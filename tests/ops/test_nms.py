"""NMS against the greedy loop of its definition, the torch recursion against numba, and mmcv's wrappers on top."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import nms as module
from perceptkd.ops.bbox_overlaps import bbox_overlaps
from perceptkd.ops.box_iou_rotated import box_iou_rotated
from perceptkd.ops.nms import _soften_torch, greedy_keep, nms, nms_rotated, soft_nms

properties = settings(max_examples=40, deadline=None)
scenes = {"count": st.integers(0, 40), "seed": st.integers(0, 10**6), "threshold": st.floats(0.05, 0.95)}


def random_scene(count: int, columns: int) -> tuple[Tensor, Tensor]:
    """Crowded boxes with distinct scores; 4 columns for corners, 5 for rotated boxes."""
    centre, size = torch.rand(count, 2).double() * 6, torch.rand(count, 2).double() * 3 + 0.5
    scores = (torch.randperm(count) + 1).double() / (count + 1)
    if columns == 4:
        return torch.cat((centre - size / 2, centre + size / 2), dim=1), scores
    return torch.cat((centre, size, torch.rand(count, 1).double() * 6), dim=1), scores


def greedy_by_definition(iou: Tensor, scores: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(iou[other, index] <= threshold for other in kept):
            kept.append(index)
    return kept


@given(**scenes)
@properties
def test_nms_is_greedy(count: int, seed: int, threshold: float) -> None:
    torch.manual_seed(seed)
    boxes, scores = random_scene(count, 4)
    expected = greedy_by_definition(bbox_overlaps(boxes, boxes), scores, threshold)
    assert nms(boxes, scores, threshold).tolist() == expected


@given(**scenes)
@properties
def test_rotated_nms_is_greedy(count: int, seed: int, threshold: float) -> None:
    torch.manual_seed(seed)
    boxes, scores = random_scene(count, 5)
    expected = greedy_by_definition(box_iou_rotated(boxes, boxes), scores, threshold)
    assert nms_rotated(boxes, scores, threshold).tolist() == expected


@pytest.mark.parametrize(("suppress", "columns"), [(nms, 4), (nms_rotated, 5)])
@given(**scenes)
@properties
def test_idempotent_and_independent_of_order(suppress, columns: int, count: int, seed: int, threshold: float) -> None:
    torch.manual_seed(seed)
    boxes, scores = random_scene(count, columns)
    kept = suppress(boxes, scores, threshold)
    assert suppress(boxes[kept], scores[kept], threshold).tolist() == list(range(len(kept)))
    shuffled = torch.randperm(count)
    again = suppress(boxes[shuffled], scores[shuffled], threshold)
    assert shuffled[again].tolist() == kept.tolist()


def test_torch_recursion_equals_numba_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of other devices, with blocks small enough that boxes suppress across them."""
    monkeypatch.setattr(module, "_BLOCK", 16)
    boxes, scores = random_scene(300, 4)
    order = scores.argsort(descending=True)
    iou = bbox_overlaps(boxes[order], boxes[order])
    for threshold in (0.1, 0.4, 0.7):
        rows = greedy_keep(lambda a, b, t=threshold: iou[a][:, b] > t, 300, boxes.device)
        assert order[rows].tolist() == nms(boxes, scores, threshold).tolist()


def test_chain_of_suppressions() -> None:
    """1 drops 2, 2 would drop 3, 3 would drop 4: 1 and 3 stay."""
    left = torch.arange(6).double()
    boxes = torch.stack((left, torch.zeros(6).double(), left + 2, torch.ones(6).double()), dim=1)
    scores = torch.linspace(1, 0.5, 6).double()
    assert nms(boxes, scores, 0.3).tolist() == [0, 2, 4]
    iou = bbox_overlaps(boxes, boxes)
    assert greedy_keep(lambda a, b: iou[a][:, b] > 0.3, 6, boxes.device).tolist() == [0, 2, 4]


def test_equal_scores_keep_the_lower_index() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
    assert nms(boxes, torch.ones(3), 0.5).tolist() == [0, 2]


def test_offset_counts_pixels() -> None:
    """Inclusive pixel boxes of 2 x 2 and 2 x 1 pixels share half."""
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.4, offset=1).tolist() == [0]
    assert nms(boxes, scores, 0.4).tolist() == [0, 1]


def test_labels_separate_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2, 0], [0, 0, 2, 2, 0.1], [0, 0, 2, 2, 0.2]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
    assert nms_rotated(boxes, scores, 0.5, labels=labels).tolist() == [0, 1]


def soft_nms_by_loop(iou: Tensor, scores: list[float], threshold: float, method: str) -> list[tuple[int, float]]:
    left, chosen = dict(enumerate(scores)), []
    while left:
        best = max(left, key=left.get)
        chosen.append((best, left.pop(best)))
        for other in list(left):
            overlap = float(iou[best, other])
            if method == "gaussian":
                left[other] *= math.exp(-(overlap**2) / 0.5)
            elif overlap >= threshold:
                left[other] *= 1 - overlap if method == "linear" else 0
            if left[other] < 1e-3:
                del left[other]
    return chosen


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_equals_a_loop(method: str) -> None:
    boxes, scores = random_scene(30, 4)
    indices, lowered = soft_nms(boxes, scores, 0.3, method=method)
    expected = soft_nms_by_loop(bbox_overlaps(boxes, boxes), scores.tolist(), 0.3, method)
    assert indices.tolist() == [index for index, _ in expected]
    assert lowered.tolist() == pytest.approx([score for _, score in expected])
    current = scores.clone()
    assert _soften_torch(boxes, current, 0.3, method, 0.5, 1e-3, 0).tolist() == indices.tolist()
    torch.testing.assert_close(current[indices], lowered)


def test_soft_nms_of_equal_scores_and_boxes_without_area() -> None:
    """The first of equal scores comes first, in both forms; nothing overlaps a point."""
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 1, 1], [0, 0, 2, 2], [1, 1, 1, 1]])
    indices, lowered = soft_nms(boxes, torch.full((4,), 0.5), 0.3)
    assert (indices.tolist(), lowered.tolist()) == ([0, 1, 3], [0.5] * 3)
    assert _soften_torch(boxes, torch.full((4,), 0.5), 0.3, "linear", 0.5, 1e-3, 0).tolist() == [0, 1, 3]


@given(
    count=st.integers(0, 30),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from((0.0, 0.25, 0.5, 1.0)),
    method=st.sampled_from(("naive", "linear")),
    min_score=st.sampled_from((0.0, 1e-3, 0.25)),
    offset=st.sampled_from((0, 1)),
)
@properties
def test_soft_nms_forms_agree_on_ties(
    count: int, seed: int, threshold: float, method: str, min_score: float, offset: int
) -> None:
    """Few distinct scores, overlaps at the threshold, boxes without area. Exponentials may differ in the last digit."""
    torch.manual_seed(seed)
    corner, size = torch.randint(0, 5, (count, 2)).double(), torch.randint(0, 4, (count, 2)).double()
    boxes, scores = torch.cat((corner, corner + size), dim=1), torch.randint(1, 5, (count,)).double() / 4
    indices, lowered = soft_nms(boxes, scores, threshold, method=method, min_score=min_score, offset=offset)
    expected = _soften_torch(boxes, scores, threshold, method, 0.5, min_score, offset)
    assert indices.tolist() == expected.tolist()
    assert lowered.tolist() == scores[expected].tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_compute_in_float32(device: str, dtype: torch.dtype) -> None:
    """Boxes of some 300 pixels, whose areas are no float16."""
    for suppress, columns in ((nms, 4), (nms_rotated, 5)):
        boxes, scores = (part.to(device) for part in random_scene(200, columns))
        boxes[:, :4] *= 100
        boxes, scores = boxes.to(dtype), scores.to(dtype)
        assert torch.equal(suppress(boxes, scores, 0.3), suppress(boxes.float(), scores.float(), 0.3))
    boxes, scores = (part.to(device) for part in random_scene(40, 4))
    boxes, scores = (boxes * 100).to(dtype), scores.to(dtype)
    indices, lowered = soft_nms(boxes, scores, 0.3)
    expected, expected_lowered = soft_nms(boxes.float(), scores.float(), 0.3)
    assert torch.equal(indices, expected)
    assert torch.equal(lowered, expected_lowered.to(dtype))


def test_no_gradient() -> None:
    boxes, scores = random_scene(20, 4)
    assert not soft_nms(boxes.requires_grad_(), scores.requires_grad_(), 0.3)[1].requires_grad
    assert nms(boxes, scores, 0.3).dtype == torch.int64
    turned, scores = random_scene(20, 5)
    assert nms_rotated(turned.requires_grad_(), scores.requires_grad_(), 0.3).dtype == torch.int64


def test_mmcv_nms_wrappers() -> None:
    from mmcv import ops

    boxes, scores = random_scene(40, 4)
    detections, kept = ops.nms(boxes.float(), scores.float(), 0.4, score_threshold=0.2, max_num=5)
    mask = scores > 0.2
    expected = torch.nonzero(mask).squeeze(1)[nms(boxes[mask].float(), scores[mask].float(), 0.4)][:5]
    assert torch.equal(kept, expected)
    torch.testing.assert_close(detections, torch.cat((boxes, scores[:, None]), dim=1).float()[kept])
    soft, soft_kept = ops.soft_nms(boxes.float(), scores.float(), 0.3)
    expected_kept, lowered = soft_nms(boxes.float(), scores.float(), 0.3)
    assert torch.equal(soft_kept, expected_kept)
    torch.testing.assert_close(soft[:, 4], lowered)
    numpy_kept = ops.nms(boxes.float().numpy(), scores.float().numpy(), 0.4)[1]
    assert numpy_kept.tolist() == nms(boxes.float(), scores.float(), 0.4).tolist()


@pytest.mark.parametrize("split", [10_000, 10])
@pytest.mark.parametrize(("kind", "columns"), [("nms", 4), ("nms_rotated", 5)])
def test_mmcv_batched_nms(kind: str, columns: int, split: int) -> None:
    from mmcv.ops import batched_nms

    boxes, scores = random_scene(40, columns)
    classes = torch.randint(0, 3, (40,))
    _, kept = batched_nms(boxes, scores, classes, {"type": kind, "iou_threshold": 0.3, "split_thr": split})
    suppress = {"nms": nms, "nms_rotated": nms_rotated}[kind]
    rows = [torch.nonzero(classes == label).squeeze(1) for label in range(3)]
    expected = torch.cat([row[suppress(boxes[row], scores[row], 0.3)] for row in rows])
    assert kept.tolist() == expected[scores[expected].argsort(descending=True)].tolist()


def test_mmcv_rotated_nms_with_labels() -> None:
    from mmcv.ops import nms_rotated as mmcv_nms_rotated

    boxes, scores = random_scene(40, 5)
    labels = torch.randint(0, 3, (40,))
    _, kept = mmcv_nms_rotated(boxes, scores, 0.3, labels=labels.double())
    assert torch.equal(kept, nms_rotated(boxes, scores, 0.3, labels=labels))
    assert torch.equal(mmcv_nms_rotated(boxes, scores, 0.3)[1], nms_rotated(boxes, scores, 0.3))


def test_empty() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    assert nms_rotated(torch.zeros(0, 5), torch.zeros(0), 0.5).shape == (0,)
    assert greedy_keep(lambda a, b: torch.zeros(len(a), len(b)).bool(), 0, torch.device("cpu")).shape == (0,)
    indices, scores = soft_nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert indices.shape == scores.shape == (0,)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"boxes must be .* \[N, 4\], got shape \(3, 5\) and dtype float32"):
        nms(torch.zeros(3, 5), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match=r"scores must be a vector of 3 elements, got shape \(2,\)"):
        nms(torch.zeros(3, 4), torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match=r"labels must be a vector of 3 elements, got shape \(3, 1\)"):
        nms_rotated(torch.zeros(3, 5), torch.zeros(3), 0.5, labels=torch.zeros(3, 1))


@pytest.mark.gpu
@pytest.mark.parametrize(("suppress", "columns"), [(nms, 4), (nms_rotated, 5)])
def test_cuda_equals_cpu(suppress, columns: int) -> None:
    boxes, scores = random_scene(3000, columns)
    assert torch.equal(suppress(boxes.cuda(), scores.cuda(), 0.3).cpu(), suppress(boxes, scores, 0.3))


@pytest.mark.gpu
def test_labels_and_soft_nms_on_cuda_equal_cpu() -> None:
    boxes, scores = random_scene(3000, 5)
    labels = torch.randint(0, 4, (3000,))
    found = nms_rotated(boxes.cuda(), scores.cuda(), 0.3, labels=labels.cuda())
    assert torch.equal(found.cpu(), nms_rotated(boxes, scores, 0.3, labels=labels))
    boxes, scores = random_scene(100, 4)
    for method in ("naive", "linear", "gaussian"):
        indices, lowered = soft_nms(boxes.cuda(), scores.cuda(), 0.3, method=method)
        expected, expected_lowered = soft_nms(boxes, scores, 0.3, method=method)
        assert torch.equal(indices.cpu(), expected)
        torch.testing.assert_close(lowered.cpu(), expected_lowered)
