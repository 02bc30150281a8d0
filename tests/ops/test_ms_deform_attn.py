"""Multi-scale deformable attention against its definition and mmcv's two functions for it."""

import pytest
import torch
from torch import Tensor

from perceptkd.ops import ms_deform_attn as module
from perceptkd.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_gradients

SHAPES = [(4, 5), (2, 3), (1, 1)]
STARTS = [0, 20, 26]


def attend_by_definition(value: Tensor, shapes: list, starts: list, locations: Tensor, attention: Tensor) -> Tensor:
    """Pixels weigh 1 minus their distance to the point, along each axis, where positive."""
    samples, queries, heads, _, points = attention.shape
    result = torch.zeros(samples, queries, heads, value.shape[3], dtype=torch.float64)
    for n, query, head in torch.cartesian_prod(*map(torch.arange, (samples, queries, heads))).tolist():
        for level, ((height, width), start) in enumerate(zip(shapes, starts)):
            image = value[n, start : start + height * width, head].view(height, width, -1)
            for point in range(points):
                x, y = locations[n, query, head, level, point].tolist()
                rows = (1 - (torch.arange(height, dtype=torch.float64) + 0.5 - y * height).abs()).clamp(min=0)
                columns = (1 - (torch.arange(width, dtype=torch.float64) + 0.5 - x * width).abs()).clamp(min=0)
                read = torch.einsum("h,hwc,w->c", rows, image, columns)
                result[n, query, head] += attention[n, query, head, level, point] * read
    return result.flatten(2)


def complete(value: Tensor, locations: Tensor, attention: Tensor, device: str) -> tuple[Tensor, ...]:
    tensors = (value, torch.tensor(SHAPES), torch.tensor(STARTS), locations, attention)
    return tuple(tensor.to(device) for tensor in tensors)


def random_inputs(device: str = "cpu", *, samples: int = 2, queries: int = 7) -> tuple[Tensor, ...]:
    """Some locations lie outside; some are multiples of 1/40, which are borders and centres of pixels."""
    locations = torch.rand(samples, queries, 2, 3, 4, 2, dtype=torch.float64) * 1.6 - 0.3
    locations = torch.where(torch.rand_like(locations) < 0.5, (locations * 40).round() / 40, locations)
    attention = torch.randn(samples, queries, 2, 3, 4, dtype=torch.float64)
    value = torch.randn(samples, 27, 2, 8, dtype=torch.float64)
    return complete(value, locations, attention, device)


def gradients_by_autograd(inputs: tuple[Tensor, ...], upstream: Tensor) -> tuple[Tensor, ...]:
    value, locations, attention = (inputs[k].clone().requires_grad_() for k in (0, 3, 4))
    output = ms_deform_attn(value, *inputs[1:3], locations, attention)
    return torch.autograd.grad(output, (value, locations, attention), upstream)


def test_equals_the_definition(device: str) -> None:
    value, _, _, locations, attention = random_inputs()
    expected = attend_by_definition(value, SHAPES, STARTS, locations, attention)
    found = ms_deform_attn(*complete(value, locations, attention, device))
    torch.testing.assert_close(found.cpu(), expected)


def test_levels_may_lie_anywhere_among_the_keys() -> None:
    value, _, _, locations, attention = random_inputs()
    starts = [7, 1, 0]
    expected = attend_by_definition(value, SHAPES, starts, locations, attention)
    found = ms_deform_attn(value, torch.tensor(SHAPES), torch.tensor(starts), locations, attention)
    torch.testing.assert_close(found, expected)


def test_gradient_is_the_derivative(device: str) -> None:
    value, shapes, starts, locations, attention = random_inputs(device, samples=1, queries=3)
    locations = torch.rand_like(locations) * 0.9 + 0.013
    leaves = [tensor.requires_grad_() for tensor in (value, locations, attention)]

    def attend(value: Tensor, locations: Tensor, attention: Tensor) -> Tensor:
        return ms_deform_attn(value, shapes, starts, locations, attention)

    assert torch.autograd.gradcheck(attend, leaves, fast_mode=True)


