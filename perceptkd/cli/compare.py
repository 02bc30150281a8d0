"""Measures what distillation gives: teacher, student without it and student with it, same schedule, data and seeds.

The control is the same configuration with ``model.distill=False``. Everything that already ran under the same
configuration, seed, data, teacher and source is read back; a missing teacher is trained first. ``val`` is the split to
choose on (``tune``), ``test`` the one to report on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perceptkd.cli.arguments import UserError, add_config_arguments, build_parser, check_data, run_command
from perceptkd.cli.comparison_text import table
from perceptkd.cli.jobs import Job, run_jobs
from perceptkd.cli.provenance import provenance, write_json
from perceptkd.cli.teachers import ensure_trained
from perceptkd.cli.train import read_config
from perceptkd.engine.student import is_distillation

SETTLED_SHARE = 0.05
LAST_PART = 0.2
MEANINGFUL_GAP = 1.0
FRACTIONS = ("mAP", "NDS", "mAP_50", "mIoU")
SHARED = "shared"


def say(step: str) -> None:
    """Prints what comes next, before the processes that do it print anything."""
    print(step, flush=True)


def compare(
    config_path: str,
    *,
    seeds: Sequence[int],
    split: str = "val",
    options: dict[str, Any] | None = None,
    folder: Path = Path("work_dirs/compare"),
    equal_time: float | None = None,
    parallel: int = 1,
    announce: Callable[[str], None] = say,
) -> dict[str, Any]:
    """Runs teacher, controls and distilled students and returns the comparison.

    Args:
        config_path: a configuration whose model is a ``DistillModel``.
        seeds: one control and one distilled student are trained for each.
        split: ``val`` or ``test``, the loader whose metrics are compared.
        options: overrides of the distilled configuration.
        folder: where the runs live.
        equal_time: also trains a control whose schedule is longer by this factor (distilled step / student step).
        parallel: how many models to train at a time, see ``run_jobs``.
        announce: called with what comes next.

    Returns:
        The result in the project's form, without provenance; ``runs`` names folder and checkpoint of the first run
        of each kind.

    Raises:
        UserError: the configuration does not distil, its data are missing, or a run failed.
    """
    if equal_time is not None and equal_time <= 1:
        raise UserError(f"--equal-time {equal_time} is no longer control: give distilled step / student step, above 1")
    options = dict(options or {})
    config = read_config(config_path, options=options)
    if not is_distillation(config):
        raise UserError(f"{config_path} does not distil: compare a config whose model is a perceptkd.DistillModel")
    splits = (split,)
    check_data(config, stages=("train", *splits))
    # controls and teachers are those of every method that has the same student or teacher
    control = Job("control", config_path, 0, folder / SHARED, control_options(options), splits)
    distilled = Job("distilled", config_path, 0, folder / Path(config_path).stem, options, splits)
    kinds = {"control": control, "distilled": distilled}
    if equal_time is not None:
        kinds["control_equal_time"] = replace(control, name="control-equal-time", schedule_factor=equal_time)
    for job in kinds.values():
        job.build_config()  # a fault shows before the hours of training
    announce(f"teachers: {', '.join(config.model.teachers)}")
    teachers = ensure_trained(config.model.teachers, folder / SHARED, splits, parallel=parallel)
    metric = _metric(config, teachers, split)
    announce(f"students: {', '.join(kinds)}, seed {', '.join(map(str, seeds))}")
    jobs = {(kind, seed): replace(job, seed=seed) for seed in seeds for kind, job in kinds.items()}
    results = dict(zip(jobs, run_jobs(list(jobs.values()), parallel=parallel), strict=True))
    runs = {kind: {seed: results[kind, seed] for seed in seeds} for kind in kinds}
    result = summarise(config_path, config.get("task", "detection"), metric, split, teachers, runs)
    result["world"] = describe_world(config)
    first = {name: next(iter(group.values())) for name, group in {"teacher": teachers, **runs}.items()}
    result["runs"] = {name: {key: run[key] for key in ("folder", "checkpoint")} for name, run in first.items()}
    return result


def _metric(config: Mapping[str, Any], teachers: Mapping[str, Mapping[str, Any]], split: str) -> str:
    """The metric to compare by: the (first) one the configuration saves the best checkpoint by, else the teacher's."""
    metrics = {name: result[split] for name, result in teachers.items()}
    chosen = config.get("default_hooks", {}).get("checkpoint", {}).get("save_best") or "auto"
    if not isinstance(chosen, str):
        chosen = chosen[0]
    if chosen == "auto":
        chosen = next(iter(next(iter(metrics.values()))))
    for name, measured in metrics.items():
        if chosen not in measured:
            raise UserError(
                f"the comparison goes by {chosen} (default_hooks.checkpoint.save_best), which the evaluation of "
                f"teacher '{name}' does not give; it gives {', '.join(measured)}: use one {split}_evaluator for both"
            )
    return chosen


