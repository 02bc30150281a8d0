"""Deformable convolution against its definition, torch's convolution without offsets, and under mmcv's modules."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceptkd.ops import deform_conv
from perceptkd.ops.deform_conv import Geometry, deform_conv2d, deform_conv2d_gradients

INPUTS = ("features", "offset", "weight", "mask")
GEOMETRY = Geometry(stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, deform_groups=4)


def read(image: Tensor, y: float, x: float) -> Tensor:
    """Bilinear value of [C, H, W] at a point: pixels weigh 1 minus their distance, along each axis, where positive."""
    rows = (1 - (torch.arange(image.shape[1], dtype=torch.float64) - y).abs()).clamp(min=0)
    columns = (1 - (torch.arange(image.shape[2], dtype=torch.float64) - x).abs()).clamp(min=0)
    return torch.einsum("h,chw,w->c", rows, image, columns)


def convolve_by_definition(
    features: Tensor, offset: Tensor, weight: Tensor, mask: Tensor, geometry: Geometry
) -> Tensor:
    (samples, channels), (outputs, per_group, kernel_h, kernel_w) = features.shape[:2], weight.shape
    height, width = offset.shape[2:]
    result = torch.zeros(samples, outputs, height, width, dtype=torch.float64)
    part = channels // geometry.deform_groups
    for n, row, column in torch.cartesian_prod(*map(torch.arange, (samples, height, width))).tolist():
        for tap in range(kernel_h * kernel_w):
            i, j = divmod(tap, kernel_w)
            values = []
            for group in range(geometry.deform_groups):
                k = group * kernel_h * kernel_w + tap
                y = (
                    row * geometry.stride[0]
                    - geometry.padding[0]
                    + i * geometry.dilation[0]
                    + offset[n, 2 * k, row, column]
                )
                x = (
                    column * geometry.stride[1]
                    - geometry.padding[1]
                    + j * geometry.dilation[1]
                    + offset[n, 2 * k + 1, row, column]
                )
                image = features[n, group * part : (group + 1) * part]
                values.append(read(image, float(y), float(x)) * mask[n, k, row, column])
            value = torch.cat(values)
            for output in range(outputs):
                first = output // (outputs // geometry.groups) * per_group
                result[n, output, row, column] += weight[output, :, i, j] @ value[first : first + per_group]
    return result


def random_inputs(
    geometry: Geometry, *, samples: int = 2, spread: float = 2.0, device: str = "cpu"
) -> dict[str, Tensor]:
    """Eight channels on 5 x 6 pixels; every fourth offset is a whole number, so that taps lie on pixels and borders."""
    size, taps = geometry.output_size((5, 6), (3, 2)), 6 * geometry.deform_groups
    offset = torch.randn(samples, 2 * taps, *size, dtype=torch.float64) * spread
    offset = torch.where(torch.rand_like(offset) < 0.25, offset.round(), offset)
    inputs = {
        "features": torch.randn(samples, 8, 5, 6, dtype=torch.float64),
        "offset": offset,
        "weight": torch.randn(4, 8 // geometry.groups, 3, 2, dtype=torch.float64),
        "mask": torch.rand(samples, taps, *size, dtype=torch.float64),
    }
    return {name: tensor.to(device) for name, tensor in inputs.items()}


@pytest.mark.parametrize(
    "geometry", [Geometry(), Geometry(groups=4), Geometry(padding=(2, 1), deform_groups=2), GEOMETRY], ids=str
)
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_equals_the_definition(device: str, geometry: Geometry, spread: float) -> None:
    """A large spread puts most taps outside the map."""
    inputs = random_inputs(geometry, spread=spread)
    expected = convolve_by_definition(**inputs, geometry=geometry)
    found = deform_conv2d(**{name: tensor.to(device) for name, tensor in inputs.items()}, geometry=geometry)
    torch.testing.assert_close(found.cpu(), expected)
    unscaled = convolve_by_definition(**{**inputs, "mask": torch.ones_like(inputs["mask"])}, geometry=geometry)
    del inputs["mask"]
    torch.testing.assert_close(deform_conv2d(**inputs, geometry=geometry), unscaled)


@given(
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=40, deadline=None)
def test_without_offsets_it_is_torchs_convolution(stride, padding, dilation, groups, kernel) -> None:
    geometry = Geometry(stride, padding, dilation, groups)
    features, weight = torch.randn(2, 4, 7, 8).double(), torch.randn(8, 4 // groups, *kernel).double()
    expected = F.conv2d(features, weight, None, stride, padding, dilation, groups)
    offset = features.new_zeros(2, 2 * kernel[0] * kernel[1], *expected.shape[2:])
    torch.testing.assert_close(deform_conv2d(features, offset, weight, geometry=geometry), expected)


@pytest.mark.parametrize("geometry", [Geometry(padding=(1, 1)), GEOMETRY], ids=str)
def test_gradient_is_the_derivative(device: str, geometry: Geometry) -> None:
    inputs = random_inputs(geometry, samples=1, device=device)
    inputs["offset"] = torch.randint_like(inputs["offset"], -2, 3) + torch.empty_like(inputs["offset"]).uniform_(
        0.1, 0.9
    )
    inputs["bias"] = torch.randn(4, dtype=torch.float64, device=device)
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]

    def convolve(*tensors: Tensor) -> Tensor:
        return deform_conv2d(**dict(zip(inputs, tensors)), geometry=geometry)

    assert torch.autograd.gradcheck(convolve, leaves, fast_mode=True)


def test_gradient_on_pixels_and_borders_is_to_the_right_and_zero_outside(device: str) -> None:
    """Offsets begin as zeros in every network, so this is what a first step takes. Taps lie at x = -1, 0, 1, 2, 3."""
    features = torch.tensor([[[[2.0, 5.0, 11.0]]]], device=device)
    offset = torch.zeros(1, 2, 1, 5, device=device, requires_grad=True)
    weight = torch.ones(1, 1, 1, 1, device=device)
    deform_conv2d(features, offset, weight, geometry=Geometry(padding=(0, 1))).sum().backward()
    assert offset.grad.tolist() == [[[[0.0, -2.0, -5.0, -11.0, 0.0]], [[0.0, 3.0, 6.0, -11.0, 0.0]]]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_offsets_that_are_no_position_read_zero(device: str, bad: float) -> None:
    """Mixed precision makes some, and then skips the step: it must not die on them."""
    features = torch.ones(1, 1, 2, 2, device=device, requires_grad=True)
    offset = torch.zeros(1, 2, 2, 2, device=device)
    offset[0, 1, 0, 0] = bad
    output = deform_conv2d(features, offset.requires_grad_(), torch.ones(1, 1, 1, 1, device=device))
    assert output.flatten().tolist() == [0.0, 1.0, 1.0, 1.0]
    output.sum().backward()
    assert features.grad.flatten().tolist() == [0.0, 1.0, 1.0, 1.0]
    assert offset.grad[0, :, 0, 0].tolist() == [0.0, 0.0]


def gradients_by_autograd(inputs: dict[str, Tensor], upstream: Tensor, geometry: Geometry) -> list[Tensor]:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    return list(torch.autograd.grad(deform_conv2d(**leaves, geometry=geometry), list(leaves.values()), upstream))


def test_parts_of_the_batch_change_nothing(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = random_inputs(GEOMETRY, samples=5, device=device)
    whole = deform_conv2d(**inputs, geometry=GEOMETRY)
    upstream = torch.randn_like(whole)
    expected = gradients_by_autograd(inputs, upstream, GEOMETRY)
    monkeypatch.setattr(deform_conv, "_COLUMN_ELEMENTS", 2 * 8 * 6 * whole[0, 0].numel())
    assert len(deform_conv._parts(*(inputs[name] for name in INPUTS[:3]))) == 3
    torch.testing.assert_close(deform_conv2d(**inputs, geometry=GEOMETRY), whole)
    found = deform_conv2d_gradients(upstream, **inputs, wanted=INPUTS, geometry=GEOMETRY)
    torch.testing.assert_close(found, expected)


def mmcv_plain(inputs: dict[str, Tensor], geometry: Geometry) -> Tensor:
    from mmcv.ops import deform_conv2d as function

    arguments = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.deform_groups)
    return function(*(inputs[name] for name in INPUTS[:3]), *arguments, False, 1)


def mmcv_modulated(inputs: dict[str, Tensor], geometry: Geometry) -> Tensor:
    from mmcv.ops import modulated_deform_conv2d as function

    arguments = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.deform_groups)
    tensors = (inputs[name] for name in ("features", "offset", "mask", "weight"))
    return function(*tensors, inputs.get("bias"), *arguments)


@pytest.mark.parametrize(
    ("function", "names"),
    [(mmcv_plain, INPUTS[:3]), (mmcv_modulated, INPUTS), (mmcv_modulated, (*INPUTS, "bias"))],
    ids=["plain", "modulated", "with bias"],
)
def test_mmcv_functions(device: str, function: Callable, names: tuple[str, ...]) -> None:
    inputs = random_inputs(GEOMETRY, device=device)
    inputs["bias"] = torch.randn(4, dtype=torch.float64, device=device)
    inputs = {name: inputs[name].requires_grad_() for name in names}
    output = function(inputs, GEOMETRY)
    torch.testing.assert_close(output, deform_conv2d(**inputs, geometry=GEOMETRY))
    upstream = torch.randn_like(output)
    found = torch.autograd.grad(output, list(inputs.values()), upstream)
    torch.testing.assert_close(list(found), gradients_by_autograd(inputs, upstream, GEOMETRY))


def test_mmcv_gives_only_the_gradients_asked_for() -> None:
    """The weight's gradient comes from another function of mmcv's than the others."""
    inputs = random_inputs(GEOMETRY)
    upstream = torch.randn_like(mmcv_plain(inputs, GEOMETRY))
    expected = dict(zip(INPUTS, gradients_by_autograd({name: inputs[name] for name in INPUTS[:3]}, upstream, GEOMETRY)))
    for name in INPUTS[:3]:
        leaf = inputs[name].clone().requires_grad_()
        (found,) = torch.autograd.grad(mmcv_plain({**inputs, name: leaf}, GEOMETRY), leaf, upstream)
        torch.testing.assert_close(found, expected[name])


def test_weight_gradient_is_scaled_and_added() -> None:
    import mmcv._ext

    inputs = random_inputs(Geometry())
    upstream = torch.randn_like(deform_conv2d(*(inputs[name] for name in INPUTS[:3])))
    (gradient,) = deform_conv2d_gradients(upstream, *(inputs[name] for name in INPUTS[:3]), wanted=("weight",))
    found = torch.ones_like(gradient)
    mmcv._ext.deform_conv_backward_parameters(
        inputs["features"], inputs["offset"], upstream, found, None, None, 2, 3, 1, 1, 0, 0, 1, 1, 1, 1, 0.5, 1
    )
    torch.testing.assert_close(found, 1 + gradient / 2)


@pytest.mark.parametrize("kind", ["DCN", "DCNv2"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_new_mmcv_layer_is_a_convolution(device: str, kind: str, dtype: torch.dtype, tolerance: float) -> None:
    """Its offsets are 0 and its mask is one half."""
    from mmcv.cnn import build_conv_layer

    layer = build_conv_layer({"type": kind, "deform_groups": 2}, 4, 6, 3, stride=2, padding=1, bias=False)
    layer = layer.to(device, dtype)
    features = torch.randn(2, 4, 9, 7, device=device, dtype=dtype, requires_grad=True)
    output = layer(features)
    expected = F.conv2d(features, layer.weight, stride=2, padding=1) * (1.0 if kind == "DCN" else 0.5)
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    output.sum().backward()
    assert layer.conv_offset.weight.grad.abs().sum() > 0


def test_half_precision_samples_in_float32(device: str) -> None:
    """Beyond column 1024 float16 has no half pixels."""
    features = (torch.arange(2048.0, device=device) - 1500).view(1, 1, 1, -1).half()
    offset = torch.tensor([0.0, 0.5], device=device).view(1, 2, 1, 1).expand(1, 2, 1, 2048).half()
    output = deform_conv2d(features, offset, torch.ones(1, 1, 1, 1, device=device).half())
    assert output.dtype == torch.float16
    assert output[0, 0, 0, 1500].item() == 0.5


def test_layout_in_memory_does_not_matter() -> None:
    inputs = random_inputs(GEOMETRY)
    strided = {name: tensor.transpose(1, 3).contiguous().transpose(1, 3) for name, tensor in inputs.items()}
    assert not any(tensor.is_contiguous() for tensor in strided.values())
    torch.testing.assert_close(deform_conv2d(**strided, geometry=GEOMETRY), deform_conv2d(**inputs, geometry=GEOMETRY))
    upstream = torch.randn(3, 2, 8, 4).double().permute(1, 3, 0, 2)
    found = gradients_by_autograd(strided, upstream, GEOMETRY)
    torch.testing.assert_close(found, gradients_by_autograd(inputs, upstream.contiguous(), GEOMETRY))


def test_no_samples(device: str) -> None:
    inputs = random_inputs(GEOMETRY, samples=0, device=device)
    output = deform_conv2d(**inputs, geometry=GEOMETRY)
    assert output.shape == (0, 4, *GEOMETRY.output_size((5, 6), (3, 2)))
    gradients = deform_conv2d_gradients(output, **inputs, wanted=INPUTS, geometry=GEOMETRY)
    assert [gradient.shape for gradient in gradients] == [inputs[name].shape for name in INPUTS]
    assert not gradients[2].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(4, 5, 6)}, r"features must be .* \[N, C, H, W\], got shape \(4, 5, 6\) and dtype"),
        ({"weight": torch.zeros(4, 8, 3, 2)}, r"weight must be .* \[out, 4, kH, kW\], got shape \(4, 8, 3, 2\)"),
        ({"weight": torch.zeros(3, 4, 3, 2)}, "3 outputs of weight cannot be cut into 2 groups"),
        ({"features": torch.zeros(2, 6, 5, 6)}, "6 channels of features cannot be cut into 2 groups, 4 deform_groups"),
        ({"offset": torch.zeros(2, 48, 3, 7)}, r"offset must be .* \[2, 48, 3, 8\], got shape \(2, 48, 3, 7\)"),
        ({"mask": torch.zeros(2, 24, 3, 8).long()}, r"mask must be .* \[2, 24, 3, 8\], got .* int64"),
        ({"bias": torch.zeros(5)}, r"bias must be .* \[4\], got shape \(5,\)"),
        ({"features": torch.zeros(2, 8, 0, 6)}, r"features of \(0, 6\) pixels leave no output for a kernel \(3, 2\)"),
        ({"mask": torch.zeros(2, 24, 3, 8, device="meta")}, "one device, got features on cpu, .*mask on meta"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deform_conv2d(**{**random_inputs(GEOMETRY), **changes}, geometry=GEOMETRY)
