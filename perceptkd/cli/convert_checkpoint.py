"""``tools/model_converters/*.py``: checkpoints of other code bases as weights and a config that fit each other."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from perceptkd.atomic import atomic_path, write_text
from perceptkd.cli.arguments import (
    PARSER,
    UserError,
    add_config_arguments,
    build_parser,
    program_name,
    run_command,
)
from perceptkd.cli.train import read_config
from perceptkd.converters import mmdet3d_old, openpcdet, unidistill
from perceptkd.converters.conversion import Conversion, Mismatch, Setting, compare
from perceptkd.core.checkpoint import find_state_dict, read_checkpoint
from perceptkd.core.source import build_model, load_config, read_model_source
from perceptkd.engine.student import student_config

#: How the keys of a code base begin, by which a wrapper's prefix before them is found.
ROOTS = {
    "openpcdet": r"(vfe|backbone_3d|backbone_2d|dense_head|point_head|roi_head)\.",
    "mmdet3d-old": r"(voxel_encoder|middle_encoder|backbone|neck|bbox_head|pts_\w+|img_\w+)\.",
    "unidistill": r"(lidar_encoder|camera_encoder|fusion_encoder|bev_encoder|det_head)\.",
}
WRAPPERS = ("", "module.", "model.", "model.module.", "module.model.")


@dataclass
class Task:
    """One conversion.

    Attributes:
        source: Code base of the checkpoint, a key of ``ROOTS``.
        state: The checkpoint's weights, without a wrapper's prefix.
        meta: The checkpoint's ``meta``.
        lidar: Prefix of the target's LiDAR modules, ``'pts_'`` or nothing.
        classes: Class names in the checkpoint's order, None where nobody said them.
        target_classes: Those of the config.
        version: Version of mmdet3d, as the user says.
    """

    source: str
    state: Mapping[str, Any]
    meta: Mapping[str, Any]
    lidar: str
    classes: Sequence[str] | None
    target_classes: Sequence[str]
    version: str | None

    def settings(self) -> list[Setting]:
        """What the config must say."""
        if self.source == "openpcdet":
            return openpcdet.settings(self.state, target_classes=self.target_classes, lidar=self.lidar)
        if self.source == "mmdet3d-old":
            version = mmdet3d_old.find_version(self.meta, self.version)
            return mmdet3d_old.settings(self.state, self.meta, version=version, lidar=self.lidar)
        return []

    def convert(self, model: nn.Module) -> Conversion:
        """The weights as those of a model whose config has the settings."""
        if self.source == "openpcdet":
            return openpcdet.convert(self.state, model, classes=self.classes, target_classes=self.target_classes)
        if self.source == "mmdet3d-old":
            version = mmdet3d_old.find_version(self.meta, self.version)
            return mmdet3d_old.convert(
                self.state, model, version=version, meta=self.meta, target_classes=self.target_classes
            )
        return unidistill.convert(self.state, model)


def strip_wrapper(state: Mapping[str, Any], roots: str) -> dict[str, Any]:
    """The weights without the prefix that a wrapper (DDP, Lightning) put before their names; others keep theirs.

    >>> list(strip_wrapper({"module.vfe.a": 1, "module.vfe.b": 2, "global_step": 3}, "vfe[.]"))
    ['vfe.a', 'vfe.b', 'global_step']
    """
    best = max(
        WRAPPERS, key=lambda wrapper: sum(re.match(re.escape(wrapper) + roots, key) is not None for key in state)
    )
    return {key.removeprefix(best) if re.match(re.escape(best) + roots, key) else key: state[key] for key in state}


def class_names(config: Config) -> list[str]:
    """The classes of a config in the order of its labels: its ``class_names``, or those of its training data."""
    if config.get("class_names"):
        return list(config.class_names)
    pending: list[Any] = [config.get("train_dataloader")]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            if "metainfo" in node and "classes" in node["metainfo"]:
                return list(node["metainfo"]["classes"])
            pending += [node.get("dataset"), *(node.get("datasets") or [])]
    return []


def report(conversion: Conversion, mismatch: Mismatch, settings: Sequence[Setting], *, total: int) -> Iterator[str]:
    """Everything that did not match, on either side, and what to know."""
    fitting = total - len(mismatch.missing) - len(mismatch.shapes)
    yield f"{fitting} of the model's {total} keys are filled"
    for title, keys in (
        ("the checkpoint lacks", mismatch.missing),
        ("of another shape", mismatch.shapes),
        ("the model lacks", conversion.unknown),
        ("not needed", conversion.ignored),
    ):
        if keys:
            yield f"{title} ({len(keys)}):"
            yield from (f"  {key}" for key in keys)
    for setting in settings:
        yield f"the config says model.{setting.path}={setting.value!r}: {setting.reason}"
    for note in conversion.notes:
        yield f"note: {note}"


def convert_checkpoint(
    source: str,
    config: Mapping[str, Any] | Path | str,
    checkpoint: Path | str,
    *,
    out: Path | str,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    target_classes: Sequence[str] | None = None,
    version: str | None = None,
    from_config: Path | str | None = None,
    allow_unused: bool = False,
    say: Callable[[str], Any] = print,
) -> tuple[Path, Path]:
    """Writes the weights, and beside them a config with the settings that they need.

    Args:
        source: Code base of the checkpoint, a key of ``ROOTS``.
        config: Of the target; of a distillation its student.
        checkpoint: File to convert.
        out: File of the weights; the config is beside it, with the suffix ``.py``.
        options: What ``--cfg-options`` would merge.
        classes, target_classes, version: See :class:`Task`.
        from_config: What the checkpoint was trained with; where None, what it carries itself.
        allow_unused: Write the weights although the checkpoint holds some that the model does not know.
        say: Gets the report, line by line.

    Returns:
        The paths of the weights and of the config.

    Raises:
        UserError: The checkpoint lacks something that the model needs, or what is read would be written over; nothing
            was written.
    """
    full, out = read_config(config, options=options), Path(out)
    _check_out(out, [full.filename, checkpoint, from_config])
    plain = student_config(full)
    state, meta = _read_source(checkpoint, from_config)
    task = Task(
        source=source,
        state=strip_wrapper(state, ROOTS[source]),
        meta=meta,
        lidar="pts_" if "pts_bbox_head" in plain.model else "",
        classes=classes,
        target_classes=class_names(full) if target_classes is None else target_classes,
        version=version,
    )
    settings = task.settings()
    plain.merge_from_dict({f"model.{setting.path}": setting.value for setting in settings})
    model = build_model(read_model_source(plain.to_dict()))
    conversion = task.convert(model)
    mismatch = compare(conversion, model)
    for line in report(conversion, mismatch, settings, total=len(model.state_dict())):
        say(line)
    _check_complete(conversion, mismatch, checkpoint, allow_unused=allow_unused)
    model.load_state_dict(conversion.state)
    with atomic_path(out) as temporary:
        torch.save(model.state_dict(), temporary)
    write_text(out.with_suffix(".py"), plain.pretty_text)
    return out, out.with_suffix(".py")


def _read_source(checkpoint: Path | str, from_config: Path | str | None) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The weights of a checkpoint, and its ``meta`` with the config it was trained with where that is given."""
    content = read_checkpoint(checkpoint)
    trained = {} if from_config is None else {"config": load_config(from_config).pretty_text}
    return find_state_dict(content, checkpoint), {**(content.get("meta") or {}), **trained}


