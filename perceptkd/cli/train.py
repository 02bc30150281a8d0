"""``tools/train.py``: train any config, distilling or not."""

import argparse
import inspect
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner, find_latest_checkpoint

from perceptkd.cli.arguments import (
    DEFAULT_WORK_DIRS,
    UserError,
    add_config_arguments,
    add_run_arguments,
    build_parser,
    check_data,
    run_command,
    set_local_rank,
)
from perceptkd.core.source import load_config
from perceptkd.engine.distributed import prepare_processes

OUR_AMP = "perceptkd.AmpOptimWrapper"
#: Top-level entries that the Runner itself reads.
RUNNER_KEYS = frozenset(inspect.signature(Runner.__init__).parameters)
_run_numbers = itertools.count()


class ShortConsoleRunner(Runner):
    """Keeps messages of several lines (machine, config, hooks, tables) out of the console; its log file has them."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                logger.info(f"Machine, config and tables are in {handler.baseFilename}")
            else:
                handler.addFilter(lambda record: record.levelno > logging.INFO or "\n" not in record.getMessage())
        return logger


def read_config(
    source: Mapping[str, Any] | Path | str, *, options: Mapping[str, Any] | None = None, work_dir: str | None = None
) -> Config:
    """A copy of a config with ``--cfg-options`` merged and a work directory chosen.

    The directory is, in this order: the argument, the config's, ``work_dirs/<config name>``.
    """
    config = load_config(source)
    _refuse_variables(config, options or {})
    copy = Config(config.to_dict(), filename=config.filename)
    try:
        copy.merge_from_dict(dict(options or {}))
    except (KeyError, TypeError, IndexError, AssertionError) as error:
        raise UserError(f"--cfg-options does not fit the config: {error}") from error
    name = Path(config.filename).stem if config.filename else "run"
    copy.work_dir = work_dir or copy.get("work_dir") or str(DEFAULT_WORK_DIRS / name)
    return copy


def _refuse_variables(config: Config, options: Mapping[str, Any]) -> None:
    """Options are merged after the file was read: a variable that other entries were made from would change nothing."""
    entries = config.to_dict()
    nodes = list(_nodes(entries))
    for name, value in options.items():
        if name not in entries or name in RUNNER_KEYS:
            continue  # part of an entry, new, or read by the Runner
        read = entries[name]
        made = [
            path
            for path, node in nodes
            if path.split(".")[0] != name and type(node) is type(read) and node == read
            if path.rsplit(".", 1)[-1] == name or _is_distinctive(read)
        ]
        if made and value != read:
            raise UserError(
                f"--cfg-options {name}=... would change nothing: {name} is a variable, which the config used for other "
                f"entries while it was read. Set these instead: {', '.join(f'{path}=...' for path in made)}"
            )


def _is_distinctive(value: Any) -> bool:
    """Whether another entry hardly equals this one by chance."""
    return (isinstance(value, str) and len(value) > 8) or (isinstance(value, list | tuple | Mapping) and len(value) > 2)


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and values of everything below, as ``--cfg-options`` names them."""
    if path:
        yield path, node
    if isinstance(node, Mapping | list | tuple):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _nodes(value, f"{path}.{key}" if path else str(key))


def build_runner(
    source: Mapping[str, Any] | Path | str,
    *,
    work_dir: str | None = None,
    options: Mapping[str, Any] | None = None,
    resume: str | bool | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    launcher: str | None = None,
    seed: int | None = None,
    deterministic: bool = False,
    stages: Sequence[str] = ("train", "val"),
) -> Runner:
    """The Runner of a config, as the command line would build it.

    Args:
        source: Config, its path, or a dict. It is not changed.
        work_dir: Where logs and checkpoints go.
        options: What ``--cfg-options`` would merge.
        resume: True or ``auto`` for the latest checkpoint of the work directory (none: start anew), or a path.
        amp: Train in mixed precision (``perceptkd.AmpOptimWrapper``).
        auto_scale_lr: Scale the learning rate with the batch size.
        launcher: Who starts the processes; the config's by default.
        seed: Overrides ``randomness.seed``.
        deterministic: Ask torch for deterministic algorithms.
        stages: Whose data must be there.

    Raises:
        UserError: An option does not fit the config, or data are missing.
    """
    config = read_config(source, options=options, work_dir=work_dir)
    check_data(config, stages=stages)
    config.randomness = {"seed": 0, **config.get("randomness", {})}
    if seed is not None:
        config.randomness.seed = seed
    if deterministic:
        config.randomness.deterministic = True
    config.launcher = launcher or config.get("launcher", "none")
    if resume in (True, "auto"):
        if find_latest_checkpoint(config.work_dir) is not None:
            config.resume, config.load_from = True, None
    elif resume:
        config.resume, config.load_from = True, str(resume)
    if amp:
        enable_amp(config)
    if auto_scale_lr:
        _enable_lr_scaling(config)
    prepare_processes(config)
    _log_validations_by_step(config)
    _separate_runs(config)
    try:
        return ShortConsoleRunner.from_cfg(config)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UserError(f"an entry of the config or an option does not exist: {error}") from error


