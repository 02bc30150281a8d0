"""How a model's channels get from layer to layer, found by one forward and without knowing its architecture.

Every output channel of a layer gets a number, and numbers are sent through the model in place of features: what lies
between two layers (concatenation, folded heights, scatter, pooling, interpolation) takes them to where the channels
arrive. Channels that are added to each other, or that the same weights read in turn, are united.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode

from perceptkd.core.align import features
from perceptkd.core.errors import InputError
from perceptkd.core.tap import map_tensors
from perceptkd.ops.sparse.conv import SparseConvolution

#: Where no number arrives: raw points, and outputs of layers that are as wide in the student.
NONE = -1
#: What number 0 is sent as: far above raw points, and exact in fp32 with its successors.
ORIGIN = 2**17
_ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


@dataclass
class Layer:
    """A layer that mixes channels.

    Attributes:
        module: The teacher's.
        weight: Its weight.
        axes: Of the weight: output and input channels.
        width: Output channels of the student's layer of the same name.
        outputs: int64 [C_out], the numbers of its output channels, or NONE.
        inputs: int64 [C_in], the numbers that arrive, or NONE.
    """

    module: Any
    weight: Tensor
    axes: tuple[int, int]
    width: int
    outputs: Tensor
    inputs: Tensor

    @property
    def narrowed(self) -> bool:
        """Whether the student's has fewer output channels."""
        return self.width < len(self.outputs)

    @property
    def data_axis(self) -> int:
        """Where inputs and outputs have their channels."""
        return 1 if isinstance(self.module, _ConvNd) else -1