def _check_out(out: Path, read: Sequence[Path | str | None]) -> None:
    """Refuse to write the weights as a config, and to write over what is read."""
    if out.suffix == ".py":
        raise UserError(f"--out {out} is the file of the weights: name it {out.with_suffix('.pth')}")
    for path in filter(None, read):
        if Path(path).resolve() in (out.resolve(), out.with_suffix(".py").resolve()):
            raise UserError(f"--out {out} would write over {path}, which is read: choose another name")


def _check_complete(conversion: Conversion, mismatch: Mismatch, checkpoint: Path | str, *, allow_unused: bool) -> None:
    """Refuse a model with weights that are not in the checkpoint, and weights of the checkpoint that nothing takes."""
    if mismatch.missing or mismatch.shapes:
        count = len(mismatch.missing) + len(mismatch.shapes)
        raise UserError(
            f"{count} keys that the model needs are not in {checkpoint} (see above): is it of another config?"
        )
    if conversion.unknown and not allow_unused:
        raise UserError(
            f"the model does not know {len(conversion.unknown)} keys of {checkpoint} (see above): its config may lack "
            "a layer. --allow-unused leaves them out"
        )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Convert a checkpoint of another code base to a detector of mmdet3d or perceptkd. Prints every key of either side
        that does not match, and writes the weights with a config that has the settings they need: both together are a
        teacher. Nothing is written when something that the model needs is missing.
        """,
        examples="""
        python tools/model_converters/openpcdet.py CONFIG second_7862.pth --out work_dirs/teachers/second.pth
        python tools/model_converters/mmdet3d_old.py CONFIG old.pth --from-version 0.17.0 --out old_converted.pth
        python tools/model_converters/unidistill.py configs/bev/camera_released.py camera.pth --out camera_converted.pth
        """,
    )
    sources = parser.add_subparsers(dest="source", required=True)
    for name, summary in (
        ("openpcdet", "PointPillar, SECOND, CenterPoint, PointRCNN of OpenPCDet"),
        ("mmdet3d-old", "LiDAR detectors of mmdet3d before 1.0, whose boxes had other axes"),
        ("unidistill", "detectors of megvii-research/CVPR2023-UniDistill"),
    ):
        is_script = Path(sys.argv[0]).stem == name.replace("-", "_")
        source = sources.add_parser(
            name,
            prog=program_name() if is_script else f"{program_name()} {name}",
            help=summary,
            description=summary,
            **PARSER,
        )
        add_config_arguments(source)
        source.add_argument("checkpoint", help="file to convert")
        source.add_argument(
            "--out", required=True, type=Path, help="file of the weights, .pth; the config goes beside it"
        )
        source.add_argument(
            "--allow-unused", action="store_true", help="leave out weights that the model does not know"
        )
        if name == "openpcdet":
            source.add_argument(
                "--classes",
                nargs="+",
                metavar="NAME",
                help="CLASS_NAMES of OpenPCDet's config, which anchor and point heads count by (default: "
                f"{' '.join(openpcdet.KITTI_CLASSES)}); of a CenterPoint CLASS_NAMES_EACH_HEAD, head by head",
            )
        if name == "mmdet3d-old":
            source.add_argument(
                "--from-version", metavar="VERSION", help="of mmdet3d, where the checkpoint does not say it"
            )
            source.add_argument(
                "--from-config",
                metavar="FILE",
                help="config that the checkpoint was trained with, where it does not carry it",
            )
    return parser.parse_args(arguments)


def command(arguments: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(arguments)
    weights, config = convert_checkpoint(
        parsed.source,
        parsed.config,
        parsed.checkpoint,
        out=parsed.out,
        options=parsed.cfg_options,
        classes=getattr(parsed, "classes", None),
        version=getattr(parsed, "from_version", None),
        from_config=getattr(parsed, "from_config", None),
        allow_unused=parsed.allow_unused,
    )
    print(f"wrote {weights} and {config}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
