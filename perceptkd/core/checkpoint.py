"""Load the weights of a teacher, or those a student starts from, and stop when they are another model's."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from perceptkd.core.errors import list_some

#: Share of keys that may be missing or unexpected. One of another shape is never an accident of versions: mmdet3d's
#: pillar encoder went from 9 to 10 inputs, and its one tensor in 130 would stay random where the teacher is tapped.
TOLERATED_SHARE = 0.01
#: Where a state dict hides in checkpoints: MMEngine, Megvii's trainer (UniDistill), OpenPCDet and others.
STATE_KEYS = ("state_dict", "model_state", "model_state_dict", "model")
#: What wrappers put before each key: nothing, DDP, our own DistillModel, Lightning.
PREFIXES = ("", "module.", "student.", "module.student.", "model.")
NAMED = 10


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or is not this model's."""


@dataclass
class LoadReport:
    """How a checkpoint fits a model.

    Attributes:
        total: Keys of the model.
        missing: Keys of the model that the checkpoint lacks.
        unexpected: Keys of the checkpoint that the model lacks.
        mismatched: One line per key of another shape, naming both shapes.
    """

    total: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    @property
    def bad_share(self) -> float:
        """Keys that did not find their place over the model's keys."""
        return (len(self.missing) + len(self.unexpected) + len(self.mismatched)) / max(1, self.total)

    def __str__(self) -> str:
        lines = []
        for kind in ("missing", "unexpected", "mismatched"):
            keys = getattr(self, kind)
            if keys:
                lines.append(f"{len(keys)} {kind}: {list_some(keys, limit=NAMED, separator='; ')}")
        return "\n  ".join(lines) or f"all {self.total} keys match"


def load_weights(model: nn.Module, path: str | Path, *, owner: str, allow_partial: bool = False) -> LoadReport:
    """Load a checkpoint of any supported form into ``model``.

    Args:
        model: The model to fill.
        path: A checkpoint of MMEngine, of a DistillModel (its student is taken), of a student alone, or bare weights.
        owner: Whose it is, for messages, such as "teacher 'lidar'".
        allow_partial: Go on although more than 1 % of the keys do not fit, or one has another shape.

    Raises:
        CheckpointError: The file cannot be read, or does not fit. The keys (and for wrong widths the shapes) are named.
    """
    state = find_state_dict(read_checkpoint(path), path)
    prefix = find_prefix(state, set(model.state_dict()))
    report = _load(model, state, prefix)
    if (report.mismatched or report.bad_share > TOLERATED_SHARE) and not allow_partial:
        raise CheckpointError(
            f"The checkpoint {path} does not fit {owner} ({report.bad_share:.1%} of {report.total} keys):\n"
            f"  {report}\nIs it of another config? A teacher with allow_partial=True goes on with random weights there."
        )
    if report.bad_share:
        print_log(f"The checkpoint {path} leaves parts of {owner} as they were:\n  {report}", "current", level=30)
    return report


def read_checkpoint(path: str | Path) -> Any:
    """Read a checkpoint onto the CPU; a truncated or foreign file raises a sentence instead of a zip error."""
    try:
        return CheckpointLoader.load_checkpoint(str(path), map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"Cannot read the checkpoint {path}: it is truncated or not a checkpoint ({error})"
        ) from error


def find_checkpoint(path: str | Path, *, owner: str, stem: str, config: str | None) -> str | Path:
    """The checkpoint's file; ``*`` in the path must match exactly one. An address (``https://``) stays as it is.

    Args:
        path: As in the config.
        owner: Whose it is, for messages, such as "teacher 'lidar'".
        stem: Its config's name, which names the folder where it belongs by convention.
        config: Its config's path, for the command that trains it.
    """
    if "://" in str(path):
        return str(path)
    path = Path(path).expanduser()
    found = sorted(path.parent.glob(path.name)) if "*" in path.name else [path] if path.is_file() else []
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(f"{path} of {owner} means {len(found)} files: {', '.join(map(str, found))}")
    raise FileNotFoundError(f"There is no checkpoint of {owner} at {path}. {training_hint(stem=stem, config=config)}")


def training_hint(*, stem: str, config: str | None) -> str:
    """How to get a checkpoint."""
    command = f"python tools/train.py {config or '<its config>'} --work-dir work_dirs/teachers/{stem}"
    return f"Put the file there, or train it: {command}"


def find_state_dict(checkpoint: Any, path: str | Path) -> Mapping[str, Any]:
    """The weights in a checkpoint, with whatever prefix they have.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
        path: Where it was read from, for the message.

    Raises:
        CheckpointError: There are none.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    state = next((checkpoint[key] for key in STATE_KEYS if isinstance(checkpoint.get(key), Mapping)), checkpoint)
    if not any(isinstance(value, Tensor) for value in state.values()):
        places = ", ".join(STATE_KEYS)
        raise CheckpointError(f"The checkpoint {path} holds no weights: none of {places} is a dict of tensors")
    return state


def find_prefix(state: Mapping[str, Any], wanted: set[str]) -> str:
    """The wrapper's prefix under which most keys are the model's, the shortest of equals."""

    def hits(prefix: str) -> int:
        return sum(key.startswith(prefix) and key[len(prefix) :] in wanted for key in state)

    return max(PREFIXES, key=lambda prefix: (hits(prefix), -len(prefix)))


def _load(model: nn.Module, state: Mapping[str, Any], prefix: str) -> LoadReport:
    """What ``load_state_dict`` does, with every shape mismatch collected; what is not under ``prefix`` is not ours."""
    report = LoadReport(total=len(model.state_dict()))
    remaining = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    metadata = getattr(state, "_metadata", {})  # versions, by which modules convert old layouts
    for name, module in model.named_modules():
        dotted = f"{name}." if name else ""
        version = metadata.get((prefix + dotted)[:-1], {})
        module._load_from_state_dict(
            remaining, dotted, version, True, report.missing, report.unexpected, report.mismatched
        )
    return report
