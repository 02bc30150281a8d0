"""What mmcv's ops give on random and on adversarial inputs; the same calls run on compiled ops and on ours.

Inputs come from numpy's ``RandomState``, whose numbers are the same in every version. Scores are distinct: what equal
ones do depends on the sort. Only ops that mmcv has a CPU kernel for are here.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Outputs = dict[str, Tensor]
Case = Callable[[], Outputs]


def aligned_boxes(random: np.random.RandomState, count: int) -> Tensor:
    """(x1, y1, x2, y2); some are equal, some touch, one has no area."""
    low = random.rand(count, 2) * 50
    boxes = np.concatenate((low, low + 1 + random.rand(count, 2) * 30), axis=1)
    boxes[1::7] = boxes[::7][: len(boxes[1::7])]
    boxes[2::7] = boxes[::7][: len(boxes[2::7])] + np.array([10.0, 0, 10.0, 0])
    boxes[3] = [5, 5, 5, 9]
    return torch.tensor(boxes, dtype=torch.float32)


def rotated_boxes(random: np.random.RandomState, count: int) -> Tensor:
    """(x, y, width, height, angle); some upright, some turned by a quarter, some nested."""
    boxes = np.concatenate((random.rand(count, 2) * 30, 1 + random.rand(count, 2) * 15), axis=1)
    boxes = np.concatenate((boxes, random.rand(count, 1) * 6.2 - 3.1), axis=1)
    boxes[::9, 4] = 0
    boxes[1::9, 4] = np.pi / 2
    boxes[2::9, :2] = boxes[0, :2]
    return torch.tensor(boxes, dtype=torch.float32)


def rectangles(random: np.random.RandomState, count: int) -> Tensor:
    """Corners of turned rectangles, [count, 8]; of other quadrilaterals mmcv does not find the corners inside."""
    x, y, width, height, angle = rotated_boxes(random, count).double().T
    cos, sin = angle.cos(), angle.sin()
    corners = []
    for right, down in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        corners += [x + right * width * cos - down * height * sin, y + right * width * sin + down * height * cos]
    return torch.stack(corners, dim=1).float()


def distinct_scores(random: np.random.RandomState, count: int) -> Tensor:
    return torch.tensor((random.permutation(count) + 1) / (count + 1), dtype=torch.float32)


def with_gradients(output: Tensor, **inputs: Tensor) -> Outputs:
    """The output and the gradients of a fixed weighting of it."""
    upstream = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    gradients = torch.autograd.grad(output, list(inputs.values()), upstream)
    return {"output": output.detach()} | {f"by_{name}": value for name, value in zip(inputs, gradients)}


def leaf(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def nms_case(offset: int) -> Outputs:
    from mmcv.ops import nms

    random = np.random.RandomState(1)
    _, kept = nms(aligned_boxes(random, 120), distinct_scores(random, 120), 0.4, offset=offset)
    return {"kept": kept}


def batched_nms_case() -> Outputs:
    from mmcv.ops import batched_nms

    random = np.random.RandomState(2)
    labels = torch.tensor(random.randint(0, 4, 120))
    found, kept = batched_nms(
        aligned_boxes(random, 120), distinct_scores(random, 120), labels, {"type": "nms", "iou_threshold": 0.5}
    )
    return {"found": found, "kept": kept}


def soft_nms_case(method: str) -> Outputs:
    from mmcv.ops import soft_nms

    random = np.random.RandomState(3)
    found, kept = soft_nms(aligned_boxes(random, 60), distinct_scores(random, 60), 0.3, 0.5, 1e-3, method)
    return {"found": found, "kept": kept}


def nms_match_case() -> Outputs:
    from mmcv.ops import nms_match

    random = np.random.RandomState(4)
    rows = torch.cat((aligned_boxes(random, 60), distinct_scores(random, 60)[:, None]), dim=1)
    groups = [torch.as_tensor(group) for group in nms_match(rows, 0.5)]
    return {"members": torch.cat(groups), "sizes": torch.tensor([len(group) for group in groups])}


def overlaps_case(mode: str, aligned: bool, offset: int) -> Outputs:
    from mmcv.ops import bbox_overlaps

    random = np.random.RandomState(5)
    first, second = aligned_boxes(random, 40), aligned_boxes(random, 40 if aligned else 25)
    return {"overlap": bbox_overlaps(first, second, mode=mode, aligned=aligned, offset=offset)}


def rotated_overlaps_case(mode: str, aligned: bool) -> Outputs:
    from mmcv.ops import box_iou_rotated

    random = np.random.RandomState(6)
    first, second = rotated_boxes(random, 40), rotated_boxes(random, 40 if aligned else 25)
    return {"overlap": box_iou_rotated(first, second, mode=mode, aligned=aligned)}


def rotated_nms_case() -> Outputs:
    """Without labels, which mmcv's CPU kernel ignores."""
    from mmcv.ops import nms_rotated

    random = np.random.RandomState(7)
    found, kept = nms_rotated(rotated_boxes(random, 100), distinct_scores(random, 100), 0.2)
    return {"found": found, "kept": kept}


