"""Trainings and evaluations that are run once: each lives in a folder named by the hash of all that decides its result.

A job runs in a process of its own, so that its memory can be measured and an interrupted one resumed; a finished one is
read back. The hash covers the merged configuration, those it names by path, the seed, the annotations, the simulated
world's hash, the weights and teacher caches that take part, the source of the parts that do, the machine and the
libraries' versions.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from perceptkd.cli.arguments import INTERRUPTED_STATUS, UserError, annotation_path, collect_datasets
from perceptkd.cli.provenance import environment, write_json
from perceptkd.ops.mmcv_ext import ENVIRONMENT_VARIABLE as MMCV_OPS_VARIABLE
from perceptkd.ops.sparse.backend import VARIABLE as SPARSE_VARIABLE
from perceptkd.ops.triton_kernels import VARIABLE as TRITON_VARIABLE

PACKAGE = Path(__file__).resolve().parents[1]
RESULT_PARTS = ("compat.py", "core", "datasets", "engine", "evaluation", "models", "ops")
RESULT_FILE = "result.json"
WARM_UPS = ("ConstantLR", "LinearLR")
STRETCHABLE = ("ConstantLR", "CosineAnnealingLR", "LinearLR", "MultiStepLR", "PolyLR", "StepLR")


@dataclass(frozen=True)
class Job:
    """One training followed by evaluations of its student.

    Attributes:
        name: what the run is called in tables, for example ``control``.
        config: path of the configuration.
        seed: seed of weights, data order and augmentation.
        folder: parent of the job's own folder.
        options: overrides, as ``--cfg-options`` takes them.
        splits: which loaders to evaluate on: ``val``, ``test``.
        schedule_factor: stretches the training schedule; 1 keeps it.
        checkpoint: weights to evaluate as they are, instead of training.
    """

    name: str
    config: str
    seed: int
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = ("val",)
    schedule_factor: float = 1.0
    checkpoint: str | None = None

    def build_config(self) -> Any:
        """The merged configuration, without its work folder; a control's says nothing of teachers and distillers."""
        from perceptkd.cli.train import read_config

        config = read_config(self.config, options=self.options)
        config.pop("work_dir", None)  # named after the file: one training can come from several
        config.randomness = {**config.get("randomness", {}), "seed": self.seed}
        if not config.model.get("distill", True):
            config.model.teachers, config.model.distillers = {}, []  # update() would merge
        if self.schedule_factor != 1:
            stretch_schedule(config, self.schedule_factor)
        return config

    @functools.cached_property
    def work_dir(self) -> Path:
        """``<folder>/<name>-seed<seed>-<hash>``, decided once: the source may change while a run lasts."""
        config = self.build_config()
        named = named_configs(config.model)
        texts = [each.pretty_text for each in (config, *named)]
        source = source_digest(distils=bool(config.model.get("distillers")))
        digest = hashlib.sha256("".join([source, environment_digest(), *texts]).encode())
        given = [Path(self.checkpoint)] if self.checkpoint else []
        weights = weight_files([config.model, config.get("load_from"), *(each.model for each in named)])
        for path in [*given, *sorted(weights | data_files(config) | cache_files(config.model))]:
            digest.update(path.read_bytes())
        return self.folder / f"{self.name}-seed{self.seed}-{digest.hexdigest()[:12]}"


def environment_digest() -> str:
    """What results depend on beside source, configuration and data, as text."""
    choices = {name: os.environ.get(name) for name in (MMCV_OPS_VARIABLE, SPARSE_VARIABLE, TRITON_VARIABLE)}
    return json.dumps({**environment(), **choices}, sort_keys=True)


def named_configs(model: Mapping[str, Any]) -> list[Any]:
    """The merged configurations that a model names by path: its student's and its teachers'."""
    from perceptkd.core.source import load_config

    student, teachers = model.get("student"), (model.get("teachers") or {}).values()
    described = [each for each in (student, *teachers) if isinstance(each, Mapping)]
    sources = (student, *(each.get("config") for each in described))
    return [load_config(source) for source in sources if isinstance(source, str)]


def weight_files(values: Any) -> set[Path]:
    """The files of weights that nested values name, ``*`` included, and that exist."""
    paths = [Path(value).expanduser() for value in strings(values) if value.endswith(".pth") and "://" not in value]
    return {found for path in paths for found in path.parent.glob(path.name) if found.is_file()}


