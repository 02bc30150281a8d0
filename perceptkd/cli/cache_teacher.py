"""``tools/cache_teacher.py``: run a teacher once over everything that the training will load, and keep its outputs."""

from __future__ import annotations

import argparse
import copy
import functools
import operator
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader

from perceptkd.cli.arguments import UserError, add_config_arguments, build_parser, check_data, run_command
from perceptkd.cli.estimate import GIB, MIB, epochs_of
from perceptkd.cli.jobs import strings
from perceptkd.cli.train import OUR_AMP, enable_amp, read_config
from perceptkd.core.box_reach import BoxReach
from perceptkd.core.cache_writer import TeacherCacheWriter, write_cache
from perceptkd.core.class_map import head_classes
from perceptkd.core.tap import Taps
from perceptkd.core.teacher import FrozenTeacher, teacher_fingerprint
from perceptkd.core.teacher_config import TeacherConfig
from perceptkd.datasets.seeded import collect_seeded_datasets
from perceptkd.engine.precision import Precision, choose_precision, to_channels_last
from perceptkd.engine.student import is_distillation
from perceptkd.progress import progress_bar
from perceptkd.registry import DATASETS, MODELS

CACHES = Path("work_dirs/caches")
#: How many samples tell the size of the store.
SIZED_SAMPLES = 4


def cache_teacher(
    config: Config,
    *,
    teacher: str,
    folder: Path,
    epochs: int | None = None,
    device: str = "cpu",
    dtype: str = "float16",
    whole_maps: bool = False,
    amp: bool = False,
) -> int:
    """Stores the taps of a teacher for every sample of the training, once for each of its augmentations.

    All epochs are loaded, as only that tells which inputs are new; the teacher runs on those alone.

    Args:
        config: A distillation config.
        teacher: Name of the teacher.
        folder: Of the store; one that was interrupted is continued.
        epochs: How many; all of the training's by default, 1 where nothing in the data depends on the epoch.
        device: Where the teacher runs.
        dtype: Of the stored values.
        whole_maps: Keep every cell of BEV maps even where the config's methods read those near annotated boxes alone.
        amp: The training will be given ``--amp``.

    Returns:
        How many samples were added.
    """
    options = _check_cacheable(config, teacher)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    if not len(dataset):
        raise UserError("the training data are empty: nothing to store")
    seeded = collect_seeded_datasets(dataset)
    if epochs is None:
        epochs = epochs_of(config, samples=len(dataset), batch_size=config.train_dataloader.batch_size) if seeded else 1
    seed = config.get("randomness", {}).get("seed") or 0
    model: Any = MODELS.build(config.model).to(device)
    holder = model.distillers.teachers[teacher]
    precision = training_precision(config, device, amp=amp)
    collect = _collector(holder, precision, torch.device(device))
    with precision.autocast(torch.device(device)):
        fingerprint = teacher_fingerprint(teacher, options, device=device)
    reach = None if whole_maps else reach_around_boxes(model, teacher)
    loader = DataLoader(
        dataset, batch_size=1, num_workers=config.train_dataloader.get("num_workers", 0), collate_fn=pseudo_collate
    )
    stored = {"taps": holder.specs.values(), "classes": head_classes(holder.model), "dtype": dtype, "reach": reach}
    with TeacherCacheWriter(folder, fingerprint, **stored) as writer:
        for each in seeded:
            each.set_epoch(0, seed=seed)
        size, precise = bytes_per_sample(dataset, collect, writer), fingerprint["precision"]
        _print_plan(size, samples=len(dataset), epochs=epochs, reach=reach, precision=precise, folder=folder)
        total = epochs * len(dataset)
        batches = progress_bar(_batches(loader, seeded, epochs=epochs, seed=seed), total=total, unit="sample")
        return write_cache(collect, batches, writer)


def training_precision(config: Config, device: torch.device | str, *, amp: bool = False) -> Precision:
    """What the student's training step computes in, and with it a teacher of ``precision='student'``.

    Args:
        config: A training config.
        device: Of the training.
        amp: It will be given ``--amp``.

    Raises:
        UserError: Its ``optim_wrapper`` is of a type whose precision is not known.
    """
    if amp:
        config = copy.deepcopy(config)
        enable_amp(config)
    options = config.get("optim_wrapper") or {}
    kind = options.get("type", "OptimWrapper")
    if kind == OUR_AMP:
        return choose_precision(device, request=options.get("precision", "auto"))
    if kind == "OptimWrapper":
        return choose_precision(device, request="fp32")
    raise UserError(f"what optim_wrapper.type={kind} computes in is not known: use OptimWrapper or {OUR_AMP}")


def bytes_per_sample(dataset: Any, collect: Callable[[Any], Taps], writer: TeacherCacheWriter) -> float:
    """Mean size of what the writer would store of a sample, from the first few."""
    sizes = []
    for index in range(min(SIZED_SAMPLES, len(dataset))):
        batch = pseudo_collate([dataset[index]])
        (arrays,) = writer.pack(1, collect(batch), batch["data_samples"])
        sizes.append(sum(array.nbytes for array in arrays))
    return statistics.mean(sizes)


