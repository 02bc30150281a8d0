"""Nothing through every op of mmcv's, forward and backward: it gives outputs and gradients of the right shape."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import perceptkd.compat  # noqa: F401
from perceptkd.ops import mmcv_ext_functions

#: mmcv's Python side answers these itself when there is nothing; its deformable convolutions refuse no samples.
NOT_REACHED = {
    "bbox_overlaps",
    "nms_match",
    "nms_rotated",
    "nms_quadri",
    "box_iou_quadri",
    "box_iou_rotated",
    "masked_im2col_forward",
    "masked_col2im_forward",
    "deform_conv_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "modulated_deform_conv_forward",
    "modulated_deform_conv_backward",
    "get_compiler_version",
    "get_compiling_cuda_version",
}

GRID = ([1, 1, 1], [0, 0, 0, 4, 4, 4])


class Inputs:
    """Makes tensors on a device; those of floats are leaves, whose gradients :meth:`check` asks for."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.leaves: list[Tensor] = []

    def floats(self, *shape: int) -> Tensor:
        leaf = torch.rand(shape, device=self.device, requires_grad=True)
        self.leaves.append(leaf)
        return leaf

    def plain(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device)

    def integers(self, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def check(self, *outputs: Tensor) -> None:
        """Every leaf gets a gradient of its shape, which is zero."""
        total = sum(output.sum() for output in outputs if output.is_floating_point())
        gradients = torch.autograd.grad(total, self.leaves)
        assert [gradient.shape for gradient in gradients] == [leaf.shape for leaf in self.leaves]
        assert not any(gradient.any() for gradient in gradients)


def sampling(ops: Any, make: Inputs) -> None:
    clouds, none = make.plain(2, 5, 3), make.plain(2, 0, 3)
    assert ops.ball_query(0, 1.0, 4, clouds, none).shape == (2, 0, 4)
    assert ops.ball_query(0, 1.0, 4, none, clouds).tolist() == [[[0] * 4] * 5] * 2
    counts = make.integers(2, dtype=torch.int32)
    assert ops.ball_query(0, 1.0, 4, none[0], none[0], counts, counts).shape == (0, 4)
    assert ops.knn(3, clouds, none).shape == (2, 3, 0)
    assert ops.three_nn(none, clouds)[1].shape == (2, 0, 3)
    assert ops.furthest_point_sample(clouds, 0).shape == (2, 0)
    assert ops.furthest_point_sample_with_dist(make.plain(0, 5, 5), 3).shape == (0, 3)


def grouping(ops: Any, make: Inputs) -> None:
    features, stacked, sources = make.floats(2, 3, 5), make.floats(0, 3), make.floats(2, 3, 4)
    counts = make.integers(2, dtype=torch.int32)
    outputs = (
        ops.gather_points(features, make.integers(2, 0, dtype=torch.int32)),
        ops.grouping_operation(features, make.integers(2, 0, 4, dtype=torch.int32)),
        ops.grouping_operation(stacked, make.integers(0, 4, dtype=torch.int32), counts, counts),
        ops.three_interpolate(sources, make.integers(2, 0, 3, dtype=torch.int32), make.plain(2, 0, 3)),
    )
    assert [output.shape for output in outputs] == [(2, 3, 0), (2, 3, 0, 4), (0, 3, 4), (2, 3, 0)]
    make.check(*outputs)


def assembling(ops: Any, make: Inputs) -> None:
    inputs = make.floats(2, 0, 3, 4), make.floats(2, 5, 4, 6), make.floats(2, 5, 4, 6)
    output = ops.assign_score_withk(*inputs, make.integers(2, 0, 3), "sum")
    assert output.shape == (2, 6, 0, 3)
    make.check(output)


def chamfer(ops: Any, make: Inputs) -> None:
    make.check(*ops.chamfer_distance(make.floats(2, 0, 2), make.floats(2, 0, 2)))


def boxes(ops: Any, make: Inputs) -> None:
    scores = make.plain(0)
    assert ops.nms(make.plain(0, 4), scores, 0.5)[1].shape == (0,)
    assert ops.soft_nms(make.plain(0, 4), scores)[1].shape == (0,)
    assert ops.nms3d(make.plain(0, 7), scores, 0.5).shape == (0,)
    assert ops.nms3d_normal(make.plain(0, 7), scores, 0.5).shape == (0,)
    assert ops.boxes_overlap_bev(make.plain(0, 7), make.plain(3, 7)).shape == (0, 3)
    assert ops.points_in_boxes_all(make.plain(2, 0, 3), make.plain(2, 4, 7)).shape == (2, 0, 4)
    assert ops.points_in_boxes_part(make.plain(2, 5, 3), make.plain(2, 0, 7)).tolist() == [[-1] * 5] * 2
    assert ops.points_in_boxes_cpu(make.plain(2, 5, 3), make.plain(2, 0, 7)).shape == (2, 5, 0)
    assert ops.points_in_polygons(make.plain(0, 2), make.plain(3, 8)).shape == (0, 3)


def voxels(ops: Any, make: Inputs) -> None:
    found, coordinates, counts = ops.voxelization(make.plain(0, 4), *GRID, 3, 10)
    assert (found.shape, coordinates.shape, counts.shape) == ((0, 3, 4), (0, 3), (0,))
    assert ops.voxelization(make.plain(0, 4), *GRID, -1, -1).shape == (0, 3)
    features, _ = ops.dynamic_scatter(make.floats(0, 4), make.integers(0, 3, dtype=torch.int32), "max")
    assert features.shape == (0, 4)
    make.check(features)


def point_pooling(ops: Any, make: Inputs) -> None:
    features = make.floats(5, 2)
    pooled = [ops.RoIAwarePool3d(2, mode=mode)(make.plain(0, 7), make.plain(5, 3), features) for mode in ("max", "avg")]
    assert pooled[0].shape == (0, 2, 2, 2, 2)
    make.check(*pooled)
    _, is_empty = ops.RoIPointPool3d(4)(make.plain(2, 0, 3), make.plain(2, 0, 1), make.plain(2, 3, 7))
    assert is_empty.tolist() == [[1] * 3] * 2


def roi_pooling(ops: Any, make: Inputs) -> None:
    maps, rois, turned = make.floats(1, 4, 6, 6), make.plain(0, 5), make.plain(0, 6)
    by_roi = make.floats(0, 5)
    outputs = (
        ops.roi_align(maps, rois, (2, 3), 1.0, 0, "avg", True),
        ops.roi_align(maps, rois, (2, 3), 1.0, 0, "max", True),
        ops.roi_align_rotated(maps, turned, (2, 3), 1.0, 0, True, False),
        ops.roi_pool(maps, rois, (2, 3)),
        ops.prroi_pool(maps, by_roi, (2, 3), 1.0),
        ops.deform_roi_pool(maps, rois, make.plain(0, 2, 2, 3), (2, 3)),
    )
    assert {output.shape for output in outputs} == {(0, 4, 2, 3)}
    borders = ops.border_align(maps, make.plain(1, 0, 4), 3)
    assert borders.shape == (1, 1, 0, 4)
    make.check(*outputs, borders)


def maps(ops: Any, make: Inputs) -> None:
    import mmcv._ext

    features, masks = make.floats(0, 4, 3, 3), make.floats(0, 9, 6, 6)
    outputs = ops.carafe(features, masks, 3, 1, 2), ops.PSAMask("collect", (3, 3))(make.floats(0, 9, 3, 3))
    assert [output.shape for output in outputs] == [(0, 4, 6, 6), (0, 9, 3, 3)]
    make.check(*outputs)
    naive = ops.carafe_naive(features.detach(), masks.detach(), 3, 1, 2)
    gradients = make.plain(0, 4, 3, 3), make.plain(0, 9, 6, 6)
    mmcv._ext.carafe_naive_backward(naive, features, masks, *gradients, kernel_size=3, group_size=1, scale_factor=2)


def attention(ops: Any, make: Inputs) -> None:
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction as Function

    shapes, starts = make.integers(1, 2) + 2, make.integers(1)
    inputs = make.floats(2, 4, 2, 3), make.floats(2, 0, 2, 1, 4, 2), make.floats(2, 0, 2, 1, 4)
    output = Function.apply(inputs[0], shapes, starts, *inputs[1:], 64)
    assert output.shape == (2, 0, 6)
    make.check(output)


def losses(ops: Any, make: Inputs) -> None:
    target = make.integers(0)
    outputs = (
        ops.sigmoid_focal_loss(make.floats(0, 3), target, 2.0, 0.25, None, "sum"),
        ops.softmax_focal_loss(make.floats(0, 3), target, 2.0, 0.25, None, "sum"),
    )
    assert [output.item() for output in outputs] == [0, 0]
    make.check(*outputs)


GROUPS: list[Callable[[Any, Inputs], None]] = [
    sampling,
    grouping,
    assembling,
    chamfer,
    boxes,
    voxels,
    point_pooling,
    roi_pooling,
    maps,
    attention,
    losses,
]


def test_every_op_takes_nothing(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mmcv.ops

    reached, functions = set(), mmcv_ext_functions.functions()

    def record(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            reached.add(name)
            return functions[name](*args, **kwargs)

        return call

    recorders = {name: record(name) for name in functions}
    monkeypatch.setattr(mmcv_ext_functions, "functions", lambda: recorders)
    for group in GROUPS:
        group(mmcv.ops, Inputs(device))
    of_batch_norm = {name for name in functions if name.startswith("sync_bn_")}  # test_sync_batch_norm.py
    assert functions.keys() - reached == NOT_REACHED | of_batch_norm
