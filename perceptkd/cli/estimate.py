"""``tools/analysis_tools/estimate.py``: what a training needs before it is started, computed from its config."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from perceptkd.cli.arguments import (
    UserError,
    add_config_arguments,
    build_parser,
    check_data,
    run_command,
)
from perceptkd.cli.train import read_config
from perceptkd.core.cache import flatten
from perceptkd.core.random_state import isolated_random_state
from perceptkd.core.tap import Tap
from perceptkd.core.teacher import EMATeacher, FrozenTeacher
from perceptkd.datasets.seeded import collect_seeded_datasets
from perceptkd.engine.footprint import OPTIMIZER_STATES, Footprint, measure, state_bytes
from perceptkd.engine.student import is_distillation
from perceptkd.registry import DATASETS, MODELS

GIB, MIB = 2**30, 2**20
CACHED_BYTES = 2  # a value in a teacher cache, fp16


class Line:
    """Costs of a model in one role, from one run on a batch of 1 and one on a batch of 2.

    Args:
        name: Of the role.
        model: Whose weights are in memory.
        runs: Footprints of the two.
        optimizer: Type of its optimiser, None if it is not trained.
    """

    def __init__(self, name: str, model: nn.Module, runs: Sequence[Footprint], *, optimizer: str | None) -> None:
        one, two = runs
        self.name = name
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.flops = two.flops - one.flops
        self.per_sample = max(two.peak_bytes - one.peak_bytes, 0)
        self.fixed = max(one.peak_bytes - self.per_sample, 0) + state_bytes(model, optimizer)

    def memory(self, batch_size: int) -> int:
        """Bytes at a batch size."""
        return self.fixed + batch_size * self.per_sample


class StoredTaps:
    """A cached teacher without its store: what the model gave for the batches is copied, as a store would be read.

    Args:
        teacher: Who gives it.
        batches: Raw batches of different sizes.
    """

    model = None

    def __init__(self, teacher: FrozenTeacher, batches: Sequence[Any]) -> None:
        self.specs = teacher.specs
        self._taps = {len(batch["data_samples"]): _copied(teacher.collect(batch)) for batch in batches}

    def collect(self, batch: Any) -> dict[str, Tap]:
        """What was stored for a batch of this size."""
        return _copied(self._taps[len(batch["data_samples"])])

    def clear(self) -> None:
        """Nothing is kept."""


def _copied(taps: Mapping[str, Tap]) -> dict[str, Tap]:
    return {alias: tap.map(Tensor.clone) for alias, tap in taps.items()}


def build_dataset(config: Config) -> Any:
    """The training data, which must be there; a data set that draws its frames at random draws the same every time."""
    check_data(config, stages=("train",))
    with isolated_random_state(0):
        dataset = DATASETS.build(config.train_dataloader.dataset)
    for seeded in collect_seeded_datasets(dataset):
        seeded.set_epoch(0, seed=0)
    return dataset


def estimate(config: Config, dataset: Any, *, autocast: bool = False) -> tuple[list[Line], dict[str, int]]:
    """Runs the student's training step, and with distillation its teachers and the joint step, on two samples.

    Args:
        config: A training config.
        dataset: Its training data.
        autocast: Run in bf16 autocast.

    Returns:
        The costs, and by teacher the bytes that a cache of its taps takes per sample.
    """
    optimizer = config.optim_wrapper.optimizer.type
    if optimizer not in OPTIMIZER_STATES:
        raise UserError(f"what {optimizer} keeps per parameter is not known; known are {', '.join(OPTIMIZER_STATES)}")
    batches = [pseudo_collate([dataset[index] for index in range(size)]) for size in (1, 2)]
    model: Any = MODELS.build(with_random_teachers(config.model))
    precision = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext()

    def line(name: str, owner: nn.Module, function: Callable[[Any], Any], optimizer: str | None = None) -> Line:
        runs = []
        for batch in batches:
            with precision:  # of each run: autocast keeps its copies of the weights, which the next would not count
                runs.append(measure(partial(function, batch), model=owner))
        return Line(name, owner, runs, optimizer=optimizer)

    model.train()
    if not is_distillation(config):
        return [line("training step", model, _step(model), optimizer)], {}
    lines = [line("student's training step", model.student, _step(model.student), optimizer)]
    cached = {}
    teachers = model.distillers.teachers
    for name, teacher in teachers.items():
        for batch in batches:
            teacher.collect(batch)  # the first forward of a batch size is a whole one, later ones stop at the last tap
        is_cached = config.model.teachers[name].get("role") == "cached"
        row = f"teacher '{name}'" + (" (cached)" if is_cached else "")
        lines.append(line(row, teacher.model, teacher.collect))
        if not isinstance(teacher, EMATeacher):  # which gives something else at every step
            cached[name] = cached_values(teacher.collect(batches[0])) * CACHED_BYTES
        if is_cached:
            teachers[name] = StoredTaps(teacher, batches)
        teacher.clear()
    running = [teacher.model for teacher in teachers.values() if teacher.model is not None]
    together = nn.ModuleList([model, *running])
    lines.append(line("distillation step", together, _step(model), optimizer))
    return lines, cached


def _step(trained: Any) -> Callable[[Any], None]:
    """A training step of a model without the optimiser, on a raw batch."""

    def run(batch: Any) -> None:
        trained.zero_grad(set_to_none=True)
        total, _ = trained.parse_losses(trained._run_forward(trained.data_preprocessor(batch, True), mode="loss"))
        total.backward()

    return run


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps what libraries log of data sets and weights off the console; warnings pass."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def report(
    lines: Sequence[Line], cached: Mapping[str, int], *, batch_size: int, samples: int, epochs: int
) -> list[str]:
    """The table that is printed."""
    table = [f"{'':26} {'parameters':>12} {'GFLOP':>9} {'memory GiB':>11}   (a sample, a batch of {batch_size})"]
    for line in lines:
        memory = line.memory(batch_size) / GIB
        table.append(f"{line.name:26} {line.parameters / 1e6:10.2f} M {line.flops / 1e9:9.1f} {memory:11.2f}")
    for name, size in cached.items():
        table.append(
            f"cache of whole maps of teacher '{name}': {size / MIB:.1f} MiB a sample in fp16, "
            f"{size * samples / GIB:.1f} GiB for {samples} samples, "
            f"{size * samples * epochs / GIB:.1f} GiB where each of {epochs} epochs augments anew"
        )
    return table


def cached_values(taps: Mapping[str, Tap]) -> int:
    """Numbers in all outputs that a cache stores: each tapped place once, under however many aliases."""
    places = {str(tap.spec): tap for tap in taps.values()}
    return sum(leaf.numel() for tap in places.values() for leaf in flatten(tap.value)[1])


def with_random_teachers(model: Mapping[str, Any]) -> dict[str, Any]:
    """The model's config with teachers that need no checkpoint and no cache: neither changes what they cost."""
    random = {"checkpoint": None, "allow_random": True, "compile": False}
    teachers = {
        name: {**options, **random, **({"role": "frozen"} if options.get("role") == "cached" else {})}
        for name, options in model.get("teachers", {}).items()
    }
    return {**model, "teachers": teachers} if teachers else dict(model)


