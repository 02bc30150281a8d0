"""Containers: what a module that takes sparse tensors is, and a sequence that mixes them with dense layers."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from perceptkd.ops.sparse.tensor import SparseTensor


class SparseModule(nn.Module):
    """Base of the modules that take a :class:`SparseTensor`; others inside a sequence get its features."""

    #: Whether ``forward`` takes a batch norm in eval mode to compute as part of itself.
    folds_norm: ClassVar[bool] = False


class SparseSequential(SparseModule):
    """Runs modules in order: sparse ones on the tensor, dense ones (norm, activation, linear) on its features [N, C].

    Takes modules, ordered dicts of them, or modules by keyword, as spconv's class of the same name. In eval mode a
    convolution, the batch norm behind it and the ReLU behind that run as one, unless a hook (a tap) asks for what is
    between them.

    >>> import torch
    >>> layers = SparseSequential(nn.Linear(4, 2), nn.ReLU())
    >>> layers(SparseTensor(torch.ones(1, 4), torch.zeros(1, 3).int(), (3, 3), 1)).features.shape
    torch.Size([1, 2])
    """

    def __init__(self, *modules: nn.Module | OrderedDict[str, nn.Module], **named: nn.Module) -> None:
        super().__init__()
        for index, entry in enumerate(modules):
            if isinstance(entry, OrderedDict):
                for name, module in entry.items():
                    self.add(module, name)
            else:
                self.add(entry, str(index))
        for name, module in named.items():
            self.add(module, name)

    def __getitem__(self, index: int) -> nn.Module:
        return list(self)[index]

    def __iter__(self) -> Iterator[nn.Module]:
        """The modules in order; one that was added twice comes twice."""
        return (module for module in self._modules.values() if module is not None)

    def __len__(self) -> int:
        return len(self._modules)

    def add(self, module: nn.Module, name: str | None = None) -> None:
        """Appends a module, named by its position unless a name is given."""
        name = str(len(self)) if name is None else name
        if name in self._modules:
            raise ValueError(f"a module is named {name!r} already; pass another name")
        self.add_module(name, module)

    def forward(self, value: SparseTensor | Tensor) -> SparseTensor | Tensor:
        """Value to value; a sparse tensor stays sparse unless a module makes it dense."""
        modules = list(self)
        while modules:
            module = modules.pop(0)
            if isinstance(value, SparseTensor) and modules and _is_foldable(module, modules[0]):
                folded: SparseTensor = module(value, norm=modules.pop(0))
                if modules and type(modules[0]) is nn.ReLU and not _is_watched(modules[0]):
                    modules.pop(0)
                    folded.features.relu_()
                value = folded
            elif isinstance(module, SparseModule) or not isinstance(value, SparseTensor):
                value = module(value)
            else:
                value = value.replace_feature(_apply_dense(module, value.features))
        return value


_FORWARDS_OF_NORMS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def _is_foldable(module: nn.Module, norm: nn.Module) -> bool:
    """Whether the two give the same as one layer, and nobody looks at what is between them."""
    is_fixed = isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None
    is_plain = type(norm).forward in _FORWARDS_OF_NORMS
    return (
        is_fixed
        and is_plain
        and isinstance(module, SparseModule)
        and module.folds_norm
        and not _is_watched(module, norm)
    )


def _is_watched(*modules: nn.Module) -> bool:
    """Whether somebody waits for a module's call: a hook on it or on all modules, or a forward of this object alone."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    for_all = any(getattr(nn.modules.module, f"_global{kind}") for kind in kinds)
    return (
        for_all
        or any(getattr(module, kind) for module in modules for kind in kinds)
        or any("forward" in vars(module) for module in modules)
    )


class ToDense(SparseModule):
    """A sparse tensor as [B, C, (Z,) Y, X], see :meth:`SparseTensor.to_dense`."""

    def forward(self, tensor: SparseTensor) -> Tensor:
        return tensor.to_dense()


def _apply_dense(module: nn.Module, features: Tensor) -> Tensor:
    """Batch norm of no rows would put NaN into its running statistics; normalise by these instead."""
    if len(features) == 0 and isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
        return F.batch_norm(features, module.running_mean, module.running_var, module.weight, module.bias)
    return module(features)
