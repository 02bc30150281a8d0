"""``tools/browse_dataset.py``: pictures of a data set's samples as the pipeline of a config gives them."""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perceptkd.cli.arguments import (
    DEFAULT_WORK_DIRS,
    UserError,
    add_config_arguments,
    build_parser,
    check_data,
    run_command,
)
from perceptkd.cli.train import read_config

if TYPE_CHECKING:
    from perceptkd.visualization.bev import Area

SPLITS = ("train", "val", "test")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Draw samples of a config's data set as its pipeline gives them: points and boxes from above after augmentation,
        boxes over the images of the cameras, labels of points, 2D boxes. It is the first thing to do with new data.
        """,
        examples="""
        python tools/browse_dataset.py configs/bev/fusion_sim.py
        python tools/browse_dataset.py CONFIG --split val --index 0 17 --out pictures
        python tools/browse_dataset.py CONFIG --index 3 --epoch 1     # the same sample, augmented in another way
        python tools/browse_dataset.py CONFIG --window                # open3d, one window after another
        """,
    )
    add_config_arguments(parser)
    parser.add_argument("--split", choices=SPLITS, default="train", help="whose dataloader")
    parser.add_argument("--index", type=int, nargs="+", metavar="N", help="these samples")
    parser.add_argument("--count", type=int, default=4, help="without --index: so many, evenly spread")
    parser.add_argument("--epoch", type=int, default=0, help="whose augmentation, of a perceptkd.SeededDataset")
    parser.add_argument("--out", type=Path, help="folder of the PNG files (default: work_dirs/browse/<config name>)")
    parser.add_argument("--window", action="store_true", help="open3d windows instead of PNG files")
    return parser.parse_args(arguments)


def build_dataset(config: Any, split: str, *, epoch: int = 0) -> Any:
    """The data set of a split, wrappers included.

    Raises:
        UserError: The config has none, or its files are missing.
    """
    from mmengine.registry import DATASETS, init_default_scope

    import perceptkd.registry  # noqa: F401  (patches what the data sets import)
    from perceptkd.datasets.seeded import collect_seeded_datasets

    dataset = (config.get(f"{split}_dataloader") or {}).get("dataset")
    if dataset is None:
        raise UserError(f"the config has no {split}_dataloader with a dataset")
    check_data(config, stages=[split])
    init_default_scope(config.get("default_scope", "mmengine"))
    built = DATASETS.build(dataset)
    for seeded in collect_seeded_datasets(built):
        seeded.set_epoch(epoch, seed=(config.get("randomness") or {}).get("seed") or 0)
    return built


def chosen_indices(length: int, *, wanted: Sequence[int] | None, count: int) -> list[int]:
    """The samples to draw.

    >>> chosen_indices(10, wanted=None, count=4), chosen_indices(3, wanted=[2], count=4)
    ([0, 3, 6, 9], [2])
    """
    if wanted is None:
        return np.linspace(0, length - 1, min(max(count, 1), length)).round().astype(int).tolist()
    beyond = [index for index in wanted if not 0 <= index < length]
    if beyond:
        raise UserError(f"--index {beyond[0]}: the data set has the samples 0 to {length - 1}")
    return list(wanted)


def camera_names(dataset: Any, index: int) -> list[str]:
    """Names of a record's cameras, where the data set has them."""
    info = dataset.get_data_info(index) if hasattr(dataset, "get_data_info") else {}
    return list(info.get("images") or [])


def draw_sample(drawn: Any, stem: Path, *, class_names: Sequence[str], area_m: "Area", forward: str) -> Iterator[Path]:
    """Writes what there is to draw of a sample: ``<stem>_bev.png``, ``_cameras.png`` and ``_image.png``."""
    from perceptkd.visualization import draw_bev, draw_cameras
    from perceptkd.visualization.boxes import TRUTH, DrawnBoxes
    from perceptkd.visualization.images import draw_image

    scene, title = drawn.scene, stem.name
    truth = DrawnBoxes(np.zeros((0, 8, 3)), np.zeros(0, dtype=int)) if scene.truth is None else scene.truth
    if scene.points is not None or scene.truth is not None:
        yield draw_bev(
            f"{stem}_bev.png",
            scene.points,
            {TRUTH: truth},
            class_names=class_names,
            area_m=area_m,
            point_labels=drawn.point_labels,
            forward=forward,
            title=title,
        )
    if scene.images:
        options = {"class_names": class_names, "columns": min(3, len(scene.images)), "title": title}
        yield draw_cameras(f"{stem}_cameras.png", scene.images, {TRUTH: truth}, scene.calibration, **options)
    if drawn.image is not None:
        yield draw_image(f"{stem}_image.png", drawn.image, drawn.boxes_2d, class_names=class_names)


def describe(drawn: Any, class_names: Sequence[str]) -> str:
    """One line about what a sample holds.

    >>> from types import SimpleNamespace as Namespace
    >>> scene = Namespace(points=np.zeros((7, 4)), truth=None, images={})
    >>> describe(Namespace(scene=scene, image=None, boxes_2d=None), [])
    '7 points, no boxes'
    """
    scene = drawn.scene
    parts = [] if scene.points is None else [f"{len(scene.points)} points"]
    parts += [f"{len(scene.images)} images"] if scene.images else []
    labels = [] if scene.truth is None else scene.truth.labels_3d.tolist()
    labels += [] if drawn.boxes_2d is None else drawn.boxes_2d.labels.tolist()
    names = Counter(class_names[label] if 0 <= label < len(class_names) else f"label {label}" for label in labels)
    return ", ".join(
        [*parts, *(f"{count} {name}" for name, count in sorted(names.items()))] + ([] if names else ["no boxes"])
    )


def command(arguments: Sequence[str] | None = None) -> None:
    from perceptkd.engine.student import student_config
    from perceptkd.visualization.bev import area_of, forward_axis
    from perceptkd.visualization.samples import read_sample

    parsed = parse_arguments(arguments)
    config = read_config(parsed.config, options=parsed.cfg_options)
    dataset = build_dataset(config, parsed.split, epoch=parsed.epoch)
    metainfo = getattr(dataset, "metainfo", {})
    class_names = list(metainfo.get("classes") or [])
    out = parsed.out or DEFAULT_WORK_DIRS / "browse" / Path(config.filename or "config").stem
    options = {"class_names": class_names, "forward": forward_axis(metainfo)}
    options["area_m"] = area_of(student_config(config).model)
    samples = []
    for index in chosen_indices(len(dataset), wanted=parsed.index, count=parsed.count):
        sample = dataset[index]
        if sample is None:
            print(f"{index}: the pipeline drops this sample")
            continue
        drawn = read_sample(sample, camera_names(dataset, index))
        print(f"{index}: {describe(drawn, class_names)}")
        if parsed.window:
            samples.append((f"{parsed.split} {index}", drawn))
            continue
        for path in draw_sample(drawn, out / f"{parsed.split}_{index:06d}", **options):
            print(f"  {path}")
    if parsed.window:
        from perceptkd.visualization.window import show_samples

        show_samples(samples)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
