"""CARAFE against its definition, and mmcv's two functions for it."""

import pytest
import torch
from torch import Tensor

from perceptkd.ops import carafe as module
from perceptkd.ops.carafe import carafe, carafe_gradients

CASES = [
    {"kernel_size": 3, "group_size": 2, "scale_factor": 2},
    {"kernel_size": 5, "group_size": 1, "scale_factor": 3},
    {"kernel_size": 1, "group_size": 4, "scale_factor": 1},
]


def reassemble_by_definition(features: Tensor, masks: Tensor, case: dict[str, int]) -> Tensor:
    size, groups, scale = case.values()
    samples, channels, height, width = features.shape
    result = torch.zeros(samples, channels, height * scale, width * scale, dtype=torch.float64)
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, result.shape)).tolist():
        group = c // (channels // groups)
        for tap in range(size**2):
            row, column = y // scale + tap // size - size // 2, x // scale + tap % size - size // 2
            if 0 <= row < height and 0 <= column < width:
                result[n, c, y, x] += features[n, c, row, column] * masks[n, group * size**2 + tap, y, x]
    return result


def random_inputs(case: dict[str, int], *, samples: int = 2, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Four channels on 2 x 3 pixels, less than a kernel of 5 covers."""
    size, groups, scale = case.values()
    features = torch.randn(samples, 4, 2, 3, dtype=torch.float64)
    masks = torch.randn(samples, groups * size**2, 2 * scale, 3 * scale, dtype=torch.float64)
    return features.to(device), masks.to(device)


def gradients_by_autograd(inputs: tuple[Tensor, Tensor], upstream: Tensor, case: dict[str, int]) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(carafe(*leaves, **case), leaves, upstream)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_definition(device: str, case: dict[str, int]) -> None:
    inputs = random_inputs(case)
    expected = reassemble_by_definition(*inputs, case)
    torch.testing.assert_close(carafe(*(tensor.to(device) for tensor in inputs), **case).cpu(), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_is_the_derivative(device: str, case: dict[str, int]) -> None:
    leaves = [tensor.requires_grad_() for tensor in random_inputs(case, device=device)]
    assert torch.autograd.gradcheck(lambda *tensors: carafe(*tensors, **case), leaves, fast_mode=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mmcv_carafe(device: str, case: dict[str, int]) -> None:
    from mmcv.ops import carafe as mmcv_carafe

    inputs = tuple(tensor.requires_grad_() for tensor in random_inputs(case, device=device))
    output = mmcv_carafe(*inputs, *case.values())
    torch.testing.assert_close(output, carafe(*inputs, **case))
    upstream = torch.randn_like(output)
    found = torch.autograd.grad(output, inputs, upstream)
    torch.testing.assert_close(found, gradients_by_autograd(inputs, upstream, case))


def test_mmcv_carafe_naive(device: str) -> None:
    """mmcv's wrapper refuses its backward on the CPU, so that it is called below the wrapper here."""
    import mmcv._ext
    from mmcv.ops import carafe_naive

    inputs = random_inputs(CASES[0], device=device)
    output = carafe_naive(*inputs, *CASES[0].values())
    torch.testing.assert_close(output, carafe(*inputs, **CASES[0]))
    upstream = torch.randn_like(output)
    gradients = [torch.ones_like(tensor) for tensor in inputs]
    mmcv._ext.carafe_naive_backward(upstream, *inputs, *gradients, **CASES[0])
    expected = gradients_by_autograd(inputs, upstream, CASES[0])
    torch.testing.assert_close(gradients, [1 + gradient for gradient in expected])


def test_mmcv_module_trains(device: str) -> None:
    from mmcv.ops import CARAFEPack

    upsample = CARAFEPack(channels=4, scale_factor=2, compressed_channels=2).to(device)
    features = torch.ones(1, 4, 8, 8, device=device)
    output = upsample(features)
    # kernels sum to 1, so that a constant stays one away from the border
    torch.testing.assert_close(output[..., 4:-4, 4:-4], torch.ones(1, 4, 8, 8, device=device))
    output.square().sum().backward()
    assert upsample.content_encoder.weight.grad.abs().sum() > 0


def test_parts_of_the_batch_change_nothing(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = random_inputs(CASES[0], samples=5, device=device)
    whole = carafe(*inputs, **CASES[0])
    upstream = torch.randn_like(whole)
    expected = gradients_by_autograd(inputs, upstream, CASES[0])
    monkeypatch.setattr(module, "_PIXELS", 2 * inputs[1][0].numel())
    assert len(module._parts(*inputs)) == 3
    torch.testing.assert_close(carafe(*inputs, **CASES[0]), whole)
    torch.testing.assert_close(carafe_gradients(upstream, *inputs, **CASES[0]), expected)


def test_half_precision_sums_in_float32(device: str) -> None:
    inputs = [tensor.half() for tensor in random_inputs(CASES[0], device=device)]
    found = carafe(*inputs, **CASES[0])
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, carafe(*(tensor.float() for tensor in inputs), **CASES[0]).half())


def test_no_samples_and_other_layouts(device: str) -> None:
    inputs = random_inputs(CASES[0], samples=0, device=device)
    output = carafe(*inputs, **CASES[0])
    assert output.shape == (0, 4, 4, 6)
    gradients = carafe_gradients(output, *inputs, **CASES[0])
    assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in inputs]
    inputs = random_inputs(CASES[0], device=device)
    turned = [tensor.transpose(1, 3).contiguous().transpose(1, 3) for tensor in inputs]
    torch.testing.assert_close(carafe(*turned, **CASES[0]), carafe(*inputs, **CASES[0]))


@pytest.mark.parametrize(
    ("features", "masks", "changes", "message"),
    [
        ((4, 2, 3), (2, 18, 4, 6), {}, r"features must be .* \[N, C, H, W\], got shape \(4, 2, 3\)"),
        ((2, 3, 2, 3), (2, 18, 4, 6), {}, "3 channels of features cannot be cut into 2 groups"),
        ((2, 4, 2, 3), (2, 9, 4, 6), {}, r"masks must be .* \[2, 18, 4, 6\], got shape \(2, 9, 4, 6\)"),
        ((2, 4, 2, 3), (2, 18, 4, 6), {"kernel_size": 2}, "kernel_size must be odd, got 2"),
    ],
)
def test_wrong_arguments_are_named(features: tuple, masks: tuple, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        carafe(torch.zeros(features), torch.zeros(masks), **{**CASES[0], **changes})
