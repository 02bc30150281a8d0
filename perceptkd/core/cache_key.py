"""What identifies a cached sample, and what a teacher cache was made from."""

import functools
import hashlib
import importlib.metadata
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import perceptkd
from perceptkd.core.errors import InputError

#: Where data sets keep a sample's name, first found wins.
NAMES = ("token", "sample_token", "sample_idx", "img_id", "img_path", "lidar_path")
#: What a teacher is made of: libraries, by the names they are installed under, and parts of our own.
MODEL_LIBRARIES = ("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "mmdet3d", "spconv")
MODEL_SOURCE = ("models", "ops")
#: Bytes of a name or view; longer ones (paths) are stored as their hash.
MAX_NAME = 128
#: How keys of metainfo end that say where files lie, and so nothing of what is in them.
PLACES = ("path", "filename")


@dataclass(frozen=True)
class SampleKey:
    """Equal keys have equal ``sample`` and ``content``: one that no epoch augments anew has the same key in all.

    Attributes:
        sample: The data set's name of it.
        view: Which augmentation of it, as ``seed-epoch-index``, for messages; None where the data set does not say.
        content: Checksum of its raw inputs, of all numbers and text in its metainfo (calibration, augmentation,
            prompts) but paths, and of its annotated boxes, about which a store may keep the maps alone.
    """

    sample: str
    view: str | None = field(compare=False)
    content: int


def sample_keys(batch: Any) -> list[SampleKey]:
    """The keys of the samples of a raw batch (``dict(inputs=..., data_samples=[...])``)."""
    samples = batch["data_samples"]
    inputs = batch["inputs"]
    keys = []
    for number, sample in enumerate(samples):
        name = next((sample.metainfo[key] for key in NAMES if sample.metainfo.get(key) is not None), None)
        if name is None:
            raise InputError(f"A cached teacher needs one of {', '.join(NAMES)} in the samples' metainfo (meta_keys)")
        view = sample.metainfo.get("view")
        told = _values({key: value for key, value in sample.metainfo.items() if key != "view"})
        content = _checksum([_pick(inputs, number), *told, *_annotations(sample)])
        keys.append(SampleKey(_short(str(name)), None if view is None else _short(str(view)), content))
    return keys


def build_fingerprint(
    *,
    model: Mapping[str, Any],
    checkpoint: str | Path | None,
    norm: str = "eval",
    forward_mode: str = "predict",
    precision: str = "fp32",
) -> dict[str, Any]:
    """What stored outputs depend on besides their inputs, whose checksums are kept per sample.

    Of the source it covers our models and ops, and of libraries the versions of those that models come from.

    Args:
        model: The teacher's model dict.
        checkpoint: Its weights; None for a random teacher.
        norm, forward_mode: How it runs, see :class:`perceptkd.core.teacher_config.TeacherConfig`.
        precision: What it computes in: 'fp32', 'bf16' or 'fp16'.
    """
    text = json.dumps([model, norm, forward_mode], sort_keys=True, default=str)
    installed = {name: _version(name) for name in ("perceptkd", "torch", *MODEL_LIBRARIES)}
    return {
        "teacher": hashlib.sha256(text.encode()).hexdigest(),
        "checkpoint": _file_hash(Path(checkpoint)) if checkpoint else None,
        "precision": precision,
        "source": _source_hash(),
        "versions": ", ".join(f"{name} {version}" for name, version in installed.items() if version),
    }


@functools.cache
def _source_hash() -> str:
    digest = hashlib.sha256()
    for part in MODEL_SOURCE:
        for path in sorted((Path(perceptkd.__file__).parent / part).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(name: str) -> str:
    return name if len(name.encode()) <= MAX_NAME else hashlib.sha256(name.encode()).hexdigest()


def _pick(inputs: Any, number: int) -> Any:
    """The inputs of one sample: ``inputs`` is a list or stacked tensor, or a dict of those."""
    if isinstance(inputs, Mapping):
        return [_pick(inputs[key], number) for key in sorted(inputs)]
    return inputs[number]


def _values(metainfo: Any) -> Iterator[Any]:
    """The values of a sample's metainfo that are numbers, text, or arrays, lists or sets of them, without paths."""
    if isinstance(metainfo, Mapping):
        for key in sorted(metainfo, key=str):
            if not str(key).endswith(PLACES):
                yield from _values(metainfo[key])
    elif isinstance(metainfo, str | bytes):
        yield metainfo
    elif (numbers := _numbers(metainfo)) is not None:
        yield numbers
    elif isinstance(metainfo, np.ndarray):
        yield from _values(metainfo.tolist())
    elif isinstance(metainfo, list | tuple | Set):
        for item in sorted(metainfo, key=repr) if isinstance(metainfo, Set) else metainfo:
            yield from _values(item)


def _numbers(value: Any) -> np.ndarray | None:
    """A number or numbers as an array; None if it is or has something else, such as text or a type."""
    try:
        array = np.asarray(value)
        text = array.dtype.kind in "SU" or (array.ndim > 0 and array.dtype.hasobject)
        return None if text else array.astype(np.float64)
    except (TypeError, ValueError):
        return None


def _annotations(sample: Any) -> Iterator[Any]:
    for kind in ("gt_instances", "gt_instances_3d"):
        instances = getattr(sample, kind, None)
        for key in ("bboxes", "bboxes_3d"):
            boxes = getattr(instances, key, None)
            if boxes is not None:
                yield boxes


def _checksum(value: Any, start: int = 0) -> int:
    if isinstance(value, str | bytes):
        return zlib.crc32(b"\0", zlib.crc32(value.encode() if isinstance(value, str) else value, start))
    if isinstance(value, Mapping):
        return _checksum([part for key in sorted(value, key=str) for part in (str(key), value[key])], start)
    if isinstance(value, Sequence):
        for item in value:
            start = _checksum(item, start)
        return start
    tensor = value if isinstance(value, Tensor) else getattr(value, "tensor", None)
    array = np.asarray(value) if tensor is None else tensor.detach().cpu().numpy()
    if array.dtype.hasobject:
        raise InputError(
            f"A cached teacher cannot tell inputs apart that are of type {type(value).__name__}: pack tensors, arrays, "
            "numbers, text, or lists and dicts of them"
        )
    return zlib.crc32(np.ascontiguousarray(array).tobytes(), zlib.crc32(str(array.shape).encode(), start))
