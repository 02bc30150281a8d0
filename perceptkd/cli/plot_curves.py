"""``tools/analysis_tools/plot_curves.py``: training curves of one or more runs as one PNG."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="plot_curves.py", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="work directory or scalars.json of a run")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="PNG file to write")
    parser.add_argument("--keys", nargs="+", metavar="KEY", help="quantities or patterns such as 'kd/*'")
    parser.add_argument("--smooth", type=int, default=10, help="window of the running median, in records")
    parser.add_argument("--title", default="")
    return parser


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
            raise ValueError(f"two runs are named {name!r}: name them apart, NAME={path}")
        runs[name] = path
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the curves; returns the exit status."""
    from perceptkd.visualization.curves import DEFAULT_KEYS, draw_curves

    parser = build_parser()
    parsed = parser.parse_args(arguments)
    try:
        runs = named_runs(parsed.runs)
        written = draw_curves(parsed.out, runs, parsed.keys or DEFAULT_KEYS, smooth=parsed.smooth, title=parsed.title)
    except (OSError, ValueError) as error:
        parser.exit(1, f"plot_curves.py: {error}\n")
    print(f"wrote {written}")
    return 0
