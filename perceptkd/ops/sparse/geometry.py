"""Kernels and grids: which output cell a layer's kernel joins to which input cell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from perceptkd.ops.sparse.keys import INT32_MAX

Kind = Literal["submanifold", "strided", "transposed"]


@dataclass(frozen=True)
class Geometry:
    """Which cells a kernel joins. Every tuple has one entry per spatial axis.

    At kernel cell k, ``strided`` joins input i to output o where ``i = o * stride - padding + k * dilation``,
    ``transposed`` the same with i and o exchanged, and ``submanifold`` where ``i = o + (k - kernel_size // 2) *
    dilation`` and o is an input cell too.
    """

    kind: Kind
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]

    @property
    def volume(self) -> int:
        """Number of kernel cells, K."""
        return math.prod(self.kernel_size)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The grid of the output; raises ValueError where it would be empty."""
        if self.kind == "submanifold":
            return tuple(shape)
        sizes = []
        for axis, length in enumerate(shape):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1)
            stride, padding = self.stride[axis], self.padding[axis]
            if self.kind == "strided":
                sizes.append((length + 2 * padding - reach - 1) // stride + 1)
            else:
                sizes.append((length - 1) * stride - 2 * padding + reach + 1 + self.output_padding[axis])
        if min(sizes) < 1:
            raise ValueError(f"{self} turns the grid {tuple(shape)} into {tuple(sizes)}, which has no cells")
        if max(sizes) > INT32_MAX:
            raise ValueError(f"int32 overflow: {self} turns the grid {tuple(shape)} into {tuple(sizes)}")
        return tuple(sizes)
