"""What one training step costs, counted while it runs: floating-point operations and the memory of its tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

#: Values that optimisers keep per parameter.
OPTIMIZER_STATES = {"Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2, "SGD": 1, "RMSprop": 1, "Adagrad": 1}


@dataclass(frozen=True)
class Footprint:
    """Of one call.

    Attributes:
        flops: Of matrix products and convolutions, a multiply-add counting as two.
        peak_bytes: Most memory of tensors made during the call that were alive at once.
    """

    flops: int
    peak_bytes: int


class _LiveMemory(TorchDispatchMode):
    """Sums up the storages that torch's operators return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def ignore(self, tensors: Any) -> None:
        """These were there before."""
        for tensor in tensors:
            self._known.add(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known.add(storage)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


def measure(function: Callable[[], Any], *, model: nn.Module) -> Footprint:
    """Runs a function of a model once.

    Args:
        function: What to run.
        model: Its parameters and buffers were there before and count as no memory of the call.
    """
    memory, counter = _LiveMemory(), FlopCounterMode(display=False)
    memory.ignore([*model.parameters(), *model.buffers()])
    with counter, memory:
        function()
    return Footprint(counter.get_total_flops(), memory.peak)


def state_bytes(model: nn.Module, optimizer: str | None) -> int:
    """Memory of a model and of the values that its optimiser keeps; gradients are tensors of the step.

    Args:
        model: The model.
        optimizer: Type of the optimiser, None for a model that is not trained.
    """
    own = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return own + (0 if optimizer is None else trained * OPTIMIZER_STATES[optimizer])
