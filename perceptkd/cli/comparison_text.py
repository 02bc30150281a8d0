"""A comparison of teacher, control and distilled student as text: the table, the cost and what it shows."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

#: The models of a comparison that there is one of for each seed.
SEEDED_MODELS = ("control", "control_equal_time", "distilled")
MEANINGFUL_CONTROL = 10.0
#: How the names of average precisions end, of which a control should have so many points.
PRECISIONS = ("mAP", "AP40")
OFFICIAL = ("nuscenes/mAP", "nuscenes/NDS")


def table(result: dict[str, Any]) -> str:
    """The comparison as text, one column a seed."""
    seeds = list(result["control"])
    header = ["", *(f"seed {seed}" for seed in seeds), "mean"]
    rows = [["teacher", *[""] * len(seeds), f"{result['teacher']:.2f}"]]
    for name in SEEDED_MODELS:
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
    """Step time and memory of each kind of model, in one line."""
    parts = [
        f"{name} {milliseconds:.0f} ms, {result['peak_mib'][name] / 1024:.1f} GiB"
        for name, milliseconds in result["step_ms"].items()
        if milliseconds is not None
    ]
    if not parts:
        return "a training step: not measured, some trainings had the cores to themselves and some shared them"
    shared = f" ({result['parallel']} trainings at a time, on shared cores)" if result.get("parallel", 1) > 1 else ""
    return f"a training step and the most memory: {'; '.join(parts)}{shared}"


def verdict(result: Mapping[str, Any]) -> str:
    """What the comparison shows, and what stands against it, in sentences."""
    sentences = [_outcome(list(result["gain"]["by_seed"].values()), result["gain"]["mean"])]
    if result["gap_closed"] is not None and result["gain"]["mean"] > 0:
        sentences.append(f"{100 * result['gap_closed']:.1f} % of the gap to the teacher is closed.")
    unsettled = [str(seed) for seed, settled in result["control_settled"].items() if settled is False]
    if unsettled:
        sentences.append(f"The control was still changing at its end (seed {', '.join(unsettled)}).")
    if None in result["control_settled"].values():
        sentences.append("Whether the control had settled is not known.")
    given = [name for name, source in result["sources"].items() if source.get("given")]
    if given:
        sentences.append(f"The weights of {', '.join(given)} were used as they were found.")
    scores = {name: kinds["control"] for name, kinds in official_scores(result).items()}
    scores[result["metric"]] = statistics.fmean(result["control"].values())
    weak = [name for name, value in scores.items() if name.endswith(PRECISIONS) and value < MEANINGFUL_CONTROL]
    if weak:
        names = " and ".join(weak)
        sentences.append(f"The control is below {MEANINGFUL_CONTROL:.0f} {names}: this tests the plumbing alone.")
    return " ".join(sentences)


def _outcome(gains: Sequence[float], mean: float) -> str:
    """The first sentence of a verdict.

    >>> _outcome([3.0, 1.0], 2.0)
    'Shown: all 2 seeds gain, 2.00 points on average.'
    >>> _outcome([-4.0, 1.0, -3.0], -2.0)
    'Not shown: 1 of 3 seeds gains, the average is a loss of 2.00 points.'
    """
    won = sum(gain > 0 for gain in gains)
    points = f"{abs(mean):.2f} points"
    if len(gains) == 1:
        return f"One seed is no evidence: it {'loses' if mean < 0 else 'gains'} {points}."
    if won == len(gains):
        return f"Shown: all {won} seeds gain, {points} on average."
    if all(gain < 0 for gain in gains):
        return f"Distillation loses: all {len(gains)} seeds lose, {points} on average."
    verb, change = "gains" if won == 1 else "gain", "loss" if mean < 0 else "gain"
    return f"Not shown: {won} of {len(gains)} seeds {verb}, the average is a {change} of {points}."


def official_scores(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Means over seeds, in points, of the official scores that the comparison's metric is not, where all have them."""
    groups = {kind: list(result["metrics"][kind].values()) for kind in ("teacher", "control", "distilled")}
    return {
        name: {kind: 100 * statistics.fmean(each[name] for each in group) for kind, group in groups.items()}
        for name in OFFICIAL
        if name != result["metric"] and all(name in each for group in groups.values() for each in group)
    }
