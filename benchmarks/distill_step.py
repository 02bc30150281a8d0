"""What distilling costs beyond its parts: a distillation step against a student step plus the teacher's forward.

Then the same with the teacher's outputs read from a store, against a student step alone. Both sides run in turn on the
same batch: whole steps (preprocessing, forward, backward, optimizer), data loading excluded, in the precision the
machine trains in. The teacher has random weights: its time does not depend on them. A store that was just written is in
the disk's cache.

Memory is the peak of a process of its own for each kind of step, beyond its libraries, which were loaded before, and
its batch: weights, gradients, the optimizer's state and activations.

Usage: python benchmarks/distill_step.py, after `make demo`, whose world it reads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from measure import Row, extra_memory_mib, in_new_process, paired_row, single_row, time_ms, write_results
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from perceptkd.cli.arguments import check_data, run_command
from perceptkd.core.cache_writer import TeacherCacheWriter, write_cache
from perceptkd.core.teacher import build_teacher, teacher_fingerprint
from perceptkd.engine.backends import backends
from perceptkd.engine.precision import choose_precision, to_channels_last
from perceptkd.registry import DISTILLERS, MODELS

CONFIG = "configs/unidistill/unidistill_lidar2camera_demo.py"
TARGET = 1.05
CACHED_TARGET = 1.10
BATCH_SIZES = (1, 4)
STUDENT, TEACHER = "student step", "teacher forward"
DISTILLED, CACHED = "distillation step", "distillation step with a cached teacher"


def random_teacher(config: Config, **options: Any) -> dict[str, Any]:
    """The teacher of the config without its weights, and with further options."""
    return {"config": config.model.teachers.lidar.config, "allow_random": True, **options}


def build(config: Config, *, distill: bool, **teacher: Any) -> tuple[Any, Any]:
    """Model and optimizer wrapper, as a run has them; ``teacher`` are further options of the teacher."""
    torch.manual_seed(0)
    teachers = {"lidar": random_teacher(config, **teacher)}
    model = MODELS.build({**config.model, "teachers": teachers, "distill": distill})
    model.init_weights()
    model.train()
    parameters = [value for value in model.parameters() if value.requires_grad]
    options = dict(config.optim_wrapper)
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    options.pop("optimizer")
    wrapper = OPTIM_WRAPPERS.build({**options, "optimizer": optimizer})
    wrapper.initialize_count_status(model, 0, 1)
    return model, wrapper


def load_batch(config: Config, size: int) -> Any:
    """The first training batch of a size, the same in every process."""
    loader = Runner.build_dataloader(
        {**config.train_dataloader, "batch_size": size, "num_workers": 0, "persistent_workers": False}, seed=0
    )
    loader.dataset.set_epoch(0, seed=0)
    return next(iter(loader))


def rows_of(config: Config, size: int, *, pairs: int) -> list[Row]:
    """The rows of one batch size."""
    batch = load_batch(config, size)
    (alone, alone_wrapper), (distilled, wrapper) = (build(config, distill=distill) for distill in (False, True))
    part_ms: dict[str, list[float]] = {STUDENT: [], TEACHER: []}

    def student_step() -> None:
        alone.train_step(batch, alone_wrapper)

    def teacher_forward() -> None:
        with wrapper.optim_context(distilled):
            distilled.distillers.teachers["lidar"].collect(batch)

    def parts() -> None:
        for times, function in zip(part_ms.values(), (student_step, teacher_forward), strict=True):
            times.append(time_ms(function))

    rows = [
        paired_row(
            f"{DISTILLED}, {size} sample(s)",
            lambda: distilled.train_step(batch, wrapper),
            parts,
            peer_name="student + teacher",
            target=TARGET,
            pairs=pairs,
        )
    ]
    for part, times in part_ms.items():
        median = round(statistics.median(times[-pairs:]), 1)  # the first ones warmed up
        rows.append(single_row(f"{part}, {size} sample(s)", median, unit="ms", note="median within these pairs"))
    with tempfile.TemporaryDirectory() as folder:
        teacher = distilled.distillers.teachers["lidar"]
        (distiller,) = distilled.distillers.each()
        with wrapper.optim_context(distilled):  # in the precision of the step that reads it
            fingerprint = teacher_fingerprint("lidar", teacher.config)
            writer = TeacherCacheWriter(folder, fingerprint, reach=distiller.teacher_reach())
            write_cache(teacher.collect, [batch], writer)
        cached, cached_wrapper = build(config, distill=True, role="cached", cache=folder)
        rows.append(
            paired_row(
                f"{CACHED}, {size} sample(s)",
                lambda: cached.train_step(batch, cached_wrapper),
                student_step,
                peer_name="student",
                target=CACHED_TARGET,
                pairs=pairs,
            )
        )
        rows += [memory_row(config, kind, size, folder) for kind in (STUDENT, TEACHER, DISTILLED, CACHED)]
    return rows


def memory_row(config: Config, kind: str, size: int, store: str) -> Row:
    """The peak memory of a kind of step, measured in a process that does nothing else."""
    peak_mib = in_new_process(peak_of, config, kind, size, store)
    return single_row(f"peak memory of a {kind}, {size} sample(s)", peak_mib, unit="MiB", note="in its own process")


def peak_of(config: Config, kind: str, size: int, store: str) -> float:
    """MiB that :func:`two_steps` takes beyond its batch; to be called in a process that has computed nothing yet."""
    init_default_scope(config.default_scope)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a process that is forked must not wait for the threads of its parent
    batch = load_batch(config, size)
    load_libraries(config, batch)

    def run() -> None:
        torch.set_num_threads(threads)
        two_steps(config, kind, batch, store)

    return extra_memory_mib(run)


def load_libraries(config: Config, batch: Any) -> None:
    """Runs what imports and compiles at its first use: the builders and the teacher's voxelization.

    Without a backward pass, which a process could not do again once it is forked.
    """
    model, wrapper = build(config, distill=True)
    with wrapper.optim_context(model):
        model.distillers.teachers["lidar"].collect(batch)


def two_steps(config: Config, kind: str, batch: Any, store: str) -> None:
    """Builds what a kind of step needs, and makes two of them: the optimizer's state is there in the second."""
    if kind == TEACHER:
        distiller = DISTILLERS.build(config.model.distillers[0])
        teacher = build_teacher("lidar", random_teacher(config), distiller.teacher_taps["lidar"], student=nn.Module())
        precision = choose_precision("cpu")
        if precision.channels_last:
            to_channels_last(teacher.model)
        for _ in range(2):
            with precision.autocast(torch.device("cpu")):
                teacher.collect(batch)
            teacher.clear()
        return
    cached = {"role": "cached", "cache": store} if kind == CACHED else {}
    model, wrapper = build(config, distill=kind != STUDENT, **cached)
    for _ in range(2):
        model.train_step(batch, wrapper)


def measure(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30, help="pairs of timings per row (default 30)")
    pairs = parser.parse_args(arguments).pairs
    config = Config.fromfile(CONFIG)
    check_data(config, stages=("train",))
    init_default_scope(config.default_scope)
    rows = [row for size in BATCH_SIZES for row in rows_of(config, size, pairs=pairs)]
    write_results("distill_step", rows, backends=backends())


if __name__ == "__main__":
    sys.exit(run_command(measure))