def train(source: Mapping[str, Any] | Path | str, **kwargs: Any) -> Runner:
    """Train a config; the keyword arguments are those of ``build_runner``."""
    runner = build_runner(source, **kwargs)
    runner.train()
    return runner


def enable_amp(config: Config) -> None:
    """What ``--amp`` does to a config."""
    kind = config.optim_wrapper.get("type", "OptimWrapper")
    if kind == "OptimWrapper":
        config.optim_wrapper.type = OUR_AMP
    elif "AmpOptimWrapper" not in str(kind):
        raise UserError(f"--amp cannot replace optim_wrapper.type={kind}: it replaces OptimWrapper alone")


def _enable_lr_scaling(config: Config) -> None:
    if "base_batch_size" not in config.get("auto_scale_lr", {}):
        raise UserError("--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config")
    config.auto_scale_lr.enable = True


def _log_validations_by_step(config: Config) -> None:
    """Of a loop without epochs: MMEngine would log all validations at epoch 0."""
    hooks = config.get("default_hooks") or {}
    logger = hooks.get("logger", {"type": "LoggerHook"})
    if "max_iters" in (config.get("train_cfg") or {}) and logger and logger["type"] == "LoggerHook":
        config.default_hooks = {**hooks, "logger": {"log_metric_by_epoch": False, **logger}}


def _separate_runs(config: Config) -> None:
    """MMEngine keeps loggers, message hubs and visualizers by name: several runs of a process must not share them."""
    number = next(_run_numbers)
    if number == 0:
        return
    name = config.get("experiment_name") or Path(config.work_dir).name
    config.experiment_name = f"{name}-{number}"
    if "name" in (config.get("visualizer") or {}):
        config.visualizer.name = f"{config.visualizer.name}-{number}"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Train a model: a student under its teachers (a config with model.type perceptkd.DistillModel), or any other mm
        config. Every save writes epoch_N.pth to resume from and, when distilling, epoch_N_student.pth with student.py.
        """,
        examples="""
        python tools/train.py configs/unidistill/unidistill_lidar2camera_sim.py
        python tools/train.py CONFIG --resume                                  # go on from the latest checkpoint
        python tools/train.py CONFIG --cfg-options model.distill=False         # the same student without its teacher
        python tools/train.py CONFIG --cfg-options train_cfg.max_epochs=2 train_dataloader.batch_size=1
        bash tools/dist_train.sh CONFIG 8                                      # eight GPUs
        """,
    )
    add_config_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument(
        "--resume", nargs="?", const="auto", help="go on from this checkpoint, or from the latest one of the work dir"
    )
    parser.add_argument("--amp", action="store_true", help="bf16 where the hardware computes it, on GPUs and CPUs")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument("--seed", type=int, help="seed of weights, data order and augmentation (default: the config's)")
    parser.add_argument("--deterministic", action="store_true", help="ask torch for deterministic algorithms")
    return parser.parse_args(arguments)


def command(arguments: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(arguments)
    set_local_rank(parsed)
    train(
        parsed.config,
        work_dir=parsed.work_dir,
        options=parsed.cfg_options,
        resume=parsed.resume,
        amp=parsed.amp,
        auto_scale_lr=parsed.auto_scale_lr,
        launcher=parsed.launcher,
        seed=parsed.seed,
        deterministic=parsed.deterministic,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
