"""What the commands share: the options mmdet users type, and errors that are one sentence instead of a traceback."""

import argparse
import ast
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from perceptkd.atomic import WriteError
from perceptkd.core.align import AlignError
from perceptkd.core.cache import CacheError
from perceptkd.core.checkpoint import CheckpointError
from perceptkd.core.errors import InputError
from perceptkd.core.tap_spec import TapError
from perceptkd.engine.distributed import leave_processes
from perceptkd.registry import SCOPE

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130  # as shells have it
DEFAULT_WORK_DIRS = Path("work_dirs")
#: Folders of simulated worlds and their formats, with the options that write them as the configs expect them.
WORLDS = {
    "simworld/nuscenes": "",
    "simworld_demo/nuscenes": " --splits train=56 tune=12 --keyframes 5",
    "simworld_splits/nuscenes": " --splits train=120 tune=24 report=24 --keyframes 6",
    "simworld_splits/kitti": " --format kitti --splits train=240 tune=144 report=288 --keyframes 3",
    "simworld_splits/semantickitti": " --format semantickitti --splits train=60 tune=12 report=12 --keyframes 4",
}


class UserError(InputError):
    """Something that a command was asked for and cannot do; the message says what to change."""


#: Errors whose message is for the user. All others are faults of ours and keep their traceback.
USER_ERRORS = (
    InputError,
    WriteError,
    FileNotFoundError,
    ImportError,
    FloatingPointError,
    CheckpointError,
    TapError,
    AlignError,
    CacheError,
)


class ConfigOptions(DictAction):
    """``--cfg-options``: as MMEngine's, and values that contain ``{`` are read as Python literals."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        for value in values:
            if "=" not in value:
                raise UserError(f"{option_string} expects KEY=VALUE, as in train_cfg.max_epochs=2; got {value!r}")
        super().__call__(parser, namespace, values, option_string)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        try:
            return ast.literal_eval(val) if "{" in val else DictAction._parse_iterable(val)
        except (SyntaxError, ValueError, AssertionError) as error:
            raise UserError(f"--cfg-options: {val!r} cannot be read as a value: {error}") from error


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Ends the help of an option with its default, where it has one and does not tell of it itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = "default" in (action.help or "")
        is_choice = bool(action.option_strings) and action.default not in (None, "", {}, argparse.SUPPRESS)
        if told or not is_choice or isinstance(action.default, bool):
            return action.help
        return f"{action.help} (default: %(default)s)"


#: What parsers of commands and of their sub-commands have in common.
PARSER: dict[str, Any] = {"formatter_class": HelpFormatter, "allow_abbrev": False}


def program_name() -> str:
    """What the user typed before the arguments: ``train.py``, or ``perceptkd train``."""
    name = Path(sys.argv[0]).name
    return " ".join([name, *sys.argv[1:2]]) if name == SCOPE else name


def build_parser(description: str, *, examples: str) -> argparse.ArgumentParser:
    """A parser whose ``--help`` explains the command and ends with examples."""
    return argparse.ArgumentParser(
        prog=program_name(),
        description=textwrap.dedent(description).strip(),
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
        **PARSER,
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``CONFIG`` and ``--cfg-options``."""
    parser.add_argument("config", help="a config file, or <library>::<path>, as in mmdet::retinanet/...py")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        default={},
        metavar="KEY=VALUE",
        help="change settings of the config: train_cfg.max_epochs=2 data.size='[1,2]'; no spaces around =",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """``--work-dir`` and what distributed launchers pass."""
    parser.add_argument("--work-dir", help="where logs and checkpoints go (default: work_dirs/<config name>)")
    parser.add_argument(
        "--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none", help="who starts the processes"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def set_local_rank(arguments: argparse.Namespace) -> None:
    """Old launchers pass the rank as an argument, MMEngine reads it from the environment."""
    os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))


def run_command(command: Callable[[Sequence[str] | None], int | None], arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its status (None is 0), or 2 after printing what the user can put right."""
    try:
        return command(arguments) or 0
    except USER_ERRORS as error:
        if isinstance(error, ImportError) and (error.name or "").split(".")[0] == SCOPE:
            raise  # a name that is missing in this package is a fault of ours
        print(f"error: {explain(error)}", file=sys.stderr)
        return USER_ERROR_STATUS
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_STATUS
    finally:
        leave_processes()


def explain(error: BaseException) -> str:
    """One sentence about an error; for a missing file, with how to get it."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return describe_missing(str(error.filename))
    return own_message(error)


def own_message(error: BaseException) -> str:
    """An error's message as it was raised: a data loader puts the traceback of its worker into it."""
    message, kind = str(error), type(error)
    if not message.startswith(f"Caught {kind.__name__} in "):
        return message
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return message.rpartition(f"\n{name}: ")[2].strip()


def describe_missing(path: str) -> str:
    """What is missing, and the command that makes it.

    >>> describe_missing("data/simworld/nuscenes/a.pkl").split(": ")[1]
    'write it with python tools/create_data.py simworld --out data/simworld'
    """
    parts = Path(path).parts
    for place, (world, data_format) in enumerate(pairwise(parts), 1):
        options = WORLDS.get(f"{world}/{data_format}")
        if options is not None:
            command = f"python tools/create_data.py simworld --out {Path(*parts[:place])}{options}"
            return f"{path} does not exist: write it with {command}"
    if "data" in parts:
        return f"{path} does not exist: data/README.md says where each data set goes and what prepares it"
    return f"{path} does not exist"


def check_data(config: Config, *, stages: Sequence[str]) -> None:
    """Stop before anything is built if an annotation file of the given stages is missing.

    Raises:
        UserError: Names the file and how to get it.
    """
    for stage in stages:
        loader = config.get(f"{stage}_dataloader") or {}
        for dataset in collect_datasets(loader.get("dataset")):
            path = annotation_path(dataset)
            if path is not None and not path.exists():
                raise UserError(describe_missing(str(path)))


def collect_datasets(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """All dataset configs inside wrappers, the wrappers included."""
    if isinstance(dataset, Mapping):
        yield dataset
        for inner in [dataset.get("dataset"), *(dataset.get("datasets") or [])]:
            yield from collect_datasets(inner)


def annotation_path(dataset: Mapping[str, Any]) -> Path | None:
    """The local annotation file of a dataset config, joined as MMEngine joins it; None if there is none."""
    name, root = dataset.get("ann_file"), dataset.get("data_root") or ""
    backend = (dataset.get("backend_args") or {}).get("backend", "local")
    if not isinstance(name, str) or not name or "://" in name + root or backend != "local":
        return None
    return Path(root) / name