def reach_around_boxes(model: Any, teacher: str) -> BoxReach | None:
    """How far around boxes the methods read that learn from the teacher; None where one of them reads whole maps."""
    reaches = [distiller.teacher_reach() for distiller in model.distillers.each() if teacher in distiller.teachers]
    return None if None in reaches else functools.reduce(operator.or_, reaches)


def _print_plan(
    size: float, *, samples: int, epochs: int, reach: BoxReach | None, precision: str, folder: Path
) -> None:
    anew = f", {size * samples * epochs / GIB:.2f} GiB where each of {epochs} epochs augments anew"
    print(
        f"of BEV maps it stores {'every cell' if reach is None else f'the cells near boxes, within {reach}'}\n"
        f"it computes in {precision} and will take about {size * samples / GIB:.2f} GiB, "
        f"{size / MIB:.2f} MiB for each of {samples} samples{anew if epochs > 1 else ''}; "
        f"{shutil.disk_usage(folder).free / GIB:.0f} GiB are free",
        flush=True,
    )


def _check_cacheable(config: Config, teacher: str) -> TeacherConfig:
    """The options of the teacher, if what it gives for the training data can be known beforehand."""
    options = TeacherConfig.parse(teacher, config.model.teachers[teacher])
    if options.role != "frozen":
        raise UserError(f"teacher '{teacher}' has role='{options.role}': only a frozen one gives the same every time")
    if "://" in str(options.checkpoint):
        raise UserError(
            f"teacher '{teacher}': a cache keeps the hash of the weights: download {options.checkpoint} and name the "
            "file"
        )
    if options.norm != "eval":
        raise UserError(f"teacher '{teacher}' has norm='{options.norm}': its outputs depend on the batch, not a sample")
    for distiller in config.model.get("distillers", ()):
        if distiller.get("inherit") and distiller.get("teacher", "teacher") in (teacher, [teacher]):
            raise UserError(
                f"{distiller.type} starts the student with modules of teacher '{teacher}' (inherit=), which a cached "
                "teacher has none of: take inherit= out, or train with the teacher itself"
            )
    if any(name.endswith("CBGSDataset") for name in strings(config.train_dataloader.dataset)):
        raise UserError(
            "CBGSDataset draws its frames anew whenever it is built, so that the training would find others than those "
            "of the cache: take it out of train_dataloader.dataset for both"
        )
    return options


def _collector(teacher: FrozenTeacher, precision: Precision, device: torch.device) -> Callable[[Any], Taps]:
    """The teacher's ``collect`` as a training step calls it."""
    if precision.channels_last:
        to_channels_last(teacher.model)

    def collect(batch: Any) -> Taps:
        with torch.no_grad(), precision.autocast(device):
            return teacher.collect(batch)

    return collect


def _batches(loader: DataLoader, seeded: Sequence[Any], *, epochs: int, seed: int) -> Iterator[Any]:
    for epoch in range(epochs):
        for dataset in seeded:
            dataset.set_epoch(epoch, seed=seed)
        yield from loader


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Run a teacher once over all that the training will load and store its outputs, by sample and augmentation. The
        training then reads them instead of running the teacher. Of BEV maps only the cells near annotated boxes are
        kept where all methods of the config say how far around boxes they read; DistillBEV and others read whole maps.
        It prints the size first, and an interrupted command continues. The teacher computes in the precision that the
        config trains in; a training in another one refuses the cache.
        """,
        examples="""
        python tools/cache_teacher.py configs/unidistill/unidistill_lidar2camera_sim.py
        python tools/cache_teacher.py CONFIG --teacher lidar --epochs 1 --whole-maps --dtype float32
        """,
    )
    add_config_arguments(parser)
    parser.add_argument("--teacher", metavar="NAME", help="which teacher, where the config has several")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: work_dirs/caches/<config stem>/<teacher>")
    parser.add_argument("--epochs", type=int, metavar="N", help="default: all that the training makes")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="of stored values")
    parser.add_argument("--whole-maps", action="store_true", help="keep every cell, to try other methods on")
    parser.add_argument("--amp", action="store_true", help="the training will be given --amp")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    return parser.parse_args(arguments)


def command(arguments: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(arguments)
    config = read_config(parsed.config, options=parsed.cfg_options)
    distills = is_distillation(config) and config.model.get("distill", True)
    teachers = list(config.model.get("teachers", {})) if distills else []
    if parsed.epochs is not None and parsed.epochs < 1:
        raise UserError(f"--epochs {parsed.epochs} stores nothing: at least 1")
    name: str = parsed.teacher or (teachers[0] if len(teachers) == 1 else "")
    if name not in teachers:
        raise UserError(f"name one of the config's teachers with --teacher: {', '.join(teachers) or 'it has none'}")
    check_data(config, stages=("train",))
    folder = parsed.out or CACHES / Path(parsed.config).stem / name
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        added = cache_teacher(
            config,
            teacher=name,
            folder=folder,
            epochs=parsed.epochs,
            device=parsed.device,
            dtype=parsed.dtype,
            whole_maps=parsed.whole_maps,
            amp=parsed.amp,
        )
    size = sum(path.stat().st_size for path in folder.iterdir()) / GIB
    print(f"{folder}: {added} samples added, {size:.2f} GiB")
    amp = "--amp " if parsed.amp else ""
    print(f"train with: {amp}--cfg-options model.teachers.{name}.role=cached model.teachers.{name}.cache={folder}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
