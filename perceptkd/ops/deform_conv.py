"""Deformable convolution, plain and modulated.

Each tap of the kernel reads the map at an offset of its own (Dai et al., Deformable Convolutional Networks, 2017), and
its value may be scaled (Zhu et al., Deformable ConvNets v2, 2019). The taps are sampled into columns, which one matrix
product per group of channels multiplies by the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from perceptkd.ops.bilinear import bilinear_corners, pixel_rows, weighted_rows
from perceptkd.ops.checks import check_same_device, check_tensor
from perceptkd.ops.chunks import chunk
from perceptkd.ops.recompute import recomputed_gradients

#: Elements of the columns that are held at once, 64 MiB of float32. A single sample's columns may be more.
_COLUMN_ELEMENTS = 2**24

Pair = tuple[int, int]
Input = Literal["features", "offset", "weight", "mask"]


@dataclass(frozen=True)
class Geometry:
    """How a convolution's kernel lies on the map; pairs are (vertical, horizontal).

    Args:
        stride: pixels between neighbouring outputs.
        padding: pixels of 0 around the map.
        dilation: pixels between neighbouring taps.
        groups: parts of the input channels, each of which makes its own part of the output channels.
        deform_groups: parts of the input channels, each of which has its own offsets.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    deform_groups: int = 1

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> Pair:
        """Height and width of the output for a map and a kernel of the given height and width."""
        vertical, horizontal = (
            (size[axis] + 2 * self.padding[axis] - self.dilation[axis] * (kernel[axis] - 1) - 1) // self.stride[axis]
            + 1
            for axis in (0, 1)
        )
        return vertical, horizontal


def deform_conv2d(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    geometry: Geometry = Geometry(),
) -> Tensor:
    """Convolution whose taps are moved by ``offset`` and scaled by ``mask``. Differentiable by all tensors.

    Args:
        features: [N, C, H, W].
        offset: [N, 2 * deform_groups * taps, out_H, out_W] in pixels, the taps row by row and each as (y, x). A tap at
            or beyond -1, H or W reads 0 and has no gradient.
        weight: [out, C / groups, kernel_H, kernel_W].
        mask: optional [N, deform_groups * taps, out_H, out_W].
        bias: optional [out].
        geometry: stride, padding, dilation and groups.

    Returns:
        [N, out, out_H, out_W] in the dtype of ``features``; taps are sampled in float32 or better.

    >>> features = torch.tensor([[[[1.0, 2.0, 4.0]]]])
    >>> half_a_pixel_right = torch.tensor([0.0, 0.5]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    >>> deform_conv2d(features, half_a_pixel_right, torch.ones(1, 1, 1, 1)).tolist()
    [[[[1.5, 3.0, 2.0]]]]
    """
    _check(features, offset, weight, mask, bias, geometry)
    outputs = [
        _convolve(features[part], offset[part], weight, None if mask is None else mask[part], geometry=geometry)
        for part in _parts(features, offset, weight)
    ]
    output = torch.cat(outputs)
    return output if bias is None else output + bias[:, None, None]


def deform_conv2d_gradients(
    grad_output: Tensor,
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    *,
    wanted: Sequence[Input],
    mask: Tensor | None = None,
    geometry: Geometry = Geometry(),
) -> list[Tensor]:
    """Gradients of :func:`deform_conv2d` by the inputs named in ``wanted``, in that order.

    They are computed part by part of the batch, which needs the columns of one part only.
    """
    _check(features, offset, weight, mask, None, geometry)
    inputs = {"features": features, "offset": offset, "weight": weight}
    if mask is not None:
        inputs["mask"] = mask
    dtype = torch.promote_types(features.dtype, torch.float32)
    totals = [torch.zeros_like(inputs[name], dtype=dtype) for name in wanted]
    for part in _parts(features, offset, weight):
        arguments = {name: tensor if name == "weight" else tensor[part] for name, tensor in inputs.items()}
        gradients = _gradients(grad_output[part], arguments, wanted, geometry)
        for name, total, gradient in zip(wanted, totals, gradients):
            (total if name == "weight" else total[part]).add_(gradient)
    return [total.to(inputs[name].dtype) for name, total in zip(wanted, totals)]


def _gradients(
    grad_output: Tensor, arguments: dict[str, Tensor], wanted: Sequence[Input], geometry: Geometry
) -> tuple[Tensor, ...]:
    """By the wanted arguments of :func:`_convolve`."""

    def convolve(*leaves: Tensor) -> Tensor:
        replaced = dict(arguments)
        replaced.update(zip(wanted, leaves))
        return _convolve(**replaced, geometry=geometry)

    return recomputed_gradients(convolve, [arguments[name] for name in wanted], grad_output)


