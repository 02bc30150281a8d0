"""The teachers of a comparison, which are there before its students."""

from __future__ import annotations

import filecmp
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perceptkd.atomic import atomic_path
from perceptkd.cli.arguments import UserError, check_data
from perceptkd.cli.jobs import Job, locked, read_result, run_jobs
from perceptkd.core.checkpoint import find_checkpoint
from perceptkd.core.source import load_config
from perceptkd.engine.checkpoints import record_metrics, recorded_metrics


def ensure_trained(
    teachers: Mapping[str, Any], folder: Path, splits: tuple[str, ...], *, parallel: int = 1
) -> dict[str, dict[str, Any]]:
    """Trains the teachers whose checkpoints are missing and evaluates all of them.

    A checkpoint goes where the configuration of the student expects it, its recorded metrics beside it. One that is
    there already, and not of the same training, is evaluated as it is: the figure must be that of the weights in use.
    The student finds them by the same rule.

    Args:
        teachers: ``config`` and ``checkpoint`` of each, by name.
        folder: where the runs live.
        splits: which loaders to evaluate on.
        parallel: how many to train at a time, see ``run_jobs``.

    Returns:
        The result of each teacher's job, by its name, with ``given``: whether the checkpoint was there before, and its
        ``sha256``.
    """
    jobs = {name: _job_of_teacher(name, source, folder, splits) for name, source in teachers.items()}
    results = {}
    for name, result in zip(jobs, run_jobs(list(jobs.values()), parallel=parallel), strict=True):
        target = _put_in_place(name, teachers[name], result)
        sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
        results[name] = {**result, "given": jobs[name].checkpoint is not None, "sha256": sha256}
    return results


def _put_in_place(name: str, source: Any, result: Mapping[str, Any]) -> Path:
    """The weights where the student looks for them; a second comparison with the same teacher waits."""
    with locked(Path(source["checkpoint"]).expanduser().parent):
        present = _present_checkpoint(name, source)
        target = present or Path(source["checkpoint"]).expanduser()
        if present is None:
            with atomic_path(target) as temporary:
                shutil.copyfile(result["checkpoint"], temporary)
        if "val" in result and (present is None or recorded_metrics(target) is None):
            record_metrics(target, result["val"])
    return target


def _job_of_teacher(name: str, source: Any, folder: Path, splits: tuple[str, ...]) -> Job:
    """The training of a teacher, or the evaluation alone where its checkpoint is there and of another training."""
    if not (isinstance(source.get("config"), str) and source.get("checkpoint")):
        raise UserError(f"teacher '{name}' needs config='<path>' and checkpoint=: a comparison trains and scores it")
    check_data(load_config(source["config"]), stages=("train", *splits))
    stem = Path(source["config"]).stem
    job = Job(name=stem, config=source["config"], seed=0, folder=folder, splits=splits)
    target = _present_checkpoint(name, source)
    if target is not None and not _is_trained_by(job, target):
        print(f"teacher '{name}': {target} is there and is used as it is; remove it to train it anew", flush=True)
        return replace(job, name=f"{stem}-given", checkpoint=str(target))
    return job


def _present_checkpoint(name: str, source: Any) -> Path | None:
    """The file that the student would load; None where it is still to be trained.

    Raises:
        UserError: the checkpoint is an address or a pattern of no file, which no training can fill.
        CheckpointError: a pattern of several files.
    """
    given = str(source["checkpoint"])
    if "://" in given:
        raise UserError(
            f"teacher '{name}': a comparison keeps the hash of the weights: download {given} and name the file"
        )
    try:
        stem = Path(source["config"]).stem
        return Path(find_checkpoint(given, owner=f"teacher '{name}'", stem=stem, config=source["config"]))
    except FileNotFoundError as error:
        if "*" in given:
            raise UserError(f"{error}; to have it trained, name the file it shall become instead of {given}") from error
        return None


def _is_trained_by(job: Job, checkpoint: Path) -> bool:
    trained = Path(read_result(job).get("checkpoint", ""))
    return trained.is_file() and filecmp.cmp(trained, checkpoint, shallow=False)
