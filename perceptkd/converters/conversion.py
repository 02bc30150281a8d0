"""What every converter does: rename keys, bring weights to the layout of the target, and tell what does not match."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from perceptkd.core.errors import InputError
from perceptkd.ops.sparse.conv import SparseConvolution

#: A source key's name in the target; None where it has no counterpart.
Rename = Callable[[str], str | None]


class Setting(NamedTuple):
    """What the target's config has to say for the weights to mean the same.

    Attributes:
        path: Place in the config, below ``model``.
        value: What must stand there.
        reason: Why.
    """

    path: str
    value: Any
    reason: str


@dataclass
class Conversion:
    """Weights on their way.

    Attributes:
        state: Target key -> weight.
        unknown: Keys of the checkpoint without a counterpart.
        ignored: Keys of the checkpoint that nobody needs.
        notes: What the user should know.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Mismatch(NamedTuple):
    """What keeps a conversion from fitting a model: keys that it lacks, and one line per key of another shape."""

    missing: list[str]
    shapes: list[str]


def rename_keys(state: Mapping[str, Any], rename: Rename, *, ignored: Sequence[str] = ()) -> Conversion:
    """Renames the tensors of a checkpoint; ``ignored`` are patterns of whole keys that have no use in the target."""
    conversion = Conversion()
    for key, value in state.items():
        name = rename(key)
        if any(re.fullmatch(pattern, key) for pattern in ignored) or not isinstance(value, Tensor):
            conversion.ignored.append(key)
        elif name is None:
            conversion.unknown.append(key)
        else:
            conversion.state[name] = value.detach().clone()
    return conversion


def by_patterns(rules: Sequence[tuple[str, str]]) -> Rename:
    r"""A renaming by the first pattern that fits the whole key.

    >>> by_patterns([(r"vfe\.(.+)", r"voxel_encoder.\1")])("vfe.weight")
    'voxel_encoder.weight'
    """

    def rename(key: str) -> str | None:
        found = ((re.fullmatch(pattern, key), target) for pattern, target in rules)
        return next((match.expand(target) for match, target in found if match), None)

    return rename


def match_biases(conversion: Conversion, model: nn.Module) -> None:
    """Makes up for biases of convolutions before a norm, which one side has and the other has not.

    ``norm(x + b)`` with running mean m is ``norm(x)`` with running mean m - b, exactly; a bias that the target has
    alone is zero.
    """
    state, wanted = conversion.state, model.state_dict()
    for key in {key for key in (*state, *wanted) if re.search(r"conv\d*\.bias$", key)}:
        norm = re.sub(r"conv(\d*)\.bias$", r"bn\1", key)
        mean = state.get(f"{norm}.running_mean")
        if mean is None:
            continue
        if key not in wanted:
            state[f"{norm}.running_mean"] = mean - state.pop(key)
        elif key not in state:
            state[key] = wanted[key].new_zeros(wanted[key].shape)


def turn_sparse_weights(conversion: Conversion, model: nn.Module) -> None:
    """Brings the weights of sparse convolutions to [out, kernel..., in], from whichever layout they all have.

    That of spconv 1 and mmcv is [kernel..., in, out], of spconv 2.0 [kernel..., out, in], of spconv 2.1 the target's.
    """
    layers = {f"{name}.weight": each for name, each in model.named_modules() if isinstance(each, SparseConvolution)}
    layers = {key: layer for key, layer in layers.items() if key in conversion.state}
    layouts = {
        (out_axis, in_axis)
        for out_axis, in_axis in ((0, -1), (-1, -2), (-2, -1))
        if all(
            _turned(conversion.state[key], out_axis, in_axis).shape == each.weight.shape for key, each in layers.items()
        )
    }
    if layers and layouts:
        chosen = next(layout for layout in ((0, -1), (-1, -2), (-2, -1)) if layout in layouts)
        for key in layers:
            conversion.state[key] = _turned(conversion.state[key], *chosen).contiguous()


def _turned(weight: Tensor, out_axis: int, in_axis: int) -> Tensor:
    """The weight with its output axis first and its input axis last."""
    if weight.ndim < 3:
        return weight
    return weight.movedim((out_axis, in_axis), (0, -1))


def turn_pointwise_deconvolutions(conversion: Conversion, model: nn.Module, *, prefix: str) -> None:
    """Turns 1 x 1 transposed convolutions [in, out, 1, 1] below ``prefix`` where the target has convolutions.

    Where the two channels are equal nothing tells the one from the other: it is taken for a transposed one.
    """
    for name, module in model.named_modules():
        key = f"{name}.weight"
        if not name.startswith(prefix) or not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1):
            continue
        weight = conversion.state.get(key)
        is_turned = weight is not None and (weight.shape[0] == weight.shape[1] or weight.shape != module.weight.shape)
        if weight is not None and is_turned:
            conversion.state[key] = weight.transpose(0, 1).contiguous()


def check_norms(model: nn.Module, expected: Mapping[str, float]) -> None:
    """Raises unless the batch norms of the target add the same ``eps`` as those that the weights come from.

    Args:
        model: The target.
        expected: Pattern of a module's whole name -> eps; of several patterns the first one that fits counts.
    """
    for name, module in model.named_modules():
        eps = next((eps for pattern, eps in expected.items() if re.fullmatch(pattern, name)), None)
        if isinstance(module, _BatchNorm) and eps is not None and abs(module.eps - eps) > 1e-9:
            raise InputError(
                f"the batch norm {name} of the config has eps={module.eps:g}, the weights need {eps:g}: set norm_cfg"
            )


def compare(conversion: Conversion, model: nn.Module) -> Mismatch:
    """What the model misses; counters of batch norms are not needed. What it does not know becomes ``unknown``."""
    wanted = model.state_dict()
    for key in [key for key in conversion.state if key not in wanted]:
        del conversion.state[key]
        conversion.unknown.append(f"{key} (renamed)")
    missing = [key for key in wanted if key not in conversion.state]
    for key in [key for key in missing if key.endswith("num_batches_tracked")]:
        conversion.state[key] = wanted[key]
    shapes = [
        f"{key}: {tuple(conversion.state[key].shape)} in the checkpoint, {tuple(value.shape)} in the model"
        for key, value in wanted.items()
        if key in conversion.state and conversion.state[key].shape != value.shape
    ]
    return Mismatch([key for key in missing if key not in conversion.state], shapes)