def describe_world(config: Mapping[str, Any]) -> dict[str, str] | None:
    """Version and hash of the simulated world a configuration reads; None for other data."""
    path = Path(config.get("data_root") or ".") / "world.json"
    if not path.is_file():
        return None
    manifest = json.loads(path.read_text())
    return {key: manifest[key] for key in ("world_version", "hash")}


def control_options(options: dict[str, Any]) -> dict[str, Any]:
    """The overrides of the control: those that change a distiller or a teacher have no meaning in it."""
    kept = {key: value for key, value in options.items() if not key.startswith(("model.distillers", "model.teachers"))}
    return {**kept, "model.distill": False}


def summarise(
    config_path: str,
    task: str,
    metric: str,
    split: str,
    teachers: dict[str, dict[str, Any]],
    runs: dict[str, dict[int, dict[str, Any]]],
) -> dict[str, Any]:
    """Turns the runs into gains, in points: fractions such as mAP count 100 times.

    Args:
        config_path, task, metric, split: What the result says of itself.
        teachers: Results by name.
        runs: Results by kind and seed.
    """

    def points(run: Mapping[str, Any]) -> float:
        return run[split][metric] * (100 if metric.endswith(FRACTIONS) else 1)

    values = {name: {seed: points(run) for seed, run in by_seed.items()} for name, by_seed in runs.items()}
    seeds = list(values["control"])
    gains = [values["distilled"][seed] - values["control"][seed] for seed in seeds]
    teacher = max(points(result) for result in teachers.values())
    gap = teacher - statistics.fmean(values["control"].values())
    gain = statistics.fmean(gains)
    return {
        "config": config_path,
        "task": task,
        "metric": metric,
        "split": split,
        "teacher": teacher,
        "sources": {name: describe_source(result) for name, result in teachers.items()},
        **values,
        "gain": {
            "mean": gain,
            "std": statistics.stdev(gains) if len(gains) > 1 else None,
            "by_seed": dict(zip(seeds, gains)),
        },
        "gap_closed": gain / gap if gap >= MEANINGFUL_GAP else None,
        "by_distance": by_distance(runs, metric, split),
        "shown": len(gains) > 1 and all(value > 0 for value in gains),
        "control_settled": {seed: settled(runs["control"][seed]["history"], metric) for seed in seeds},
        **costs(teachers, runs),
        "train_s": {name: {seed: run["train_s"] for seed, run in by_seed.items()} for name, by_seed in runs.items()},
        "backends": next(iter(runs["distilled"].values()))["backends"],
        "metrics": {
            "teacher": {name: result[split] for name, result in teachers.items()},
            **{name: {seed: run[split] for seed, run in by_seed.items()} for name, by_seed in runs.items()},
        },
    }


def describe_source(result: Mapping[str, Any]) -> dict[str, Any]:
    """Which weights a teacher had, and whether they were found or trained."""
    relative = os.path.relpath(result["checkpoint"])  # says nothing of whose machine it was
    return {"checkpoint": relative, **{key: result[key] for key in ("sha256", "given")}}


