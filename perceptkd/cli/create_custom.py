"""``tools/create_data.py custom``: clouds and boxes of your own, as the configs read them."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from perceptkd.cli.arguments import UserError

DEFAULT_VAL_FRACTION = 0.2


def parse_split_file(text: str) -> tuple[str, Path]:
    """'train=train.txt' as ('train', its path).

    >>> parse_split_file("train=train.txt")[0]
    'train'
    """
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is no split such as train=train.txt")
    return name, Path(path)


def add_custom_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``create_data.py custom``."""
    parser.add_argument(
        "--points",
        type=Path,
        required=True,
        help="folder of clouds: .pcd, .ply, .las, .laz, .npy or .bin, at any depth",
    )
    parser.add_argument(
        "--boxes",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="CSV with the header frame,class,x,y,z,length,width,height,yaw: the path of the cloud below POINTS "
        "without suffix, the centre of the box and its sides in metres, yaw in radians counter-clockwise from +x",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="ROOT", help="the data set goes here")
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="class names by label (default: those of the boxes, sorted)"
    )
    parser.add_argument(
        "--splits",
        type=parse_split_file,
        nargs="+",
        metavar="NAME=FILE",
        help="frames of each split, one per line: train=train.txt val=val.txt (default: a random val split)",
    )
    parser.add_argument(
        "--val-fraction", type=float, help=f"share of random val frames (default: {DEFAULT_VAL_FRACTION})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random split")
    parser.add_argument(
        "--origin",
        type=float,
        nargs=3,
        default=(0.0, 0.0, 0.0),
        metavar=("X", "Y", "Z"),
        help="subtracted from clouds and boxes, for coordinates of a map (default: 0 0 0)",
    )
    parser.add_argument("--bin-columns", type=int, default=4, help="float32 values to a point in .bin files")


def create_custom(arguments: argparse.Namespace) -> list[Path]:
    """Writes the data set and prints what is in it; returns its info files."""
    from perceptkd.datasets.box_table import read_boxes
    from perceptkd.datasets.custom_infos import create_custom_infos, find_clouds, read_splits, split_frames

    if arguments.splits and arguments.val_fraction is not None:
        raise UserError("--splits says which frames are whose: leave out --val-fraction")
    if len(set(arguments.classes or ())) != len(arguments.classes or ()):
        raise UserError(f"--classes names a class twice: {' '.join(arguments.classes)}")
    clouds = find_clouds(arguments.points)
    boxes = read_boxes(arguments.boxes, classes=arguments.classes)
    if arguments.splits:
        splits = read_splits(dict(arguments.splits), clouds)
    else:
        share = DEFAULT_VAL_FRACTION if arguments.val_fraction is None else arguments.val_fraction
        splits = split_frames(list(clouds), val_fraction=share, seed=arguments.seed)
    summary = create_custom_infos(
        clouds,
        boxes,
        splits,
        arguments.out,
        classes=arguments.classes,
        origin=arguments.origin,
        bin_columns=arguments.bin_columns,
    )
    for line in describe(summary, total=len(clouds)):
        print(line)
    return list(summary.paths.values())


def describe(summary: Any, *, total: int) -> Iterator[str]:
    """Lines about a ``Summary``: what to look at before training on it."""
    for split, count in summary.frames.items():
        yield f"{split}: {count} frames"
    left_out = total - sum(summary.frames.values())
    if left_out:
        yield f"{left_out} frames are in no split"
    if summary.dropped:
        yield f"{summary.dropped} points were NaN or infinite and are left out"
    yield f"{'class':<20} {'boxes':>7} {'empty':>6}  mean length x width x height [m]"
    for name, sizes in sorted(summary.sizes.items()):
        mean = " x ".join(f"{value:.2f}" for value in np.mean(sizes, axis=0))
        yield f"{name:<20} {len(sizes):>7} {summary.empty[name]:>6}  {mean}"
