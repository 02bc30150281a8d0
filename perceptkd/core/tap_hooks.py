"""The hooks behind taps: one per tapped module, on what it returns or on what it is called with."""

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from perceptkd.core.tap_spec import TapError, TapSpec

if TYPE_CHECKING:
    from perceptkd.core.tap import TapCollector

_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def find_module(modules: Mapping[str, nn.Module], path: str, owner: str) -> nn.Module:
    """The module that a tap names, if there is one and it can be called."""
    if path not in modules:
        nearest = get_close_matches(path, [name for name in modules if name], n=5, cutoff=0.0)
        raise TapError(f"The {owner} has no module '{path}'. Nearest: {', '.join(nearest)}")
    if isinstance(modules[path], _NEVER_CALLED):
        inside = f"'{path}.0'" if isinstance(modules[path], nn.ModuleList) else "a module inside"
        raise TapError(
            f"'{path}' of the {owner} is a {type(modules[path]).__name__}, which is never called: tap {inside}"
        )
    return modules[path]


def check_argument(module: nn.Module, spec: TapSpec, owner: str) -> None:
    """Raise where a module cannot be called with the argument that is tapped."""
    parameters = signature(module.forward).parameters
    takes_any = any(item.kind is Parameter.VAR_KEYWORD for item in parameters.values())
    if spec.argument is None or spec.argument.isdecimal() or spec.argument in parameters or takes_any:
        return
    raise TapError(f"'{spec.path}' of the {owner} takes no '{spec.argument}', but {', '.join(parameters)}")


def attach_hook(collector: "TapCollector", place: str, module: nn.Module) -> RemovableHandle:
    """Let a module tell the collector what it returns, or, where ``place`` ends with ``()``, what it is called with."""
    if not place.endswith("()"):
        return module.register_forward_hook(_OutputHook(collector, place))
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(name for name, item in signature(module.forward).parameters.items() if item.kind in kinds)
    return module.register_forward_pre_hook(_ArgumentHook(collector, place, names), with_kwargs=True)


class _OutputHook:
    """A forward hook. An object, not a closure, so that a deep copy of a model does not feed the original's taps.

    Dynamo traces it, and so compiles straight through a tap.
    """

    def __init__(self, collector: "TapCollector", place: str) -> None:
        self.collector, self.place = collector, place

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.collector.active:
            self.collector.keep(self.place, output)


class _ArgumentHook:
    """A forward pre-hook, likewise, which hands on every argument by its position and by its name."""

    def __init__(self, collector: "TapCollector", place: str, names: tuple[str, ...]) -> None:
        self.collector, self.place, self.names = collector, place, names

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        if self.collector.active:
            positions = {str(position): value for position, value in enumerate(inputs)}
            self.collector.keep(self.place, {**positions, **dict(zip(self.names, inputs)), **keywords})