def costs(teachers: Mapping[str, Mapping[str, Any]], runs: Mapping[str, Mapping[int, Any]]) -> dict[str, Any]:
    """Step time (the median over seeds) and most memory of each kind of model.

    ``student`` is the control; ``teacher`` is there where the comparison trained it.
    """
    kinds = {{"control": "student"}.get(name, name): list(by_seed.values()) for name, by_seed in runs.items()}
    shares = {run["shares"] for group in kinds.values() for run in group}
    trained = [result for result in teachers.values() if not result["given"]]
    if trained:
        kinds["teacher"] = trained
    return {
        "parallel": max(shares),
        # steps of runs that had the cores to themselves are not those of runs that shared them
        "step_ms": {
            name: median_of([run["step_ms"] for run in group])
            for name, group in kinds.items()
            if len(shares) == 1 and {run["shares"] for run in group} == shares
        },
        "peak_mib": {name: max(run["peak_mib"] for run in group) for name, group in kinds.items()},
    }


def by_distance(
    runs: Mapping[str, Mapping[int, Mapping[str, Any]]], metric: str, split: str
) -> dict[str, dict[str, float]]:
    """The metric at each matching distance, in points, averaged over seeds: ``{'0.5 m': {'control': .., 'gain': ..}}``.

    Empty for a metric that has none, such as COCO's.
    """
    marker = f"{metric}_dist_"
    names = [name for name in next(iter(runs["control"].values()))[split] if name.startswith(marker)]
    rows = {}
    for name in names:
        means = {
            kind: 100 * statistics.fmean(run[split][name] for run in runs[kind].values())
            for kind in ("control", "distilled")
        }
        rows[f"{name.removeprefix(marker)} m"] = {**means, "gain": means["distilled"] - means["control"]}
    return rows


def median_of(values: Sequence[float | None]) -> float | None:
    """Median of what was measured."""
    measured = [value for value in values if value is not None]
    return statistics.median(measured) if measured else None


def settled(history: Sequence[dict[str, float]], metric: str) -> bool | None:
    """Whether the last fifth of the training, or more of it, moved the metric by less than 5 %.

    Args:
        history: The validations, oldest first, with the ``step`` they were made at.
        metric: Its name.

    Returns:
        None where no validation was made before the last fifth, or none tells the metric or its step.
    """
    measured = [record for record in history if metric in record]
    last_step = max((record["step"] for record in measured), default=0)
    early = [record for record in measured if record["step"] <= (1 - LAST_PART) * last_step < last_step]
    if not early:
        return None
    before, after = early[-1][metric], measured[-1][metric]
    return abs(after - before) < SETTLED_SHARE * max(abs(after), 1e-9)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Measure what distillation gives: the teacher, the student without it (the same config with model.distill=False)
        and the student with it, under the same schedule, data and seeds. What already ran under the same config, seed,
        data, teacher and source is read back; missing teachers, and what the student starts from, are trained first.
        """,
        examples="""
        python tools/compare.py configs/unidistill/unidistill_lidar2camera_sim.py --seeds 3
        python tools/compare.py CONFIG --split test --variant tuned --cfg-options model.distillers.0.weights.feature=10
        """,
    )
    add_config_arguments(parser)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, 0 to N-1")
    parser.add_argument("--split", choices=["val", "test"], default="val", help="val to choose on, test to report on")
    parser.add_argument("--variant", default="", help="name of this variant of the config, for the file name")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/compare"), help="where the runs live")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="where <config>[.<variant>].json goes (default: <work dir>/results); "
        "docs/benchmarks.md is made of what lies in benchmarks/results/compare",
    )
    parser.add_argument("--equal-time", type=float, metavar="FACTOR", help="also train a control FACTOR times as long")
    parser.add_argument(
        "--parallel", type=int, default=1, help="models to train at a time; on CPU as many as cores is fastest"
    )
    return parser.parse_args(arguments)


def command(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    for name in ("seeds", "parallel"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)} leaves nothing to do: give 1 or more")
    result = compare(
        options.config,
        seeds=range(options.seeds),
        split=options.split,
        options=options.cfg_options,
        folder=options.work_dir,
        equal_time=options.equal_time,
        parallel=options.parallel,
    )
    del result["runs"]
    name = ".".join(part for part in (Path(options.config).stem, options.variant) if part)
    path = (options.results or options.work_dir / "results") / f"{name}.json"
    write_json(path, {**result, "options": options.cfg_options, **provenance()})
    print(table(result))
    print(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command behind ``tools/compare.py``."""
    return run_command(command, arguments)
