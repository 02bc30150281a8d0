"""Reading checkpoints: are they whole, which is the newest whole one, and where are the student's weights in them."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from perceptkd.atomic import write_text
from perceptkd.core.checkpoint import CheckpointError, find_prefix, find_state_dict, read_checkpoint

STUDENT_PREFIX = "student."
STUDENT_SUFFIX = "_student"
METRICS_FILE = "metrics.json"


def is_whole(path: Path) -> bool:
    """Whether a checkpoint file is complete: torch writes zip archives, which end with their table of contents."""
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] != b"PK":
        return len(head) > 0  # the format of torch < 1.6 has no checksum
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def resumable_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints that hold a training state, newest first."""
    candidates = [p for p in folder.glob("*.pth") if not p.stem.endswith(STUDENT_SUFFIX) and p.stem[:5] != "best_"]
    return [p for p in sorted(candidates, key=lambda p: p.stat().st_mtime, reverse=True) if is_whole(p)]


def check_checkpoint(path: Path | str, *, folder: Path | str | None = None) -> Path:
    """Raise a ``CheckpointError`` that names the newest whole checkpoint in ``folder`` (by default beside it)."""
    path = Path(path).expanduser()
    if path.is_file() and is_whole(path):
        return path
    folder = Path(folder) if folder else path.parent
    others = [p for p in resumable_checkpoints(folder) if p != path]
    problem = "is truncated or damaged" if path.is_file() else "does not exist"
    none = f"there is no whole one in {folder}; tools/train.py writes them into its --work-dir"
    advice = f"the newest whole one in {folder} is {others[0]}" if others else none
    raise CheckpointError(f"checkpoint {path} {problem}; {advice}")


def student_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's weights without prefix, from a checkpoint of ``DistillModel`` or of the student alone.

    >>> sorted(student_state_dict({"student.a": 1, "distillers.b": 2})), sorted(student_state_dict({"a": 1}))
    (['a'], ['a'])
    """
    prefixed = {k.removeprefix(STUDENT_PREFIX): v for k, v in state_dict.items() if k.startswith(STUDENT_PREFIX)}
    return prefixed or dict(state_dict)


def load_student(model: nn.Module, path: Path | str) -> dict[str, Any]:
    """Load any checkpoint's student weights strictly into the plain student model; returns the checkpoint's meta.

    Weights are found wherever a teacher's are (:func:`perceptkd.core.checkpoint.load_weights`), but all of them
    have to fit.

    Raises:
        CheckpointError: Keys are missing, unexpected, or of another shape; the first five of each are named.
    """
    checkpoint = read_checkpoint(check_checkpoint(path))
    state, own = find_state_dict(checkpoint, path), model.state_dict()
    prefix = find_prefix(state, set(own))
    weights = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    problems = {
        "missing": own.keys() - weights.keys(),
        "unexpected": weights.keys() - own.keys(),
        "of another shape": {k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape},
    }
    found = [f"{len(keys)} {kind}: {', '.join(sorted(keys)[:5])}" for kind, keys in problems.items() if keys]
    if found:
        raise CheckpointError(f"{path} does not fit this config's model ({'; '.join(found)})")
    model.load_state_dict(weights)
    return dict(checkpoint.get("meta", {}))


def record_metrics(checkpoint: Path | str, metrics: Mapping[str, float]) -> None:
    """Write the metrics of a checkpoint into ``metrics.json`` beside it, by the checkpoint's file name."""
    path = Path(checkpoint)
    table = _read_table(path.parent / METRICS_FILE)
    table[path.name] = {key: float(value) for key, value in metrics.items()}
    write_text(path.parent / METRICS_FILE, json.dumps(table, indent=2) + "\n")


def recorded_metrics(checkpoint: Path | str) -> dict[str, float] | None:
    """The metrics recorded for a checkpoint (or for the full one a student file belongs to), None if there are none."""
    path = Path(checkpoint)
    table = _read_table(path.parent / METRICS_FILE)
    names = (path.name, path.stem.removesuffix(STUDENT_SUFFIX) + path.suffix)
    return next((table[name] for name in names if name in table), None)


def _read_table(path: Path) -> dict[str, dict[str, float]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
