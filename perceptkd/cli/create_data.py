"""``tools/create_data.py``: the simulated world in one of three formats, or info files of real data sets."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perceptkd.cli.arguments import PARSER, UserError, build_parser, run_command
from perceptkd.cli.create_custom import add_custom_arguments, create_custom

NUSCENES, KITTI, SEMANTICKITTI = "nuscenes", "kitti", "semantickitti"
FORMATS = (NUSCENES, KITTI, SEMANTICKITTI)
DEFAULT_SPLITS = {"train": 16, "tune": 6, "report": 6}
#: Size of the images by format; SemanticKITTI has none.
IMAGE_SIZES = {NUSCENES: (800, 450), KITTI: (1242, 375)}
DEFAULT_SWEEPS = {NUSCENES: 9, KITTI: 0, SEMANTICKITTI: 0}


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
        Write a simulated data set, or the info files of a real one, which the configs read. The options of each:
        create_data.py simworld --help, create_data.py nuscenes --help, and so on.
        """,
        examples="""
        python tools/create_data.py simworld --out data/simworld
        python tools/create_data.py simworld --out data/simworld_splits --format kitti \\
            --splits train=240 tune=144 report=288 --keyframes 3
        python tools/create_data.py nuscenes --root data/nuscenes --version v1.0-trainval
        python tools/create_data.py custom --points clouds --boxes boxes.csv --out data/custom
        python tools/create_data.py kitti --root data/kitti
        python tools/create_data.py semantickitti --root data/semantickitti
        """,
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    world = kinds.add_parser("simworld", help="write a simulated data set", **PARSER)
    _add_world_arguments(world)
    real = kinds.add_parser(NUSCENES, help="write the info files of the real nuScenes", **PARSER)
    real.add_argument("--root", type=Path, required=True, help="folder with samples/, sweeps/ and the tables")
    real.add_argument(
        "--version",
        choices=("v1.0-mini", "v1.0-trainval", "v1.0-test"),
        default="v1.0-trainval",
        help="folder of the tables in ROOT",
    )
    real.add_argument("--max-sweeps", type=int, default=10, help="earlier LiDAR sweeps listed per key frame")
    kitti = kinds.add_parser(
        KITTI,
        help="write KITTI's info files, clouds cut to the image and ground-truth database",
        **PARSER,
    )
    kitti.add_argument("--root", type=Path, required=True, help="folder with training/, testing/ and ImageSets/")
    kitti.add_argument(
        "--splits",
        nargs="+",
        choices=("train", "val", "trainval", "test"),
        metavar="NAME",
        help="train, val, trainval or test (default: all that ImageSets has a file for)",
    )
    scans = kinds.add_parser(SEMANTICKITTI, help="write the info files of SemanticKITTI", **PARSER)
    scans.add_argument("--root", type=Path, required=True, help="folder with sequences/")
    own = kinds.add_parser("custom", help="write clouds and boxes of your own", **PARSER)
    add_custom_arguments(own)
    return parser.parse_args(arguments)


def _add_world_arguments(world: argparse.ArgumentParser) -> None:
    splits = " ".join(f"{name}={count}" for name, count in DEFAULT_SPLITS.items())
    world.add_argument("--out", type=Path, required=True, help="the data set goes to OUT/FORMAT")
    world.add_argument(
        "--format",
        choices=FORMATS,
        default=NUSCENES,
        help="format of the files; kitti is its object data, semantickitti has a label for every LiDAR point",
    )
    world.add_argument(
        "--version",
        choices=("v1.0-mini", "v1.0-trainval"),
        help="of nuscenes (default: v1.0-mini, and v1.0-trainval with --splits)",
    )
    world.add_argument("--scenes", type=int, help="only the first N of the ten scenes of v1.0-mini (default: all)")
    world.add_argument(
        "--splits",
        type=parse_split,
        nargs="+",
        metavar="NAME=SCENES",
        help=f"scenes per split, for all but v1.0-mini (default: {splits}); kitti: train, tune and report are "
        "train.txt, val.txt and test.txt of ImageSets; semantickitti: train, val and test",
    )
    world.add_argument("--keyframes", type=int, default=40, help="key frames per scene, at 2 Hz")
    world.add_argument(
        "--image-size",
        type=parse_size,
        metavar="WIDTHxHEIGHT",
        help="of the camera images, in pixels (default: 800x450; kitti: 1242x375)",
    )
    world.add_argument(
        "--sweeps",
        type=int,
        help="LiDAR sweeps between two key frames, 0 to 9 (default: 9; semantickitti, which labels them: 0); kitti has "
        "none",
    )
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
    from perceptkd.datasets.simworld.writers import kitti, nuscenes, semantickitti
    from perceptkd.datasets.simworld.writers.plan import WorldError

    write, list_infos = {
        NUSCENES: (nuscenes.write_nuscenes_world, nuscenes.info_files),
        KITTI: (kitti.write_kitti_world, kitti.info_files),
        SEMANTICKITTI: (semantickitti.write_semantickitti_world, semantickitti.info_files),
    }[arguments.format]
    root = arguments.out / arguments.format
    try:
        plan = plan_world(arguments)
        write(plan, root, workers=arguments.workers, overwrite=arguments.overwrite)
    except WorldError as error:
        raise UserError(str(error)) from error
    return list_infos(plan, root)


