"""Trainings and evaluations that are run once: each lives in a folder named by the hash of all that decides its result.

A job runs in a process of its own, so that its memory can be measured and an interrupted one resumed; a finished one is
read back. The hash covers the merged configuration, the seed, the data's fingerprint, the teacher's weights and the
source of the parts that take part.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perceptkd.cli.provenance import write_json

PACKAGE = Path(__file__).resolve().parents[1]
RESULT_PARTS = ("core", "datasets", "distillers", "engine", "models", "ops")
RESULT_FILE = "result.json"


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
    """

    name: str
    config: str
    seed: int
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = ("val",)
    schedule_factor: float = 1.0

    def build_config(self) -> Any:
        """The merged configuration, without its work folder."""
        from mmengine.config import Config

        config = Config.fromfile(self.config)
        config.merge_from_dict(dict(self.options))
        config.randomness = {**config.get("randomness", {}), "seed": self.seed}
        if self.schedule_factor != 1:
            stretch_schedule(config, self.schedule_factor)
        return config

    @functools.cached_property
    def work_dir(self) -> Path:
        """``<folder>/<name>-seed<seed>-<hash>``, decided once: the source may change while a run lasts."""
        config = self.build_config()
        digest = hashlib.sha256(config.pretty_text.encode())
        digest.update(source_digest().encode())
        for path in sorted(deciding_files(config)):
            digest.update(path.read_bytes())
        return self.folder / f"{self.name}-seed{self.seed}-{digest.hexdigest()[:12]}"


def deciding_files(config: Mapping[str, Any]) -> set[Path]:
    """Teacher checkpoints and world descriptions that the configuration names and that exist."""
    found = set()
    for teacher in config["model"].get("teachers", {}).values():
        if teacher.get("checkpoint"):
            found.add(Path(teacher["checkpoint"]))
    if config.get("data_root"):
        found.add(Path(config["data_root"]) / "world.json")
    return {path for path in found if path.is_file()}


def source_digest() -> str:
    """Hash of the source of every part that decides a result; what wrote the world shows in the world's own hash."""
    digest = hashlib.sha256()
    for part in RESULT_PARTS:
        for path in sorted((PACKAGE / part).rglob("*.py")):
            if "simworld" not in path.parts:
                digest.update(path.read_bytes())
    return digest.hexdigest()


def stretch_schedule(config: Any, factor: float) -> None:
    """Multiplies the length of the training and of every learning-rate phase.

    Raises:
        ValueError: the factor rounds to the length that the schedule already has.
    """
    key = "max_epochs" if "max_epochs" in config.train_cfg else "max_iters"
    length = config.train_cfg[key]
    stretched = round(length * factor)
    if stretched == length:
        raise ValueError(f"a factor of {factor} leaves {key}={length} as it is; use a longer schedule")
    config.train_cfg[key] = stretched
    for scheduler in config.get("param_scheduler") or []:
        for bound in ("end", "T_max"):
            if scheduler.get(bound) == length:
                scheduler[bound] = stretched


def run_job(job: Job) -> dict[str, Any]:
    """Runs the job in a new process unless its result exists, and returns the result.

    Returns:
        ``{split: {metric: value}, ..., "train_s": seconds, "peak_mib": process peak, "checkpoint": path}``.

    Raises:
        RuntimeError: the process failed; its log is in the job's folder.
    """
    result_path = job.work_dir / RESULT_FILE
    if result_path.is_file():
        result = json.loads(result_path.read_text())
        if all(split in result for split in job.splits):
            return result
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(job,))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(
            f"the run '{job.name}' with seed {job.seed} ended with status {process.exitcode}; its log is in "
            f"{job.work_dir}. Run the same command again to continue it."
        )
    return json.loads(result_path.read_text())


def _run(job: Job) -> None:
    """Trains (or resumes, or reads back) and evaluates; the only writer of the job's folder."""
    from perceptkd.cli.test import evaluate
    from perceptkd.cli.train import train
    from perceptkd.engine.checkpoints import recorded_metrics

    config, work_dir = job.build_config(), job.work_dir
    result_path = work_dir / RESULT_FILE
    result = json.loads(result_path.read_text()) if result_path.is_file() else {}
    if "checkpoint" not in result:
        start = time.perf_counter()
        train(config, work_dir=str(work_dir), resume=True)
        result["train_s"] = round(time.perf_counter() - start, 1)
        result["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        result["checkpoint"] = (work_dir / "last_checkpoint").read_text().strip()
        result["history"] = validation_history(work_dir)
        last_validation = recorded_metrics(result["checkpoint"])
        if last_validation is not None:
            result["val"] = last_validation
        write_json(result_path, result)
    for split in job.splits:
        if split not in result:
            metrics = evaluate(config, result["checkpoint"], work_dir=str(work_dir), stage=split)
            result[split] = {key: float(value) for key, value in metrics.items()}
            write_json(result_path, result)


def validation_history(work_dir: Path) -> list[dict[str, float]]:
    """The validation metrics of the training, oldest first, from the run's scalars."""
    history = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            scalars = json.loads(line)
            if any(key.endswith("mAP") for key in scalars):
                history.append(scalars)
    return history