def cache_files(model: Mapping[str, Any]) -> set[Path]:
    """What tells the contents of the caches that stand in for teachers: manifests and indices."""
    cached = [each for each in (model.get("teachers") or {}).values() if each.get("role") == "cached"]
    folders = [Path(each["cache"]) for each in cached if each.get("cache")]
    return {path for folder in folders for pattern in ("manifest.json", "*.npy") for path in folder.glob(pattern)}


def data_files(config: Mapping[str, Any]) -> set[Path]:
    """The annotations and the world's hash that the configuration names and that exist."""
    found = set()
    for stage in ("train", "val", "test"):
        datasets = collect_datasets((config.get(f"{stage}_dataloader") or {}).get("dataset"))
        found |= {path for dataset in datasets if (path := annotation_path(dataset)) is not None}
    if config.get("data_root"):
        found.add(Path(config["data_root"]) / "world.json")
    return {path for path in found if path.is_file()}


def strings(value: Any) -> Iterator[str]:
    """All strings of a nested configuration.

    >>> sorted(strings({"a": ["b", {"c": "d"}], "e": 1}))
    ['b', 'd']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (found for item in value.values() for found in strings(item))
    elif isinstance(value, list | tuple):
        yield from (found for item in value for found in strings(item))


def source_digest(*, distils: bool) -> str:
    """Hash of the source of every part that decides a result; what wrote the world shows in the world's own hash.

    Args:
        distils: whether the distillers take part: results of teachers and controls outlive a change of a method.
    """
    digest = hashlib.sha256()
    for part in RESULT_PARTS + (("distillers",) if distils else ()):
        root = PACKAGE / part
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            if "simworld" not in path.parts:
                digest.update(path.read_bytes())
    return digest.hexdigest()


def stretch_schedule(config: Any, factor: float) -> None:
    """Makes the training longer and with it the learning-rate phase that lasts to its end; a warm-up stays.

    Raises:
        UserError: the factor rounds to the length that the schedule already has, or a phase cannot be stretched.
    """
    key = "max_epochs" if "max_epochs" in config.train_cfg else "max_iters"
    length = config.train_cfg[key]
    stretched = round(length * factor)
    if stretched <= length:
        raise UserError(f"a schedule {factor} times as long has no more than its {key}={length}; use a longer one")
    config.train_cfg[key] = stretched
    for scheduler in config.get("param_scheduler") or []:
        lasts = scheduler.get("by_epoch", True) == (key == "max_epochs") and scheduler.get("end", length) >= length
        if lasts and scheduler["type"] in STRETCHABLE:
            _stretch_phase(scheduler, length, stretched)
        elif lasts or not _is_warm_up(scheduler):
            raise UserError(f"a longer training needs a schedule of its own: {scheduler['type']} cannot be stretched")


def _is_warm_up(scheduler: Any) -> bool:
    rises = scheduler.get("end_factor", 1) >= scheduler.get("start_factor", 1 / 3)
    return scheduler["type"] in WARM_UPS and rises and scheduler.get("begin", 0) == 0 and "end" in scheduler


def _stretch_phase(scheduler: Any, length: int, stretched: int) -> None:
    if scheduler.get("end") == length:
        scheduler.end = stretched
    if "T_max" in scheduler:
        scheduler.T_max += stretched - length  # it counts from the phase's begin
    if "step_size" in scheduler:
        scheduler.step_size = round(scheduler.step_size * stretched / length)
    if "milestones" in scheduler:
        scheduler.milestones = [round(step * stretched / length) for step in scheduler.milestones]


def run_jobs(jobs: Sequence[Job], *, parallel: int = 1) -> list[dict[str, Any]]:
    """Runs jobs, some at a time, and returns their results in order; see :func:`run_job`.

    On a CPU two jobs that share the cores are done sooner than one after the other: a small model's steps hardly gain
    from more threads. Each gets its share of the cores.

    Args:
        jobs: What to run.
        parallel: How many at a time.
    """
    if not jobs:
        return []
    shares = min(parallel, len(jobs))
    with ThreadPoolExecutor(shares) as pool:
        running = [pool.submit(run_job, job, shares=shares) for job in jobs]
        try:
            return [future.result() for future in running]
        except BaseException:
            pool.shutdown(cancel_futures=True)  # those that run finish, and are read back the next time
            raise


def run_job(job: Job, *, shares: int = 1) -> dict[str, Any]:
    """Runs the job in a new process unless its result exists, and returns the result.

    Args:
        job: What to run.
        shares: Into how many parts the cores are divided, of which this job gets one.

    Returns:
        ``{split: {metric: value}, ..., "checkpoint": path, "folder": path}``, and where it trained ``train_s``,
        ``step_ms``, ``peak_mib``, ``history``, ``backends`` and ``shares``, into how many parts the cores were divided.

    Raises:
        UserError: the process failed; its log is in the job's folder.
    """
    result = read_result(job)
    if all(split in result for split in job.splits):
        return {**result, "folder": str(job.work_dir)}
    process = multiprocessing.get_context("spawn").Process(target=_run_quietly_interrupted, args=(job, shares))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise UserError(
            f"the run '{job.name}' with seed {job.seed} ended with status {process.exitcode}; its log is in "
            f"{job.work_dir}. Run the same command again to continue it."
        )
    return {**read_result(job), "folder": str(job.work_dir)}


def read_result(job: Job) -> dict[str, Any]:
    """What the job has written so far."""
    path = job.work_dir / RESULT_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


class LabelledLines(io.TextIOBase):
    """A stream that puts a label before every line, so that those of several processes can be told apart."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream, self._label, self._line = stream, label, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        if lines:
            self._stream.write("".join(f"[{self._label}] {line}\n" for line in lines))
            self._stream.flush()
        return len(text)


