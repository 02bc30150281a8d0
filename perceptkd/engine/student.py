"""The student of a distillation config as a config of its own, for mmdet, mmdet3d or mmseg alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from perceptkd.core.source import read_model_source
from perceptkd.registry import SCOPE

EVALUATION_KEYS = tuple(f"{stage}_{part}" for stage in ("val", "test") for part in ("dataloader", "evaluator", "cfg"))


def is_distillation(config: Config) -> bool:
    """Whether the config's model is a ``DistillModel`` (the only kind with a ``student``)."""
    return "student" in config.get("model", {})


def student_config(config: Config) -> Config:
    """The plain config of the student: its model, its scope, and how it is evaluated.

    A config that does not distill is its own student. Types of ours carry ``custom_imports``; an mmdet3d student asks
    for ``perceptkd.compat`` where that is installed, which the maintained mm forks need.
    """
    source = read_model_source(config.to_dict())
    scope = source.scope or config.get("default_scope", "mmengine")
    plain = {"default_scope": scope, "model": dict(source.model)}
    plain["model"].pop("init_cfg", None)  # where this run started from; the checkpoint beside it is what to start from
    preprocessor = config.model.get("data_preprocessor") or config.get("data_preprocessor")
    if preprocessor is not None:  # MMEngine and DistillModel hand it to a model that has none
        plain["model"].setdefault("data_preprocessor", preprocessor)
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
