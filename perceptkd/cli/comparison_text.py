"""A comparison of teacher, control and distilled student as text: the table, the cost and what it shows."""

import statistics
from collections.abc import Mapping
from typing import Any

MEANINGFUL_CONTROL = 10.0
OFFICIAL = ("nuscenes/mAP", "nuscenes/NDS")


def table(result: dict[str, Any]) -> str:
    """The comparison as text, one column a seed."""
    seeds = list(result["control"])
    header = ["", *(f"seed {seed}" for seed in seeds), "mean"]
    rows = [["teacher", *[""] * len(seeds), f"{result['teacher']:.2f}"]]
    for name in ("control", "control_equal_time", "distilled"):
        if name in result:
            numbers = list(result[name].values())
            rows.append([name, *(f"{value:.2f}" for value in numbers), f"{statistics.fmean(numbers):.2f}"])
    by_seed = result["gain"]["by_seed"].values()
    rows.append(["gain", *(f"{value:+.2f}" for value in by_seed), f"{result['gain']['mean']:+.2f}"])
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in [header, *rows]]
    lines += [
        f"{name}: " + ", ".join(f"{kind} {value:.2f}" for kind, value in scores.items())
        for name, scores in official_scores(result).items()
    ]
    lines += [
        f"matched within {distance}: control {row['control']:.2f}, distilled {row['distilled']:.2f}, {row['gain']:+.2f}"
        for distance, row in result["by_distance"].items()
    ]
    return "\n".join([f"{result['metric']} on {result['split']}", *lines, cost(result), verdict(result)])


def cost(result: Mapping[str, Any]) -> str:
    """Step time and memory of each kind of student, in one line."""
    names = {"student": "control", **{name: name for name in result["step_ms"] if name != "student"}}
    parts = [
        f"{name} {milliseconds:.0f} ms, {result['peak_mib'][names[name]] / 1024:.1f} GiB"
        for name, milliseconds in result["step_ms"].items()
        if milliseconds is not None
    ]
    if not parts:
        return "a training step: not measured, some trainings had the cores to themselves and some shared them"
    shared = f" ({result['parallel']} trainings at a time)" if result.get("parallel", 1) > 1 else ""
    return f"a training step and the most memory: {'; '.join(parts)}{shared}"


def verdict(result: Mapping[str, Any]) -> str:
    """What the comparison shows, and what stands against it."""
    gains = result["gain"]["by_seed"].values()
    if len(gains) == 1:
        parts = ["one seed shows nothing"]
    else:
        parts = ["shown: every seed gains" if result["shown"] else "not shown: a seed does not gain"]
    if result["gap_closed"] is not None:
        parts.append(f"{100 * result['gap_closed']:.1f} % of the gap closed")
    unsettled = [str(seed) for seed, settled in result["control_settled"].items() if settled is False]
    if unsettled:
        parts.append(f"but the control still moved at its end (seed {', '.join(unsettled)})")
    if None in result["control_settled"].values():
        parts.append("but whether the control had settled is not known")
    given = [name for name, source in result["sources"].items() if source.get("given")]
    if given:
        parts.append(f"with the weights of {', '.join(given)} as they were found")
    scores = {name: kinds["control"] for name, kinds in official_scores(result).items()}
    scores[result["metric"]] = statistics.fmean(result["control"].values())
    weak = [name for name, value in scores.items() if name.endswith("mAP") and value < MEANINGFUL_CONTROL]
    if weak:
        parts.append(
            f"but a control below {MEANINGFUL_CONTROL:.0f} {' and '.join(weak)} makes this a test of the plumbing"
        )
    return ", ".join(parts)


def official_scores(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Means over seeds, in points, of the official scores that the comparison's metric is not, where all have them."""
    groups = {kind: list(result["metrics"][kind].values()) for kind in ("teacher", "control", "distilled")}
    return {
        name: {kind: 100 * statistics.fmean(each[name] for each in group) for kind, group in groups.items()}
        for name in OFFICIAL
        if name != result["metric"] and all(name in each for group in groups.values() for each in group)
    }
