"""``tools/analysis_tools/plot_curves.py``: training curves of one or more runs as one PNG."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from perceptkd.cli.arguments import UserError, build_parser, run_command


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Draw the training curves of one or more runs: the loss, the terms of distillation and the evaluation, or what
        --keys names. A run is a work directory or a scalars.json; runs named teacher, control and distilled keep their
        colours in all pictures.
        """,
        examples="""
        python tools/analysis_tools/plot_curves.py control=work_dirs/a distilled=work_dirs/b --out curves.png
        python tools/analysis_tools/plot_curves.py work_dirs/b --keys loss 'kd/*' lr
        """,
    )
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="work directory or scalars.json")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="PNG file to write")
    parser.add_argument("--keys", nargs="+", metavar="KEY", help="quantities, or patterns such as 'kd/*'")
    parser.add_argument("--smooth", type=int, default=10, help="window of the running median, in records")
    parser.add_argument("--title", default="", help="of the picture")
    return parser.parse_args(arguments)


def named_runs(arguments: Sequence[str]) -> dict[str, str]:
    """Name -> path of 'NAME=RUN' or 'RUN', which is named as its folder.

    >>> named_runs(["control=work_dirs/a", "work_dirs/b/"])
    {'control': 'work_dirs/a', 'b': 'work_dirs/b/'}
    """
    runs: dict[str, str] = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator:
            name, path = Path(argument).name, argument
        if name in runs:
            raise UserError(f"two runs are named {name!r}: name them apart, as in NAME={path}")
        runs[name] = path
    return runs


def command(arguments: Sequence[str] | None = None) -> None:
    from perceptkd.visualization.curves import DEFAULT_KEYS, draw_curves

    parsed = parse_arguments(arguments)
    keys = parsed.keys or DEFAULT_KEYS
    try:
        written = draw_curves(parsed.out, named_runs(parsed.runs), keys, smooth=parsed.smooth, title=parsed.title)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"wrote {written}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