def plan_world(arguments: argparse.Namespace) -> Any:
    """The ``WorldPlan`` that the options ask for.

    Raises:
        WorldError: They do not go together, or no scene can have these sizes.
    """
    from perceptkd.datasets.simworld.writers.plan import WorldError

    sweeps = arguments.sweeps
    sizes = {
        "seed": arguments.seed,
        "num_keyframes": arguments.keyframes,
        "image_size": arguments.image_size or IMAGE_SIZES.get(arguments.format, IMAGE_SIZES[KITTI]),
        "sweeps": DEFAULT_SWEEPS[arguments.format] if sweeps is None else sweeps,
    }
    plan = _plan_nuscenes(arguments, sizes) if arguments.format == NUSCENES else _plan_kitti(arguments, sizes)
    try:
        plan.scenes()
    except ValueError as error:
        raise WorldError(str(error)) from error
    return plan


def _plan_nuscenes(arguments: argparse.Namespace, sizes: dict[str, Any]) -> Any:
    from perceptkd.datasets.simworld.writers.plan import MINI, TRAINVAL, WorldError, plan_mini, plan_trainval

    version = arguments.version or (TRAINVAL if arguments.splits else MINI)
    if version == MINI:
        if arguments.splits:
            raise WorldError(f"{MINI} has its official splits: leave out --splits, or use --version {TRAINVAL}")
        return plan_mini(arguments.scenes, **sizes)
    if arguments.scenes is not None:
        raise WorldError(f"--scenes is for {MINI}: say how many scenes each split has, as in --splits train=16")
    return plan_trainval(dict(arguments.splits or DEFAULT_SPLITS.items()), **sizes)


def _plan_kitti(arguments: argparse.Namespace, sizes: dict[str, Any]) -> Any:
    from perceptkd.datasets.simworld.writers.plan import WorldError, plan_kitti

    if arguments.version is not None or arguments.scenes is not None:
        raise WorldError(
            "--version and --scenes are for nuscenes: say how many scenes each split has, as in --splits train=16"
        )
    if arguments.format == KITTI and sizes["sweeps"]:
        raise WorldError("kitti has no sweeps between its frames: leave out --sweeps")
    if arguments.format == SEMANTICKITTI and arguments.image_size is not None:
        raise WorldError("semantickitti has no images: leave out --image-size")
    return plan_kitti(arguments.format, dict(arguments.splits or DEFAULT_SPLITS.items()), **sizes)


def create_nuscenes(arguments: argparse.Namespace) -> list[Path]:
    """Writes the info files of a nuScenes data root; returns them."""
    from perceptkd.datasets.nuscenes_infos import create_nuscenes_infos

    return list(create_nuscenes_infos(arguments.root, arguments.version, max_sweeps=arguments.max_sweeps).values())


def create_kitti(arguments: argparse.Namespace) -> list[Path]:
    """Writes the info files of a KITTI data root, and what goes with them; returns them."""
    from perceptkd.datasets.kitti_infos import create_kitti_infos

    return list(create_kitti_infos(arguments.root, splits=arguments.splits).values())


def create_semantickitti(arguments: argparse.Namespace) -> list[Path]:
    """Writes the info files of a SemanticKITTI data root; returns them."""
    from perceptkd.datasets.semantickitti import create_semantickitti_infos

    return list(create_semantickitti_infos(arguments.root).values())


CREATE = {
    "simworld": create_simworld,
    NUSCENES: create_nuscenes,
    KITTI: create_kitti,
    SEMANTICKITTI: create_semantickitti,
    "custom": create_custom,
}


def command(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    for path in CREATE[arguments.kind](arguments):
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(command, argv)