def _run_quietly_interrupted(job: Job, shares: int) -> None:
    """:func:`_run` without a traceback on Ctrl-C, which the terminal sends to parent and child alike."""
    try:
        _run(job, shares)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_STATUS)


def _run(job: Job, shares: int) -> None:
    """Trains (or resumes, or reads back) and evaluates; the only writer of the job's folder."""
    import torch

    from perceptkd.cli.test import evaluate

    if shares > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // shares))
        label = f"{job.name} {job.seed}"
        # no terminal for either of them, so that no two progress bars overwrite each other
        sys.stdout, sys.stderr = LabelledLines(sys.stdout, label), LabelledLines(sys.stderr, label)
    config, work_dir = job.build_config(), job.work_dir
    with locked(work_dir):
        result = read_result(job)
        if "checkpoint" not in result:
            trained = {"checkpoint": job.checkpoint} if job.checkpoint else _train(config, work_dir)
            result |= {**trained, "shares": shares}
            write_json(work_dir / RESULT_FILE, result)
        for split in job.splits:
            if split not in result:
                options = {"work_dir": str(work_dir), "stage": split}
                metrics = evaluate(config, result["checkpoint"], **options)
                result[split] = {key: float(value) for key, value in metrics.items()}
                write_json(work_dir / RESULT_FILE, result)


def _train(config: Any, work_dir: Path) -> dict[str, Any]:
    """Trains, or goes on where the folder's last checkpoint is; ``train_s`` counts this process alone."""
    from perceptkd.cli.train import train
    from perceptkd.engine import backends
    from perceptkd.engine.checkpoints import recorded_metrics

    start = time.perf_counter()
    train(config, work_dir=str(work_dir), resume=True)
    result = {
        "train_s": round(time.perf_counter() - start, 1),
        "step_ms": median_step_ms(work_dir),
        "peak_mib": peak_mib(),
        "checkpoint": (work_dir / "last_checkpoint").read_text().strip(),
        "history": validation_history(work_dir),
        "backends": backends(),
    }
    last_validation = recorded_metrics(result["checkpoint"])
    return result if last_validation is None else {**result, "val": last_validation}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process works in the folder: an orphan of a killed command, or a second command."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of it when the process ends, however it does
        yield


def peak_mib() -> int:
    """Most memory this process held so far: the GPU's where there is one, else its own."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def median_step_ms(work_dir: Path) -> float | None:
    """Median of the logged training steps, data loading included; None if nothing was logged."""
    times = [record["time"] for record in scalars(work_dir) if "loss" in record and "time" in record]
    return round(1000 * statistics.median(times), 1) if times else None


def validation_history(work_dir: Path) -> list[dict[str, float]]:
    """The validation metrics of the training, oldest first, whatever they are called; training steps have a loss."""
    return [record for record in scalars(work_dir) if "loss" not in record]


def scalars(work_dir: Path) -> list[dict[str, float]]:
    """All that the folder's runs logged, oldest first; nothing where no run logged anything."""
    from perceptkd.visualization.curves import load_scalars

    return load_scalars(work_dir) if any(work_dir.glob("*/vis_data/scalars.json")) else []
