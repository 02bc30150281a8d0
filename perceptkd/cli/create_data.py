"""``tools/create_data.py``: the simulated world in nuScenes format, or info files of the real nuScenes."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perceptkd.cli.arguments import HelpFormatter, UserError, build_parser, run_command
from perceptkd.cli.create_custom import add_custom_arguments, create_custom

FORMATS = ("nuscenes",)
DEFAULT_SPLITS = {"train": 16, "tune": 6, "report": 6}


def parse_size(text: str) -> tuple[int, int]:
    """'800x450' as (800, 450).

    >>> parse_size("800x450")
    (800, 450)
    """
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 800x450") from None
    return width, height


def parse_split(text: str) -> tuple[str, int]:
    """'train=16' as ('train', 16).

    >>> parse_split("train=16")
    ('train', 16)
    """
    name, _, count = text.partition("=")
    if not name or not count.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no split such as train=16")
    return name, int(count)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Write a simulated data set, or the info files of the real nuScenes, which the configs read. The options of each:
        create_data.py simworld --help, create_data.py nuscenes --help.
        """,
        examples="""
        python tools/create_data.py simworld --out data/simworld
        python tools/create_data.py nuscenes --root data/nuscenes --version v1.0-trainval
        python tools/create_data.py custom --points clouds --boxes boxes.csv --out data/custom
        """,
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    world = kinds.add_parser("simworld", help="write a simulated data set", formatter_class=HelpFormatter)
    _add_world_arguments(world)
    real = kinds.add_parser("nuscenes", help="write the info files of the real nuScenes", formatter_class=HelpFormatter)
    real.add_argument("--root", type=Path, required=True, help="folder with samples/, sweeps/ and the tables")
    real.add_argument(
        "--version",
        choices=("v1.0-mini", "v1.0-trainval", "v1.0-test"),
        default="v1.0-trainval",
        help="folder of the tables in ROOT",
    )
    real.add_argument("--max-sweeps", type=int, default=10, help="earlier LiDAR sweeps listed per key frame")
    own = kinds.add_parser("custom", help="write clouds and boxes of your own", formatter_class=HelpFormatter)
    add_custom_arguments(own)
    return parser.parse_args(arguments)


def _add_world_arguments(world: argparse.ArgumentParser) -> None:
    splits = " ".join(f"{name}={count}" for name, count in DEFAULT_SPLITS.items())
    world.add_argument("--out", type=Path, required=True, help="the data set goes to OUT/FORMAT")
    world.add_argument("--format", choices=FORMATS, default="nuscenes", help="format of the files")
    world.add_argument(
        "--version",
        choices=("v1.0-mini", "v1.0-trainval"),
        help="default: v1.0-mini, and v1.0-trainval with --splits",
    )
    world.add_argument("--scenes", type=int, help="only the first N of the ten mini scenes (default: all)")
    world.add_argument(
        "--splits",
        type=parse_split,
        nargs="+",
        metavar="NAME=SCENES",
        help=f"scenes per split of a v1.0-trainval set (default: {splits})",
    )
    world.add_argument("--keyframes", type=int, default=40, help="key frames per scene, at 2 Hz")
    world.add_argument(
        "--image-size",
        type=parse_size,
        default=(800, 450),
        metavar="WIDTHxHEIGHT",
        help="of the camera images, in pixels (default: 800x450)",
    )
    world.add_argument("--sweeps", type=int, default=9, help="LiDAR sweeps between two key frames, 0 to 9")
    world.add_argument("--no-sweeps", dest="sweeps", action="store_const", const=0, help="key frames only")
    world.add_argument("--seed", type=int, default=0, help="another seed is another world")
    world.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes, with the same bytes for any number (default: the machine's cores)",
    )
    world.add_argument("--overwrite", action="store_true", help="replace another simulated data set in OUT/FORMAT")


def create_simworld(arguments: argparse.Namespace) -> list[Path]:
    """Writes the simulated data set; returns its info files."""
    from perceptkd.datasets.nuscenes_infos import info_path
    from perceptkd.datasets.simworld.writers.nuscenes import write_nuscenes_world
    from perceptkd.datasets.simworld.writers.plan import WorldError

    root = arguments.out / arguments.format
    try:
        plan = plan_world(arguments)
        write_nuscenes_world(plan, root, workers=arguments.workers, overwrite=arguments.overwrite)
    except WorldError as error:
        raise UserError(str(error)) from error
    return [info_path(root, split) for split, names in plan.splits.items() if names]


def plan_world(arguments: argparse.Namespace) -> Any:
    """The ``WorldPlan`` that the options ask for.

    Raises:
        WorldError: They do not go together, or no scene can have these sizes.
    """
    from perceptkd.datasets.simworld.writers.plan import MINI, TRAINVAL, WorldError, plan_mini, plan_trainval

    version = arguments.version or (TRAINVAL if arguments.splits else MINI)
    sizes = {
        "seed": arguments.seed,
        "num_keyframes": arguments.keyframes,
        "image_size": arguments.image_size,
        "sweeps": arguments.sweeps,
    }
    if version == MINI:
        if arguments.splits:
            raise WorldError(f"{MINI} has its official splits: leave out --splits, or use --version {TRAINVAL}")
        plan = plan_mini(arguments.scenes, **sizes)
    else:
        if arguments.scenes is not None:
            raise WorldError(f"--scenes is for {MINI}: say how many scenes each split has, as in --splits train=16")
        plan = plan_trainval(dict(arguments.splits or DEFAULT_SPLITS.items()), **sizes)
    try:
        plan.scenes()
    except ValueError as error:
        raise WorldError(str(error)) from error
    return plan


def create_nuscenes(arguments: argparse.Namespace) -> list[Path]:
    """Writes the info files of a nuScenes data root; returns them."""
    from perceptkd.datasets.nuscenes_infos import create_nuscenes_infos

    return list(create_nuscenes_infos(arguments.root, arguments.version, max_sweeps=arguments.max_sweeps).values())


def command(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    create = {"simworld": create_simworld, "nuscenes": create_nuscenes, "custom": create_custom}
    for path in create[arguments.kind](arguments):
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(command, argv)
