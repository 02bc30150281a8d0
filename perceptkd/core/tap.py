"""Taps: what named modules of a model return, or are called with, during a step, kept by hooks for the distillers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn

from perceptkd.core.tap_hooks import attach_hook, check_argument, find_module
from perceptkd.core.tap_spec import Extent, TapError, TapSpec, parse_tap

__all__ = ["Extent", "ForwardStopped", "Tap", "TapCollector", "TapError", "TapSpec", "Taps", "map_tensors", "parse_tap"]

Taps = Mapping[str, "Tap"]


class ForwardStopped(BaseException):
    """Ends a teacher's forward right after its deepest tap. No ``except Exception`` of a model may catch it."""


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply ``function`` to every tensor of a nested output; sparse tensors keep their coordinates."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(function, item) for item in value)
    if hasattr(value, "replace_feature"):
        return value.replace_feature(function(value.features))
    return value


@dataclass
class Tap:
    """The outputs of one tapped place during one step.

    Attributes:
        spec: Where they come from and what they mean.
        calls: One output per forward call of the module, in order.
        model: Whose module it is, for messages.
        input_size: (height, width) of what that model was fed with, if it is an image; gives strides of levels.
    """

    spec: TapSpec
    calls: list[Any] = field(default_factory=list)
    model: str = "model"
    input_size: tuple[int, int] | None = None

    @property
    def value(self) -> Any:
        """The output of the only call of this step."""
        if len(self.calls) != 1:
            how = "did not fire in this step" if not self.calls else f"fired {len(self.calls)} times; read tap.calls"
            raise TapError(f"The tap '{self.spec}' of the {self.model} {how}")
        return self.calls[0]

    @property
    def layout(self) -> str | None:
        return self.spec.layout

    @property
    def extent(self) -> Extent | None:
        return self.spec.extent

    @property
    def stride(self) -> float | tuple[float, ...] | None:
        return self.spec.stride

    def map(self, function: Callable[[Tensor], Any]) -> "Tap":
        """The same tap with ``function`` applied to every tensor."""
        return replace(self, calls=[map_tensors(function, call) for call in self.calls])


class TapCollector:
    """Hooks on one model, which keep what its tapped modules return, or are called with, while a step is recorded.

    Outside of :meth:`recording` the hooks do nothing, so that activation checkpointing, which runs modules again during
    backward, and validation leave no trace.
    """

    def __init__(self, model: nn.Module, specs: Mapping[str, TapSpec], *, owner: str = "model") -> None:
        geometry = getattr(model, "bev_geometry", None)
        self.owner = owner
        self.specs = {alias: _with_geometry(spec, geometry) for alias, spec in specs.items()}
        self.counts: dict[str, int] = {}
        self.stop_at: dict[str, int] | None = None
        self._calls: dict[TapSpec, list[Any]] = {}
        self._originals: list[tuple[TapSpec, Tensor, int]] = []
        self.active = False
        self._needs_grad = False
        self._handles = []
        # Without this flag a model that is compiled and then tapped would go on without the hooks, silently.
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        modules = dict(model.named_modules())
        places: dict[str, nn.Module] = {}
        for spec in self.specs.values():
            places[spec.place] = module = find_module(modules, spec.path, owner)
            check_argument(module, spec, owner)
        for place, module in places.items():
            self._handles.append(attach_hook(self, place, module))

    @classmethod
    def attach(cls, model: nn.Module, specs: Mapping[str, Any], *, owner: str = "model") -> "TapCollector":
        """Put hooks on the modules that ``specs`` (alias -> tap) name; an unknown one raises with its neighbours."""
        return cls(model, {alias: parse_tap(spec) for alias, spec in specs.items()}, owner=owner)

    @contextmanager
    def recording(self, *, stop_at: Mapping[str, int] | None = None) -> Iterator[None]:
        """Keep outputs from here to the end of the block; what earlier blocks kept is dropped.

        Args:
            stop_at: Calls per place (:attr:`TapSpec.place`) after which the forward is ended by
                :class:`ForwardStopped`, which whoever runs it catches; None runs it whole.
        """
        self.clear()
        self.active, self._needs_grad = True, torch.is_grad_enabled()
        self.stop_at = dict(stop_at) if stop_at is not None else None
        try:
            yield
        finally:
            self.active = False
        self._check_not_overwritten()

    def taps(self, *, input_size: tuple[int, int] | None = None) -> dict[str, Tap]:
        """Alias -> tap of the recorded step. A tap without a call raises."""
        silent = sorted({str(spec) for spec in self.specs.values() if not self._calls.get(spec)})
        if silent:
            raise TapError(
                f"These taps of the {self.owner} did not fire in this forward: {', '.join(silent)}. The module was not "
                "called, or only its .forward was (mmdet heads in mode 'tensor' do that): tap a module inside of it, "
                "or use another forward mode."
            )
        return {alias: Tap(spec, self._calls[spec], self.owner, input_size) for alias, spec in self.specs.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "TapCollector":
        """A copy of a model gets taps of its own, empty: features of a running step cannot be copied."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__, _handles=[], active=False)
        copied.clear()
        return memo.setdefault(id(self), copied)

    def clear(self) -> None:
        """Forget the step, and with it the memory it holds."""
        self.counts, self._calls, self._originals = {}, {}, []

    def detach(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def keep(self, place: str, output: Any) -> None:
        """Take what a hook has seen at a place (:attr:`TapSpec.place`)."""
        if self._needs_grad and not torch.is_grad_enabled():
            raise TapError(
                f"The tap on '{place}' of the {self.owner} fired with gradients disabled (reentrant activation "
                "checkpointing, or a part under no_grad), so that no loss on it could train anything. Tap the "
                "output of the checkpointed part, or checkpoint with use_reentrant=False."
            )
        for spec in dict.fromkeys(self.specs.values()):
            if spec.place == place:
                self._calls.setdefault(spec, []).append(self._read(spec, output))
        self.counts[place] = self.counts.get(place, 0) + 1
        if self.counts == self.stop_at:
            raise ForwardStopped

    def _read(self, spec: TapSpec, output: Any) -> Any:
        if spec.argument is not None:
            if spec.argument not in output:
                raise TapError(f"'{spec.path}' of the {self.owner} is called without '{spec.argument}': {list(output)}")
            output = output[spec.argument]
        for step, item in enumerate(spec.index):
            try:
                output = output[item]
            except (KeyError, IndexError, TypeError) as error:
                taken = replace(spec, index=spec.index[:step])
                raise TapError(
                    f"The tap '{spec}' of the {self.owner}: no [{item!r}] in '{taken}', {error!r}"
                ) from error
        if spec.clone:
            return map_tensors(torch.clone, output)
        map_tensors(lambda tensor: self._originals.append((spec, tensor, tensor._version)), output)
        return output

    def _check_not_overwritten(self) -> None:
        for spec, tensor, version in self._originals:
            if tensor._version != version:
                raise TapError(
                    f"The tap '{spec}' of the {self.owner} was overwritten in place after it was read: "
                    "remove clone=False"
                )


def _with_geometry(spec: TapSpec, geometry: Any) -> TapSpec:
    """Fill layout and extent that a spec leaves out from the model's ``bev_geometry`` (a dict or an object)."""
    if geometry is None or spec.layout == "image":
        return spec
    known = geometry if isinstance(geometry, Mapping) else vars(geometry)
    filled = parse_tap({"path": spec.path, "layout": known.get("layout"), "extent": known.get("extent")})
    return replace(spec, layout=spec.layout or filled.layout, extent=spec.extent or filled.extent)