def quadri_overlaps_case(mode: str) -> Outputs:
    from mmcv.ops import box_iou_quadri

    random = np.random.RandomState(8)
    return {"overlap": box_iou_quadri(rectangles(random, 30), rectangles(random, 20), mode=mode)}


def quadri_nms_case() -> Outputs:
    from mmcv.ops import nms_quadri

    random = np.random.RandomState(9)
    found, kept = nms_quadri(rectangles(random, 80), distinct_scores(random, 80), 0.2)
    return {"found": found, "kept": kept}


def rois(random: np.random.RandomState, count: int) -> Tensor:
    """(sample, x1, y1, x2, y2) on maps of 20 x 24 pixels at stride 2; some reach outside, one has no area."""
    low = random.rand(count, 2) * 40 - 4
    boxes = np.concatenate((random.randint(0, 2, (count, 1)), low, low + random.rand(count, 2) * 25), axis=1)
    boxes[0, 3:] = boxes[0, 1:3]
    return torch.tensor(boxes, dtype=torch.float32)


def roi_align_case(sampling_ratio: int, mode: str, aligned: bool) -> Outputs:
    from mmcv.ops import roi_align

    random = np.random.RandomState(10)
    maps = leaf(random.randn(2, 3, 20, 24))
    return with_gradients(roi_align(maps, rois(random, 12), (4, 5), 0.5, sampling_ratio, mode, aligned), maps=maps)


def roi_align_rotated_case(clockwise: bool) -> Outputs:
    from mmcv.ops import roi_align_rotated

    random = np.random.RandomState(11)
    maps = leaf(random.randn(2, 3, 20, 24))
    boxes = torch.cat((torch.tensor(random.randint(0, 2, (10, 1))).float(), rotated_boxes(random, 10)), dim=1)
    return with_gradients(roi_align_rotated(maps, boxes, (4, 3), 0.5, 2, True, clockwise), maps=maps)


