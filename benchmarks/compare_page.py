"""The comparisons of docs/benchmarks.md: an overview, then a section each."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from page import source

from perceptkd.cli.comparison_text import SEEDED_MODELS, cost, official_scores, verdict

SPLITS = {"test": "the split to report on", "val": "the split that weights are chosen on"}


def compare_sections(paths: Sequence[Path]) -> list[str]:
    """The overview of each split, then a section for each comparison."""
    results = {path.stem: json.loads(path.read_text()) for path in paths}
    overviews = [_overview(split, results) for split in SPLITS]
    return [*overviews, *(_section(name, result) for name, result in results.items())]


def _overview(split: str, results: Mapping[str, Any]) -> str:
    """One row a comparison: means over seeds, and how sure the gain is."""
    rows = [
        f"## Overview: {SPLITS[split]} (`{split}`)\n",
        "| comparison | seeds | teacher | control | distilled | gain | standard error |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, result in results.items():
        if result["split"] == split:
            gain, seeds = result["gain"], len(result["control"])
            error = "one seed" if seeds == 1 else f"{gain['std'] / seeds**0.5:.2f}"
            means = [statistics.fmean(result[kind].values()) for kind in ("control", "distilled")]
            cells = " | ".join(f"{value:.2f}" for value in (result["teacher"], *means))
            rows.append(f"| [{name}](#{_anchor(name)}) | {seeds} | {cells} | {gain['mean']:+.2f} | {error} |")
    return "\n".join([*rows, ""])


def _anchor(heading: str) -> str:
    """The link to a heading, as GitHub makes it.

    >>> _anchor("unidistill_lidar2camera_sim.3x")
    'unidistill_lidar2camera_sim3x'
    """
    return heading.lower().replace(".", "")


def _section(name: str, result: Mapping[str, Any]) -> str:
    """A comparison: one row a model, one column a seed."""
    seeds = list(result["control"])
    data = f"SimWorld version {result['world']['world_version']}" if result["world"] else "real data"
    rows = [
        f"## {name}\n",
        f"`{result['metric']}` in points on the `{result['split']}` loader, {data}; teacher, student without "
        "distillation (control) and with it, same schedule, data and seeds.\n",
        "| model | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |",
        "| --- |" + " ---: |" * (len(seeds) + 1),
        "| teacher |" + " |" * len(seeds) + f" {result['teacher']:.2f} |",
    ]
    for kind in SEEDED_MODELS:
        if kind in result:
            values = list(result[kind].values())
            cells = " | ".join(f"{value:.2f}" for value in values)
            rows.append(f"| {kind.replace('_', ' ')} | {cells} | {statistics.fmean(values):.2f} |")
    gains = " | ".join(f"{value:+.2f}" for value in result["gain"]["by_seed"].values())
    rows.append(f"| gain | {gains} | {result['gain']['mean']:+.2f} |\n")
    rows.append(f"{verdict(result)} Cost: {cost(result)}.\n")
    for score, scores in official_scores(result).items():
        rows.append(f"`{score}`: " + ", ".join(f"{kind} {value:.2f}" for kind, value in scores.items()) + ".\n")
    if result["by_distance"]:
        rows += ["| matched within | control | distilled | gain |", "| --- | ---: | ---: | ---: |"]
        rows += [
            f"| {distance} | {row['control']:.2f} | {row['distilled']:.2f} | {row['gain']:+.2f} |"
            for distance, row in result["by_distance"].items()
        ]
        rows.append("")
    if result.get("options"):
        rows.append(f"Options: `{json.dumps(result['options'])}`.\n")
    return "\n".join([*rows, source(result), *_renamed(name, result)])


def _renamed(name: str, result: Mapping[str, Any]) -> list[str]:
    """What the config of a comparison is called now, where its record ``<config stem>[.<variant>]`` was renamed."""
    stem, config = name.split(".")[0], Path(result["config"])
    if stem == config.stem:
        return []
    return [f"At that revision the config was called `{config.name}`; now it is `{stem}.py`.\n"]