class ChannelTrace:
    """The way of a teacher's channels through its layers.

    Args:
        teacher: A model in eval mode.
        student: One with layers of the same names, some of them with fewer output channels, which are numbered.

    Attributes:
        layers: By name, the layers that both have: Linear and convolutions, sparse ones included.
        norms: By name, the numbers that arrive at each BatchNorm, int64 [C].
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self.teacher = teacher
        self.layers: dict[str, Layer] = {}
        self.norms: dict[str, Tensor] = {}
        self._parents: list[int] = []
        self._depth = 0  # of layers that run at this moment
        modules = dict(student.named_modules())
        for name, module in teacher.named_modules():
            found, twin = _weight_of(module), _weight_of(modules.get(name))
            if found is not None and twin is not None:
                (weight, axes), width = found, twin[0].shape[twin[1][0]]
                full, arriving = (weight.shape[axis] for axis in axes)
                arriving *= getattr(module, "groups", 1)
                if width > full:
                    raise InputError(f"'{name}' has {full} channels in the teacher, but {width} in the student")
                outputs = torch.arange(full) + len(self._parents) if width < full else torch.full((full,), NONE)
                self._parents += outputs[outputs != NONE].tolist()
                self.layers[name] = Layer(module, weight, axes, width, outputs, torch.full((arriving,), NONE))

    @contextmanager
    def following(self) -> Iterator[None]:
        """In this block the teacher's layers hand on numbers of channels in place of features."""
        handles = []
        for name, module in self.teacher.named_modules():
            if name in self.layers or isinstance(module, _BatchNorm):
                follow = self._follow_layer if name in self.layers else self._follow_norm
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(partial(follow, name), prepend=True))  # before taps
        try:
            with torch.no_grad(), _Operations(self):
                yield
        finally:
            self._depth = 0
            for handle in handles:
                handle.remove()

    @property
    def in_layer(self) -> bool:
        """Whether a layer computes at this moment, what it returns being replaced afterwards."""
        return self._depth > 0

    def roots(self) -> Tensor:
        """int64 [numbers], the same for numbers whose channels are united."""
        return torch.tensor([self._root(number) for number in range(len(self._parents))], dtype=torch.int64)

    def read(self, tensor: Tensor, axis: int) -> Tensor:
        """The numbers in a tensor that was made while following, channel by channel.

        Args:
            tensor: Any shape.
            axis: Of its channels.

        Returns:
            int64 [C], or NONE.

        Raises:
            InputError: A channel holds several numbers.
        """
        rows = tensor.detach().movedim(axis, 0).flatten(1)
        if not rows.shape[1]:
            return torch.full((len(rows),), NONE)
        highest = rows.amax(1)
        if ((rows > ORIGIN - 0.5) & (rows < highest[:, None] - 0.5)).any():
            raise InputError(f"Channels are mixed outside of layers, in a tensor {tuple(tensor.shape)}")
        return torch.where(self._is_number(highest), highest.round() - ORIGIN, NONE).long().cpu()

    def join(self, first: Any, second: Any) -> Tensor | None:
        """The sum of two tensors as numbers, which it unites; None if it is an ordinary sum."""
        if self.in_layer or not all(isinstance(v, Tensor) and v.is_floating_point() for v in (first, second)):
            return None
        mine, other = self._is_number(first), self._is_number(second)
        if not (mine.any() or other.any()):
            return None
        both = mine & other
        one, two = (value.expand(both.shape)[both].round().long() - ORIGIN for value in (first, second))
        for code in (one * len(self._parents) + two).unique().tolist():  # pairs as integers, which sort fast
            self._unite(*divmod(code, len(self._parents)))
        return torch.where(mine, first, torch.where(other, second, first + second))

    def _is_number(self, tensor: Tensor) -> Tensor:
        """Where a tensor holds numbers; interpolation leaves them a little off."""
        return (tensor > ORIGIN - 0.5) & (tensor < ORIGIN + len(self._parents) - 0.5)

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._depth += 1

    def _follow_layer(self, name: str, module: nn.Module, inputs: Any, output: Any) -> Any:
        layer = self.layers[name]
        layer.inputs = self._meet(layer.inputs, self.read(features(inputs[0]), layer.data_axis))
        self._depth -= 1
        values = torch.where(layer.outputs == NONE, 0, ORIGIN + layer.outputs)

        def paint(tensor: Tensor) -> Tensor:
            return torch.empty_like(tensor).movedim(layer.data_axis, -1).copy_(values).movedim(-1, layer.data_axis)

        return map_tensors(paint, output)

    def _follow_norm(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        arrived = self.read(inputs[0], 1)
        self.norms[name] = self._meet(self.norms.get(name, arrived), arrived)
        self._depth -= 1
        return inputs[0].clone()

    def _meet(self, before: Tensor, now: Tensor) -> Tensor:
        """Unite what the same weights read in several calls, such as a head's on several levels."""
        for pair in torch.stack([before, now], dim=1)[(before != NONE) & (now != NONE)].tolist():
            self._unite(*pair)
        return torch.where(before == NONE, now, before)

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def _unite(self, first: int, second: int) -> None:
        low, high = sorted((self._root(first), self._root(second)))
        self._parents[high] = low


class _Operations(TorchDispatchMode):
    """Lets additions keep numbers, and spares the convolutions, whose values nobody reads."""

    def __init__(self, trace: ChannelTrace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default and self.trace.in_layer:
            shape = func(*(value.to("meta") if isinstance(value, Tensor) else value for value in args)).shape
            return args[0].new_zeros(shape)
        joined = self.trace.join(*args[:2]) if func in _ADDITIONS else None
        result = func(*args, **(kwargs or {}))
        return result if joined is None else result.copy_(joined)


def _weight_of(module: Any) -> tuple[Tensor, tuple[int, int]] | None:
    """The weight of a layer, and its axes of output and input channels."""
    if isinstance(module, SparseConvolution):
        if module.is_pointwise:  # as its module says, the memory is a matrix [C_in, C_out]
            return module.weight.view(module.in_channels, module.out_channels), (1, 0)
        return module.weight, (0, module.weight.ndim - 1)
    if isinstance(module, _ConvTransposeNd):
        return module.weight, (1, 0)
    return (module.weight, (0, 1)) if isinstance(module, nn.Linear | _ConvNd) else None
