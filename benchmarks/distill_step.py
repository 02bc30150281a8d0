"""What distilling costs beyond its parts: a distillation step against a student step plus the teacher's forward.

Both sides run in turn on the same batch: whole steps (preprocessing, forward, backward, optimizer), data loading
excluded, in the precision the machine trains in. The teacher has random weights: its time does not depend on them.

Usage: python benchmarks/distill_step.py, after `make demo`, whose world it reads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measure import paired_row, single_row, time_ms, write_results
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS, init_default_scope
from mmengine.runner import Runner

from perceptkd.cli.arguments import check_data, run_command
from perceptkd.engine.backends import backends
from perceptkd.registry import MODELS

CONFIG = "configs/unidistill/unidistill_lidar2camera_demo.py"
TARGET = 1.05
BATCH_SIZES = (1, 4)


def build(config: Config, *, distill: bool) -> tuple[Any, Any]:
    """Model and optimizer wrapper, as a run has them."""
    torch.manual_seed(0)
    model = MODELS.build({**config.model, "distill": distill})
    model.init_weights()
    model.train()
    parameters = [value for value in model.parameters() if value.requires_grad]
    options = dict(config.optim_wrapper)
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    options.pop("optimizer")
    wrapper = OPTIM_WRAPPERS.build({**options, "optimizer": optimizer})
    wrapper.initialize_count_status(model, 0, 1)
    return model, wrapper


def measure(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30, help="pairs of timings per row (default 30)")
    pairs = parser.parse_args(arguments).pairs
    config = Config.fromfile(CONFIG)
    check_data(config, stages=("train",))
    init_default_scope(config.default_scope)
    teacher = config.model.teachers.lidar
    config.model.teachers = {"lidar": {"config": teacher.config, "allow_random": True}}
    alone, alone_wrapper = build(config, distill=False)
    distilled, wrapper = build(config, distill=True)
    rows = []
    for size in BATCH_SIZES:
        loader = Runner.build_dataloader(
            {**config.train_dataloader, "batch_size": size, "num_workers": 0, "persistent_workers": False}
        )
        loader.dataset.set_epoch(0, seed=0)
        batch = next(iter(loader))

        def student_step(batch: Any = batch) -> None:
            alone.train_step(batch, alone_wrapper)

        def teacher_forward(batch: Any = batch) -> None:
            with wrapper.optim_context(distilled):
                distilled.distillers.teachers["lidar"].collect(batch)

        def distillation_step(batch: Any = batch) -> None:
            distilled.train_step(batch, wrapper)

        part_ms: dict[str, list[float]] = {"student step": [], "teacher forward": []}

        def parts(
            functions: Sequence[Callable[[], None]] = (student_step, teacher_forward),
            part_ms: dict[str, list[float]] = part_ms,
        ) -> None:
            for times, function in zip(part_ms.values(), functions, strict=True):
                times.append(time_ms(function))

        name = f"distillation step, {size} sample(s)"
        rows.append(
            paired_row(name, distillation_step, parts, peer_name="student + teacher", target=TARGET, pairs=pairs)
        )
        for part, times in part_ms.items():
            median = round(statistics.median(times[-pairs:]), 1)  # the first ones warmed up
            rows.append(single_row(f"{part}, {size} sample(s)", median, unit="ms", note="median within these pairs"))
    write_results("distill_step", rows, backends=backends())


if __name__ == "__main__":
    sys.exit(run_command(measure))