def test_mmcv_function(device: str) -> None:
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch

    value, shapes, starts, locations, attention = random_inputs(device)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, attention)]
    output = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, attention, 64)
    torch.testing.assert_close(output, ms_deform_attn(value, shapes, starts, locations, attention))
    torch.testing.assert_close(output, multi_scale_deformable_attn_pytorch(value, shapes, locations, attention))
    upstream = torch.randn_like(output)
    found = torch.autograd.grad(output, leaves, upstream)
    torch.testing.assert_close(found, gradients_by_autograd((value, shapes, starts, locations, attention), upstream))


@pytest.mark.parametrize("pixels", [1, 2 * 3 * 4 * 4 * 3, 2 * 3 * 4 * 4 * 7 * 2])
def test_parts_change_nothing(device: str, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """Limits of less than a query, of three queries, and of two samples."""
    inputs = random_inputs(device, samples=3)
    whole = ms_deform_attn(*inputs)
    upstream = torch.randn_like(whole)
    expected = gradients_by_autograd(inputs, upstream)
    monkeypatch.setattr(module, "_PIXELS", pixels)
    assert sum(len(queries) for _, queries in module._parts(inputs[3])) > 1
    torch.testing.assert_close(ms_deform_attn(*inputs), whole)
    torch.testing.assert_close(ms_deform_attn_gradients(upstream, *inputs), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_sums_in_float32(device: str, dtype: torch.dtype) -> None:
    value, shapes, starts, locations, attention = random_inputs(device)
    low = [tensor.to(dtype) for tensor in (value, locations, attention)]
    found = ms_deform_attn(low[0], shapes, starts, *low[1:])
    expected = ms_deform_attn(low[0].float(), shapes, starts, low[1].float(), low[2].float())
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype))
    gradients = ms_deform_attn_gradients(found, low[0], shapes, starts, *low[1:])
    assert [gradient.dtype for gradient in gradients] == [dtype] * 3


def test_layout_in_memory_does_not_matter() -> None:
    value, shapes, starts, locations, attention = random_inputs()
    expected = ms_deform_attn(value, shapes, starts, locations, attention)
    turned = [tensor.transpose(0, 2).contiguous().transpose(0, 2) for tensor in (value, locations, attention)]
    assert not any(tensor.is_contiguous() for tensor in turned)
    torch.testing.assert_close(ms_deform_attn(turned[0], shapes, starts, *turned[1:]), expected)


@pytest.mark.parametrize(("samples", "queries"), [(0, 7), (2, 0)])
def test_nothing_to_attend_to(device: str, samples: int, queries: int) -> None:
    inputs = random_inputs(device, samples=samples, queries=queries)
    output = ms_deform_attn(*inputs)
    assert output.shape == (samples, queries, 16)
    gradients = ms_deform_attn_gradients(output, *inputs)
    assert [gradient.shape for gradient in gradients] == [inputs[k].shape for k in (0, 3, 4)]
    assert not gradients[0].any()


@pytest.mark.parametrize(
    ("position", "tensor", "message"),
    [
        (0, torch.zeros(2, 27, 16), r"value must be .* \[B, keys, heads, dim\], got shape \(2, 27, 16\)"),
        (0, torch.zeros(2, 26, 2, 8), r"every level .*\(1, 1, 26\)\], got 26 keys"),
        (1, torch.zeros(3, 2), r"spatial_shapes must be an integer tensor \[levels, 2\], got .* float32"),
        (1, torch.zeros(0, 2).long(), r"level_start must be an integer tensor \[0\]"),
        (2, torch.zeros(2).long(), r"level_start must be an integer tensor \[3\], got shape \(2,\)"),
        (3, torch.zeros(2, 7, 2, 4, 4, 2), r"locations must be .* \[2, queries, 2, 3, points, 2\], got shape"),
        (4, torch.zeros(2, 7, 2, 3, 5), r"attention must be .* \[2, 7, 2, 3, 4\], got shape \(2, 7, 2, 3, 5\)"),
        (4, torch.zeros(2, 7, 2, 3, 4, device="meta"), "one device, got value on cpu, .*attention on meta"),
    ],
)
def test_wrong_arguments_are_named(position: int, tensor: Tensor, message: str) -> None:
    inputs = list(random_inputs())
    inputs[position] = tensor
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(*inputs)