def epochs_of(config: Config, *, samples: int, batch_size: int, processes: int = 1) -> int:
    """How many passes over its samples the training begins, where each process takes ``batch_size`` of them a step."""
    loop = config.train_cfg
    if loop.get("max_epochs"):
        return loop.max_epochs
    return math.ceil(loop.max_iters * batch_size * processes / samples)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Estimate what a training needs, from its config and two samples of its data: parameters, operations and memory
        of the student's step, of each teacher and of both together, and the size of a teacher cache. It runs on CPU.
        Memory is that of tensors: weights, optimiser, activations, gradients. A CUDA context, cuDNN's workspaces and
        the allocator's reserve come on top (1 to 2 GiB). The row of a cached teacher is what writing its cache takes;
        the distillation step only reads it.
        """,
        examples="""
        python tools/analysis_tools/estimate.py configs/unidistill/unidistill_lidar2camera_sim.py
        python tools/analysis_tools/estimate.py CONFIG --batch-size 4 --bf16
        """,
    )
    add_config_arguments(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples per GPU (default: the config's)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="GPUs, for the passes over the data")
    parser.add_argument("--bf16", action="store_true", help="run in bf16 autocast, as --amp trains")
    return parser.parse_args(arguments)


def command(arguments: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(arguments)
    config = read_config(parsed.config, options=parsed.cfg_options)
    batch_size = parsed.batch_size or config.train_dataloader.batch_size
    print("teacher and student run on two samples, which can take minutes", flush=True)
    with quiet_libraries(), DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        dataset = build_dataset(config)
        lines, cached = estimate(config, dataset, autocast=parsed.bf16)
    samples = len(dataset)
    epochs = epochs_of(config, samples=samples, batch_size=batch_size, processes=parsed.processes)
    for line in report(lines, cached, batch_size=batch_size, samples=samples, epochs=epochs):
        print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
