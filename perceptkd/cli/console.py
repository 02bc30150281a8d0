"""The console command ``perceptkd``: every command by its name, with the options of the script in ``tools/``."""

import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches

USER_ERROR_STATUS = 2  # as perceptkd.cli.arguments, whose import takes seconds
#: Command -> what it does. Its module is ``perceptkd.cli.<command>``, with underscores.
COMMANDS = {
    "train": "train a model, distilling or not",
    "test": "evaluate the student of any checkpoint, and draw what it finds",
    "compare": "teacher, control and distilled student side by side",
    "create-data": "write the simulated world, or what the configs read of real data or your own",
    "check-teacher": "check a teacher's weights and its metric",
    "browse-dataset": "draw samples of a data set as a pipeline gives them",
    "export-student": "write the student of any checkpoint as a plain model",
    "convert-checkpoint": "weights of OpenPCDet, older mmdet3d or UniDistill for the models here",
    "list-taps": "print where a model can be tapped",
    "cache-teacher": "store the outputs of a teacher for a training",
    "estimate": "print what a training needs: operations, memory, disk",
    "plot-curves": "draw the training curves of one or more runs",
    "demo": "a LiDAR detector teaches a camera detector, from an empty folder to pictures",
}


def describe_commands() -> str:
    """What ``perceptkd --help`` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{line}" for name, line in COMMANDS.items()]
    return "\n".join(
        [
            "usage: perceptkd COMMAND ...",
            "",
            "commands (perceptkd COMMAND --help lists the options of one):",
            *lines,
            "",
            "examples:",
            "  perceptkd train perceptkd::unidistill/unidistill_lidar2camera_sim.py",
            "  perceptkd test CONFIG CHECKPOINT --show-dir pictures",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its status."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("-h", "--help"):
        print(describe_commands())
        return 0
    if name not in COMMANDS:
        nearest = get_close_matches(name, COMMANDS)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"it has {', '.join(COMMANDS)}"
        print(f"error: perceptkd has no command {name!r}; {hint}", file=sys.stderr)
        return USER_ERROR_STATUS
    return importlib.import_module(f"perceptkd.cli.{name.replace('-', '_')}").main(rest)