def deform_conv_case(stride: int, groups: int) -> Outputs:
    from mmcv.ops import deform_conv2d

    random = np.random.RandomState(12)
    maps, weight = leaf(random.randn(2, 4, 9, 10)), leaf(random.randn(6, 4 // groups, 3, 3))
    size = ((9 - 1) // stride + 1, (10 - 1) // stride + 1)
    offset = leaf(random.randn(2, 2 * 2 * 9, *size) * 2)
    output = deform_conv2d(maps, offset, weight, stride, 1, 1, groups, 2)
    return with_gradients(output, maps=maps, offset=offset, weight=weight)


def modulated_deform_conv_case(offset_size: tuple[int, int]) -> Outputs:
    from mmcv.ops import modulated_deform_conv2d

    random = np.random.RandomState(13)
    maps, weight, bias = leaf(random.randn(2, 4, 9, 10)), leaf(random.randn(6, 2, 3, 3)), leaf(random.randn(6))
    offset, mask = leaf(random.randn(2, 2 * 2 * 9, *offset_size) * 2), leaf(random.rand(2, 2 * 9, *offset_size))
    output = modulated_deform_conv2d(maps, offset, mask, weight, bias, 1, 2, 2, 2, 2)
    return with_gradients(output, maps=maps, offset=offset, mask=mask, weight=weight, bias=bias)


def points_in_boxes_case() -> Outputs:
    from mmcv.ops import points_in_boxes_cpu

    random = np.random.RandomState(14)
    boxes = np.concatenate((random.rand(2, 6, 3) * 8, 1 + random.rand(2, 6, 3) * 4, random.rand(2, 6, 1) * 6), axis=2)
    points = torch.tensor(random.rand(2, 400, 3) * 12 - 2, dtype=torch.float32)
    return {"inside": points_in_boxes_cpu(points, torch.tensor(boxes, dtype=torch.float32))}


def psa_mask_case(kind: str) -> Outputs:
    from mmcv.ops import PSAMask

    random = np.random.RandomState(15)
    maps = leaf(random.randn(2, 15, 6, 7))
    return with_gradients(PSAMask(kind, (5, 3))(maps), maps=maps)


def voxelization_case(max_points: int) -> Outputs:
    from mmcv.ops import voxelization

    random = np.random.RandomState(16)
    points = torch.tensor(random.rand(500, 4) * 12 - 1, dtype=torch.float32)
    size, bounds = [0.8, 0.8, 2.0], [0, 0, 0, 10.4, 8, 8]
    if max_points < 0:
        return {"coordinates": voxelization(points, size, bounds, -1, -1)}
    voxels, coordinates, counts = voxelization(points, size, bounds, max_points, 200)
    return {"voxels": voxels, "coordinates": coordinates, "counts": counts}


CASES: dict[str, Case] = {
    "nms": lambda: nms_case(0),
    "nms of inclusive boxes": lambda: nms_case(1),
    "batched_nms": batched_nms_case,
    **{f"soft_nms {method}": lambda method=method: soft_nms_case(method) for method in ("naive", "linear", "gaussian")},
    "nms_match": nms_match_case,
    "bbox_overlaps": lambda: overlaps_case("iou", False, 0),
    "bbox_overlaps iof": lambda: overlaps_case("iof", False, 1),
    "bbox_overlaps aligned": lambda: overlaps_case("iou", True, 0),
    "box_iou_rotated": lambda: rotated_overlaps_case("iou", False),
    "box_iou_rotated iof": lambda: rotated_overlaps_case("iof", False),
    "box_iou_rotated aligned": lambda: rotated_overlaps_case("iou", True),
    "nms_rotated": rotated_nms_case,
    "box_iou_quadri": lambda: quadri_overlaps_case("iou"),
    "box_iou_quadri iof": lambda: quadri_overlaps_case("iof"),
    "nms_quadri": quadri_nms_case,
    "roi_align": lambda: roi_align_case(0, "avg", True),
    "roi_align as in mmdet 1": lambda: roi_align_case(2, "avg", False),
    "roi_align max": lambda: roi_align_case(2, "max", True),
    "roi_align_rotated": lambda: roi_align_rotated_case(False),
    "roi_align_rotated clockwise": lambda: roi_align_rotated_case(True),
    "deform_conv": lambda: deform_conv_case(1, 2),
    "deform_conv strided": lambda: deform_conv_case(2, 1),
    "modulated_deform_conv": lambda: modulated_deform_conv_case((9, 10)),
    "modulated_deform_conv with offsets of a larger map": lambda: modulated_deform_conv_case((17, 20)),
    "points_in_boxes": points_in_boxes_case,
    "psamask collect": lambda: psa_mask_case("collect"),
    "psamask distribute": lambda: psa_mask_case("distribute"),
    "voxelization": lambda: voxelization_case(3),
    "voxelization without bounds": lambda: voxelization_case(-1),
}
