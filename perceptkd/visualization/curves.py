"""Training curves of one or more runs, out of the scalars MMEngine writes."""

import json
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from perceptkd.core.errors import InputError
from perceptkd.visualization.figure import new_figure, save_figure, set_colours

#: What is drawn unless asked otherwise: the total, the unweighted terms of distillation, and the evaluation.
DEFAULT_KEYS = ("loss", "kd/*", "nuscenes/near_mAP", "nuscenes/mAP", "nuscenes/NDS")
PANEL_IN = (4.6, 3.1)
Records = Sequence[Mapping[str, Any]]


def draw_curves(
    path: str | Path,
    runs: Mapping[str, str | Path | Records],
    keys: Sequence[str] = DEFAULT_KEYS,
    *,
    smooth: int = 10,
    title: str = "",
) -> Path:
    """Draws one panel per quantity with one line per run.

    Losses are drawn on a logarithmic axis, thin as logged and thick as running median; metrics are drawn with markers.

    Args:
        path: PNG file to write.
        runs: Name -> work directory, ``scalars.json`` or the records themselves. Runs named teacher, control and
            distilled keep their colours across pictures.
        keys: Names or patterns (``kd/*``) of the quantities; weights are drawn only where named in full.
        smooth: Window of the running median, in records.
        title: Of the picture.

    Returns:
        The path.
    """
    loaded = {name: load_scalars(run) if isinstance(run, str | Path) else list(run) for name, run in runs.items()}
    drawn = select_keys(loaded, keys)
    columns = min(3, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = new_figure(PANEL_IN[0] * columns, PANEL_IN[1] * rows + 0.7)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = set_colours(list(loaded))
    for panel, key in zip(panels, drawn):
        for name, records in loaded.items():
            _draw_run(panel, *series(records, key), colour=colours[name], label=name, smooth=smooth)
        with_kd = key == "loss" and any(term.startswith("kd/") for run in loaded.values() for term in set().union(*run))
        panel.set_title("loss, with the kd terms of runs that distil" if with_kd else key, fontsize=10)
        panel.set_xlabel(step_unit([record for records in loaded.values() for record in records], key), fontsize=8)
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=8)
    for panel in panels[len(drawn) :]:
        panel.set_visible(False)
    handles = [Line2D([], [], color=colours[name], linewidth=2, label=name) for name in loaded]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
    if title:
        figure.suptitle(title)
    return save_figure(figure, path)


def load_scalars(path: str | Path) -> list[dict[str, Any]]:
    """Reads the records of a run in order of time.

    Args:
        path: A ``scalars.json``, or a work directory; a resumed run has several files, which are joined, and steps that
            were repeated after a resume count as they went the last time.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob("**/vis_data/scalars.json"))
    if not files:
        raise FileNotFoundError(f"no vis_data/scalars.json under {path}: give the work directory of a run")
    records: list[dict[str, Any]] = []
    for file in files:
        added = read_scalars(file)
        if added:
            first = _step(added[0])
            records = [record for record in records if _step(record) < first] + added
    return records


def read_scalars(path: str | Path) -> list[dict[str, Any]]:
    """Reads one ``scalars.json``: a record per line.

    A run that is killed, or whose disk becomes full, leaves its last line without an end; that one is skipped.

    Raises:
        InputError: Another line is no record.
    """
    *lines, unfinished = Path(path).read_bytes().split(b"\n")
    records = []
    for number, line in enumerate([*lines, unfinished], 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number > len(lines):
                break
            raise InputError(f"line {number} of {path} is no record ({error}): remove that line") from error
        if not isinstance(record, dict):
            raise InputError(f"line {number} of {path} is no record but a {type(record).__name__}: remove that line")
        records.append(record)
    return records


def _step(record: Mapping[str, Any]) -> float:
    return record.get("step", record.get("iter", record.get("epoch", 0)))


def select_keys(runs: Mapping[str, Records], patterns: Sequence[str]) -> list[str]:
    """The quantities of all runs that match, in the order of the patterns, then of their appearance."""
    present = list(dict.fromkeys(key for records in runs.values() for record in records for key in record))
    chosen = [
        key
        for pattern in patterns
        for key in present
        if key == pattern or (fnmatchcase(key, pattern) and not key.endswith("_weight"))
    ]
    if not chosen:
        raise ValueError(f"no quantity matches {list(patterns)}; the runs have {sorted(present)}")
    return list(dict.fromkeys(chosen))


def series(records: Records, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one quantity; records without it are skipped."""
    pairs = [(_step(record), record[key]) for record in records if isinstance(record.get(key), int | float)]
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def step_unit(records: Records, key: str) -> str:
    """What the steps of a quantity count: MMEngine numbers validations by epoch where the loop has epochs.

    >>> step_unit([{"loss": 1.0, "epoch": 1, "iter": 50, "step": 50}, {"mAP": 0.2, "step": 1}], "mAP")
    'epoch'
    """
    in_training = any(key in record and "iter" in record for record in records)
    has_epochs = any("epoch" in record for record in records)
    return "epoch" if has_epochs and not in_training else "training step"


def _draw_run(panel: Axes, steps: np.ndarray, values: np.ndarray, *, colour: str, label: str, smooth: int) -> None:
    if len(values) <= 2 * smooth:
        panel.plot(steps, values, color=colour, marker="o", markersize=4, linewidth=1.4, label=label)
        return
    panel.plot(steps, values, color=colour, linewidth=0.6, alpha=0.35)
    half = smooth // 2
    median = [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    panel.plot(steps, median, color=colour, linewidth=1.8, label=label)
    if np.nanmin(values) > 0 and np.nanmax(values) > 20 * np.nanmin(values):
        panel.set_yscale("log")
