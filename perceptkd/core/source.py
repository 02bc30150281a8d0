"""Where a student or a teacher comes from: a dict, a config file, or ``lib::path`` inside an installed library."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeGuard

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from torch import nn

from perceptkd.core.errors import InputError
from perceptkd.registry import MODELS, SCOPE

_PACKAGE = Path(__file__).resolve().parents[1]
#: The folder with ``configs/``: inside the package where a wheel put it, else the checkout.
CONFIG_ROOT = _PACKAGE / ".mim" if (_PACKAGE / ".mim").is_dir() else _PACKAGE.parent
#: What installs the library of a ``lib::path``, where it is not the library's own name.
INSTALLED_BY = {"mmdet": "onedl-mmdetection", "mmseg": "'perceptkd[seg]'"}


@dataclass(frozen=True)
class ModelSource:
    """A model's config and where it was found.

    Attributes:
        model: The model's dict, ready for the registry.
        scope: The family it is built in; None means the run's ``default_scope``.
        path: The config file, if there is one.
    """

    model: dict[str, Any]
    scope: str | None = None
    path: str | None = None

    @property
    def stem(self) -> str:
        """Name of the config, or of the model's type, as checkpoint folders use it."""
        return Path(self.path).stem if self.path else str(self.model["type"]).split(".")[-1].lower()


def is_described(model: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether it is a dict that names a ``config``, instead of a model's own dict, whose ``type`` tells what to build.

    >>> is_described(dict(config="a.py", checkpoint="a.pth")), is_described(dict(type="Reversible", config={}))
    (True, False)
    """
    return isinstance(model, Mapping) and "config" in model and "type" not in model


def read_model_source(source: Mapping[str, Any] | Config | str | Path) -> ModelSource:
    """Find the model dict that ``source`` means.

    Args:
        source: A model dict, a whole config, the path of a config (from the working directory, else from the
            checkout), ``'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'``, or a dict whose ``config`` is one of these
            and whose ``compression`` makes it compact (:func:`perceptkd.models.compact.shrink`). Of a distillation
            config it is the student.

    >>> read_model_source(dict(type="RetinaNet")).stem
    'retinanet'
    """
    if isinstance(source, Mapping) and "type" in source:
        return _student_of(ModelSource(_plain(source)))
    if is_described(source):
        return _compact(read_model_source(source["config"]), source.get("compression", 1))
    if isinstance(source, Mapping):
        config, path = Config(_plain(source)), None
    elif isinstance(source, Config):
        config, path = source, source.filename
    else:
        config, path = load_config(source), str(source)
    if "model" not in config:
        raise InputError(f"{path or 'The config'} has no 'model'; a model dict needs a 'type'")
    model = _plain(config.model)
    if "data_preprocessor" in config and "student" not in model:
        model.setdefault("data_preprocessor", _plain(config.data_preprocessor))
    return _student_of(ModelSource(model, scope=config.get("default_scope"), path=path))


def load_config(source: Mapping[str, Any] | Config | str | Path) -> Config:
    """A config from a dict, a file (from here, else from the checkout), or ``<library>::<path>`` in a library.

    >>> load_config({"model": {"type": "RetinaNet"}}).model.type
    'RetinaNet'

    Raises:
        FileNotFoundError: There is no such config; the message names those beside it.
        ModuleNotFoundError: The library is not installed.
    """
    if isinstance(source, Config):
        return source
    if isinstance(source, Mapping):
        return Config(dict(source))
    library, separator, inside = str(source).partition("::")
    if separator and library != SCOPE:
        return _library_config(library, inside)
    path = CONFIG_ROOT / "configs" / inside if separator else Path(source).expanduser()
    found = path if path.exists() else CONFIG_ROOT / path
    if not found.is_file():
        names = {each.name: str(each) for each in sorted(path.parent.glob("*.py"))}
        nearest = get_close_matches(path.name, names, n=3) or list(names)[:8]
        beside = f"; beside it are {', '.join(names[name] for name in nearest)}" if names else ""
        raise FileNotFoundError(f"The config {source} does not exist{beside}")
    return Config.fromfile(str(found))


def build_model(source: ModelSource) -> nn.Module:
    """Build a model in its own family, whatever the run's default scope is."""
    scope = {"_scope_": source.scope} if source.scope else {}
    return MODELS.build(ConfigDict({**scope, **source.model}))  # mm models read their options as attributes


def _student_of(source: ModelSource) -> ModelSource:
    if source.model.get("type") not in ("DistillModel", f"{SCOPE}.DistillModel"):
        return source
    student = source.model["student"]
    if isinstance(student, Mapping) and "type" in student:
        return _student_of(ModelSource(_plain(student), source.scope, source.path))
    return read_model_source(student)


def _compact(source: ModelSource, compression: float) -> ModelSource:
    if compression == 1:
        return source
    from perceptkd.models.compact import shrink  # whoever has no compact student need not import any models

    return replace(source, model=shrink(source.model, compression))


def _library_config(library: str, inside: str) -> Config:
    if importlib.util.find_spec(library) is None:  # else MMEngine would install whatever bears that name
        package = INSTALLED_BY.get(library, library)
        raise ModuleNotFoundError(f"{library}::{inside} needs {library}, which is not installed: pip install {package}")
    try:
        return get_config(f"{library}::{inside}")
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise FileNotFoundError(f"{library} has no config {inside}: {error}") from error


def _plain(source: Mapping[str, Any]) -> dict[str, Any]:
    return source.to_dict() if hasattr(source, "to_dict") else dict(source)
