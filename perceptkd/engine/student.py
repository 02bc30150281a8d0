"""The student of a distillation config as a config of its own, for mmdet, mmdet3d or mmseg alone."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config

from perceptkd.registry import SCOPE

EVALUATION_KEYS = tuple(f"{stage}_{part}" for stage in ("val", "test") for part in ("dataloader", "evaluator", "cfg"))


class ConfigError(ValueError):
    """A config cannot be found or read; the message says what to do."""


def load_config(source: Mapping[str, Any] | Path | str) -> Config:
    """A config from a dict, a file, or ``<library>::<path>`` inside an installed mm library.

    >>> load_config({"model": {"type": "RetinaNet"}}).model.type
    'RetinaNet'

    Raises:
        ConfigError: There is no such file, or the library is not installed.
    """
    if isinstance(source, Config):
        return source
    if isinstance(source, Mapping):
        return Config(dict(source))
    library, separator, inner = str(source).partition("::")
    if separator:
        if importlib.util.find_spec(library) is None:
            raise ConfigError(f"{source} needs {library}, which is not installed: pip install {library}")
        try:
            return get_config(str(source) if inner.endswith(".py") else f"{source}.py")
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(f"{library} has no config {inner}: {error}") from error
    path = Path(source).expanduser()
    if not path.is_file():
        neighbours = sorted(str(p) for p in path.parent.glob("*.py"))[:8]
        beside = f"; beside it are: {', '.join(neighbours)}" if neighbours else ""
        raise ConfigError(f"config {path} does not exist{beside}")
    return Config.fromfile(str(path))


def is_distillation(config: Config) -> bool:
    """Whether the config's model is a ``DistillModel`` (the only kind with a ``student``)."""
    return "student" in config.get("model", {})


def student_config(config: Config) -> Config:
    """The plain config of the student: its model, its scope, and how it is evaluated.

    A config that does not distill is its own student. Types of ours carry ``custom_imports``; an mmdet3d student asks
    for ``perceptkd.compat`` where that is installed, which the maintained mm forks need.
    """
    model, scope = config.model, config.get("default_scope", "mmengine")
    if is_distillation(config):
        model = model.student
        if not isinstance(model, Mapping) or "type" not in model:
            source = load_config(model.get("config", model) if isinstance(model, Mapping) else model)
            model, scope = source.model, source.get("default_scope", scope)
    plain = {"default_scope": scope, "model": ConfigDict(model).to_dict()}
    if any(kind.startswith(f"{SCOPE}.") for kind in collect_types(plain["model"])):
        plain["custom_imports"] = {"imports": [f"{SCOPE}.registry"], "allow_failed_imports": False}
    elif scope == "mmdet3d":
        plain["custom_imports"] = {"imports": [f"{SCOPE}.compat"], "allow_failed_imports": True}
    evaluation = {key: config.get(key) for key in (*EVALUATION_KEYS, "tta_model", "tta_pipeline")}
    plain.update({key: value for key, value in evaluation.items() if value is not None})
    return Config(plain)


def collect_types(config: Any) -> Iterator[str]:
    """All values of ``type`` in a nested config."""
    if isinstance(config, Mapping):
        if isinstance(config.get("type"), str):
            yield config["type"]
        for value in config.values():
            yield from collect_types(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from collect_types(value)
