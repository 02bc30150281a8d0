"""Deformable RoI pooling against its definition and under mmcv's modules."""

import math

import pytest
import torch
from torch import Tensor

from perceptkd.ops import deform_roi_pool as module
from perceptkd.ops.deform_roi_pool import Pooling, deform_roi_pool, deform_roi_pool_gradients
from perceptkd.ops.roi_parts import roi_boxes

ROIS = [
    [0, 4, 3, 15, 11],
    [1, 0, 0, 14, 12],  # the whole map
    [1, 2.5, 1.25, 9.75, 10.5],
    [0, -9, -7, 3, 2],  # partly outside
    [0, 40, 40, 50, 52],  # outside
    [1, 6, 6, 6, 6],  # no size
    [1, 9, 8, 3, 5],  # inside out
    [0, 5, 2, 5.001, 12],
]
POOLINGS = [
    Pooling((2, 3), spatial_scale=0.5, sampling_ratio=2, gamma=0.3),
    Pooling((2, 3), spatial_scale=0.5, sampling_ratio=0, gamma=1.0),
    Pooling((1, 1), spatial_scale=1.0, sampling_ratio=1),
]


def read(image: Tensor, y: float, x: float) -> Tensor:
    """Bilinear value of [C, H, W]: the border reaches one pixel out, beyond is 0."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    rows = (1 - (torch.arange(height, dtype=torch.float64) - min(max(y, 0), height - 1)).abs()).clamp(min=0)
    columns = (1 - (torch.arange(width, dtype=torch.float64) - min(max(x, 0), width - 1)).abs()).clamp(min=0)
    return torch.einsum("h,chw,w->c", rows, image, columns)


def pool_by_definition(features: Tensor, rois: Tensor, offset: Tensor | None, pooling: Pooling) -> Tensor:
    bins_h, bins_w = pooling.output_size
    result = torch.zeros(len(rois), features.shape[1], bins_h, bins_w, dtype=torch.float64)
    for r, row, column in torch.cartesian_prod(*map(torch.arange, (len(rois), bins_h, bins_w))).tolist():
        sample, (x1, y1, x2, y2) = int(rois[r, 0]), [c * pooling.spatial_scale - 0.5 for c in rois[r, 1:].tolist()]
        bin_h, bin_w = (y2 - y1) / bins_h, (x2 - x1) / bins_w
        grid_h = pooling.sampling_ratio or math.ceil(torch.tensor(bin_h).float())
        grid_w = pooling.sampling_ratio or math.ceil(torch.tensor(bin_w).float())
        move_x, move_y = (0, 0) if offset is None else offset[r, :, row, column].tolist()
        left = x1 + pooling.gamma * (x2 - x1) * move_x + column * bin_w
        top = y1 + pooling.gamma * (y2 - y1) * move_y + row * bin_h
        for i in range(grid_h):
            for j in range(grid_w):
                value = read(features[sample], top + (i + 0.5) * bin_h / grid_h, left + (j + 0.5) * bin_w / grid_w)
                result[r, :, row, column] += value / (grid_h * grid_w)
    return result


def random_inputs(pooling: Pooling, *, device: str = "cpu", rois: int = len(ROIS)) -> tuple[Tensor, Tensor, Tensor]:
    features = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    offset = torch.randn(rois, 2, *pooling.output_size, dtype=torch.float64)
    offset[1::2, :, 0] = 0
    return (
        features.to(device),
        torch.tensor(ROIS[:rois], dtype=torch.float64, device=device).view(-1, 5),
        offset.to(device),
    )


def gradients_by_autograd(inputs: tuple[Tensor, ...], upstream: Tensor, pooling: Pooling) -> tuple[Tensor, ...]:
    features, offset = inputs[0].clone().requires_grad_(), inputs[2].clone().requires_grad_()
    output = deform_roi_pool(features, inputs[1], offset, pooling=pooling)
    return torch.autograd.grad(output, (features, offset), upstream)


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_equals_the_definition(device: str, pooling: Pooling) -> None:
    features, rois, offset = random_inputs(pooling)
    for moves in (offset, None):
        expected = pool_by_definition(features, rois, moves, pooling)
        arguments = (features.to(device), rois.to(device), None if moves is None else moves.to(device))
        torch.testing.assert_close(deform_roi_pool(*arguments, pooling=pooling).cpu(), expected)
    assert expected[1].any()
    assert not expected[4].any()


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_gradient_is_the_derivative(device: str, pooling: Pooling) -> None:
    features, rois, offset = random_inputs(pooling, device=device)
    offset += 0.0123
    leaves = [features.requires_grad_(), offset.requires_grad_()]
    assert torch.autograd.gradcheck(lambda f, o: deform_roi_pool(f, rois, o, pooling=pooling), leaves, fast_mode=True)


@pytest.mark.parametrize(("x", "slope"), [(-0.4, 0.0), (0.0, 3.0), (1.0, 6.0), (2.0, 0.0), (2.4, 0.0)])
def test_gradient_at_the_border_of_the_map(device: str, x: float, slope: float) -> None:
    """Where the sample is clamped the value is constant; on a pixel the gradient is that to the right."""
    features = torch.tensor([[[[2.0, 5.0, 11.0]]]], device=device)
    roi = torch.tensor([[0, x, 0, x + 1, 1]], device=device)
    offset = torch.zeros(1, 2, 1, 1, device=device, requires_grad=True)
    deform_roi_pool(features, roi, offset, pooling=Pooling((1, 1), sampling_ratio=1, gamma=1.0)).sum().backward()
    torch.testing.assert_close(offset.grad.flatten(), torch.tensor([slope, 0.0], device=device))


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_mmcv_function(device: str, pooling: Pooling) -> None:
    from mmcv.ops import deform_roi_pool as mmcv_pool

    inputs = random_inputs(pooling, device=device)
    features, rois, offset = inputs[0].requires_grad_(), inputs[1], inputs[2].requires_grad_()
    options = (pooling.output_size, pooling.spatial_scale, pooling.sampling_ratio, pooling.gamma)
    output = mmcv_pool(features, rois, offset, *options)
    torch.testing.assert_close(output, deform_roi_pool(*inputs, pooling=pooling))
    upstream = torch.randn_like(output)
    found = torch.autograd.grad(output, (features, offset), upstream)
    torch.testing.assert_close(found, gradients_by_autograd(inputs, upstream, pooling))
    still = mmcv_pool(features, rois, None, *options)
    (found_still,) = torch.autograd.grad(still, features, upstream)
    zeros = (inputs[0], rois, torch.zeros_like(offset))
    torch.testing.assert_close(found_still, gradients_by_autograd(zeros, upstream, pooling)[0])


@pytest.mark.parametrize("kind", ["DeformRoIPoolPack", "ModulatedDeformRoIPoolPack"])
def test_mmcv_modules_train(device: str, kind: str) -> None:
    import mmcv.ops

    pool = getattr(mmcv.ops, kind)((2, 2), 3, deform_fc_channels=4, spatial_scale=0.5).to(device)
    features, rois, _ = (tensor.float() for tensor in random_inputs(Pooling((2, 2)), device=device))
    output = pool(features, rois)
    assert output.shape == (len(ROIS), 3, 2, 2)
    output.square().sum().backward()
    assert pool.offset_fc[-1].bias.grad.abs().sum() > 0


@pytest.mark.parametrize("pooling", POOLINGS[:2], ids=str)
def test_parts_change_nothing(device: str, monkeypatch: pytest.MonkeyPatch, pooling: Pooling) -> None:
    inputs = random_inputs(pooling, device=device)
    whole = deform_roi_pool(*inputs, pooling=pooling)
    upstream = torch.randn_like(whole)
    expected = gradients_by_autograd(inputs, upstream, pooling)
    monkeypatch.setattr(module, "PIXELS", 1)
    sizes = roi_boxes(inputs[1], pooling.spatial_scale, aligned=True)[-1]
    parts = [torch.arange(len(ROIS), device=device)[some].tolist() for some, _ in module._parts(sizes, pooling)]
    sampled = [r for r in range(len(ROIS)) if pooling.sampling_ratio or (sizes[r] > 0).all()]
    assert sorted(parts) == [[r] for r in sampled]
    torch.testing.assert_close(deform_roi_pool(*inputs, pooling=pooling), whole)
    torch.testing.assert_close(deform_roi_pool_gradients(upstream, *inputs, pooling=pooling), expected)


def test_half_precision_samples_in_float32(device: str) -> None:
    inputs = [tensor.half() for tensor in random_inputs(POOLINGS[0], device=device)]
    found = deform_roi_pool(*inputs, pooling=POOLINGS[0])
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, deform_roi_pool(*(t.float() for t in inputs), pooling=POOLINGS[0]).half())
    gradients = deform_roi_pool_gradients(found, *inputs, pooling=POOLINGS[0])
    assert [gradient.dtype for gradient in gradients] == [torch.float16] * 2


@pytest.mark.parametrize("pooling", POOLINGS[:2], ids=str)
def test_no_rois(device: str, pooling: Pooling) -> None:
    from mmcv.ops import deform_roi_pool as mmcv_pool

    features, rois, offset = random_inputs(pooling, device=device, rois=0)
    output = deform_roi_pool(features.requires_grad_(), rois, offset.requires_grad_(), pooling=pooling)
    assert output.shape == (0, 3, 2, 3)
    assert [gradient.count_nonzero() for gradient in torch.autograd.grad(output.sum(), (features, offset))] == [0, 0]
    assert mmcv_pool(features, rois, None, pooling.output_size, 0.5, pooling.sampling_ratio).shape == (0, 3, 2, 3)


def test_layout_in_memory_does_not_matter() -> None:
    features, rois, offset = random_inputs(POOLINGS[0])
    expected = deform_roi_pool(features, rois, offset, pooling=POOLINGS[0])
    turned = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in (features, rois, offset)]
    torch.testing.assert_close(deform_roi_pool(*turned, pooling=POOLINGS[0]), expected)


@pytest.mark.parametrize(
    ("position", "tensor", "message"),
    [
        (0, torch.zeros(3, 6, 7), r"features must be .* \[N, C, H, W\], got shape \(3, 6, 7\)"),
        (1, torch.zeros(8, 4), r"rois must be .* \[N, 5\], got shape \(8, 4\)"),
        (2, torch.zeros(8, 2, 3, 2), r"offset must be .* \[8, 2, 2, 3\], got shape \(8, 2, 3, 2\)"),
        (2, torch.zeros(8, 2, 2, 3, device="meta"), "one device, got features on cpu, offset on meta"),
    ],
)
def test_wrong_arguments_are_named(position: int, tensor: Tensor, message: str) -> None:
    inputs = list(random_inputs(POOLINGS[0]))
    inputs[position] = tensor
    with pytest.raises(ValueError, match=message):
        deform_roi_pool(*inputs, pooling=POOLINGS[0])


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_roi_that_is_not_finite_pools_to_nothing(device: str, pooling: Pooling, broken: float) -> None:
    features, rois, offset = random_inputs(pooling, device=device)
    rois[2, 3] = broken
    inputs = (features.requires_grad_(), rois, offset.requires_grad_())
    output = deform_roi_pool(*inputs, pooling=pooling)
    assert not output[2].any()
    gradients = torch.autograd.grad(output.sum(), (features, offset))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[1][2].any()


def test_rois_without_samples_keep_the_graph(device: str) -> None:
    features, rois, offset = random_inputs(POOLINGS[1], device=device)
    rois[:, 3:] = rois[:, 1:3]
    output = deform_roi_pool(features.requires_grad_(), rois, offset.requires_grad_(), pooling=POOLINGS[1])
    assert not output.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(output.sum(), (features, offset)))