def _parts(features: Tensor, offset: Tensor, weight: Tensor) -> list[slice]:
    """Parts of the batch whose columns are held at once."""
    pixels, taps = offset[0:1, 0].numel(), weight[0, 0].numel()
    return chunk(len(features), features.shape[1] * pixels * taps, _COLUMN_ELEMENTS)


def _convolve(
    features: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None = None, *, geometry: Geometry
) -> Tensor:
    """One part of the batch, without bias."""
    columns = _columns(features, offset, mask, weight.shape[2:], geometry)
    outputs, groups = len(weight), geometry.groups
    if groups == 1:
        product = columns.flatten(1) @ weight.permute(2, 3, 1, 0).reshape(-1, outputs)
    else:
        columns = columns.unflatten(2, (groups, -1)).permute(2, 0, 1, 3).flatten(2)
        kernels = weight.unflatten(0, (groups, -1)).permute(0, 3, 4, 2, 1).flatten(1, 3)
        product = (columns @ kernels).transpose(0, 1).flatten(1)
    return product.view(len(features), *offset.shape[2:], outputs).permute(0, 3, 1, 2)


def _columns(
    features: Tensor, offset: Tensor, mask: Tensor | None, kernel: Sequence[int], geometry: Geometry
) -> Tensor:
    """What each tap reads, [N * out_H * out_W, taps, C]."""
    samples, channels, height, width = features.shape
    taps, parts = kernel[0] * kernel[1], geometry.deform_groups
    y, x = _tap_positions(offset, kernel, geometry)
    indices, weights = bilinear_corners(y, x, height, width, border="zeros")
    if mask is not None:
        weights = weights * mask.unflatten(1, (parts, taps)).permute(0, 3, 4, 2, 1)[..., None]
    first_pixel = torch.arange(samples, device=features.device).view(-1, 1, 1, 1, 1, 1) * (height * width)
    indices = (indices + first_pixel) * parts + torch.arange(parts, device=features.device)[:, None]
    rows = pixel_rows(features).reshape(-1, channels // parts)
    return weighted_rows(rows, indices.flatten(0, -2), weights.flatten(0, -2)).view(-1, taps, channels)


def _tap_positions(offset: Tensor, kernel: Sequence[int], geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Rows and columns that the taps read at, each [N, out_H, out_W, taps, deform_groups], float32 or better."""
    taps, device = kernel[0] * kernel[1], offset.device
    dtype = torch.promote_types(offset.dtype, torch.float32)
    moved = offset.to(dtype).unflatten(1, (geometry.deform_groups, taps, 2)).permute(3, 0, 4, 5, 2, 1)
    axes = [
        torch.arange(moved.shape[2 + axis], device=device)[:, None] * geometry.stride[axis]
        - geometry.padding[axis]
        + torch.arange(kernel[axis], device=device) * geometry.dilation[axis]
        for axis in (0, 1)
    ]
    rows = axes[0].repeat_interleave(kernel[1], dim=1)[:, None, :, None]
    columns = axes[1].repeat(1, kernel[0])[:, :, None]
    return moved[0] + rows, moved[1] + columns


def _check(
    features: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, bias: Tensor | None, geometry: Geometry
) -> None:
    check_tensor("features", features, ("N", "C", "H", "W"))
    samples, channels = features.shape[:2]
    groups, parts = geometry.groups, geometry.deform_groups
    if channels % groups or channels % parts:
        raise ValueError(f"{channels} channels of features cannot be cut into {groups} groups, {parts} deform_groups")
    check_tensor("weight", weight, ("out", channels // groups, "kH", "kW"))
    if len(weight) % groups:
        raise ValueError(f"{len(weight)} outputs of weight cannot be cut into {groups} groups")
    kernel = weight.shape[2:]
    taps, size = kernel.numel(), geometry.output_size(features.shape[2:], kernel)
    if min(size) < 1:
        raise ValueError(f"features of {tuple(features.shape[2:])} pixels leave no output for a kernel {tuple(kernel)}")
    tensors = {"features": features, "offset": offset, "weight": weight}
    check_tensor("offset", offset, (samples, 2 * parts * taps, *size))
    if mask is not None:
        check_tensor("mask", mask, (samples, parts * taps, *size))
        tensors["mask"] = mask
    if bias is not None:
        check_tensor("bias", bias, (len(weight),))
        tensors["bias"] = bias
    check_same_device(**tensors)
