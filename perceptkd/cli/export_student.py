"""``tools/export_student.py``: any checkpoint to the student's weights and a config that mm libraries load alone."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from perceptkd.atomic import atomic_path, write_text
from perceptkd.cli.arguments import add_config_arguments, build_parser, run_command
from perceptkd.cli.train import read_config
from perceptkd.core.source import build_model, read_model_source
from perceptkd.engine.checkpoints import load_student
from perceptkd.engine.student import student_config

META_KEYS = ("epoch", "iter", "seed", "dataset_meta", "mmengine_version", "ema")


def export_student(
    source: Mapping[str, Any] | Path | str,
    checkpoint: Path | str,
    *,
    out: Path | str,
    options: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write ``student.pth`` and ``student.py`` into ``out``, after building the student and loading it strictly.

    Args:
        source: The config that trained the checkpoint.
        checkpoint: A full one or a student's.
        out: The folder.
        options: What ``--cfg-options`` would merge.

    Returns:
        The paths of the weights and of the config.
    """
    config = student_config(read_config(source, options=options))
    model = build_model(read_model_source(config.to_dict()))
    meta = load_student(model, checkpoint)
    kept = {key: meta[key] for key in META_KEYS if key in meta}
    weights, plain = Path(out) / "student.pth", Path(out) / "student.py"
    with atomic_path(weights) as temporary:
        torch.save({"meta": {**kept, "cfg": config.pretty_text}, "state_dict": model.state_dict()}, temporary)
    write_text(plain, config.pretty_text)
    return weights, plain


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Write the student of a checkpoint as student.pth (weights without prefix) and student.py (a plain config). A
        student of mmdet, mmdet3d or mmseg classes loads there without perceptkd, one of ours imports it by itself.
        """,
        examples="""
        python tools/export_student.py CONFIG work_dirs/run/epoch_12.pth --out exported
        python -c "from mmdet.apis import init_detector; init_detector('exported/student.py', 'exported/student.pth')"
        """,
    )
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="a full checkpoint or a student's")
    parser.add_argument("--out", required=True, help="folder to write into")
    return parser.parse_args(arguments)


def command(arguments: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(arguments)
    weights, plain = export_student(parsed.config, parsed.checkpoint, out=parsed.out, options=parsed.cfg_options)
    print(f"wrote {weights} and {plain}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
