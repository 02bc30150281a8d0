"""Teacher, control and distilled student side by side: bars of the main metrics and a table of all."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from perceptkd.visualization.figure import new_figure, save_figure, set_colours

#: The errors of nuScenes, of which less is better, with their units; all else is in points, of which more is better.
ERROR_UNITS = {"mATE": "m", "mASE": "1 - IoU", "mAOE": "rad", "mAVE": "m/s", "mAAE": "1 - acc."}


def draw_comparison(
    path: str | Path,
    results: Mapping[str, Mapping[str, float]],
    *,
    main: Sequence[str] = ("mAP", "NDS"),
    title: str = "",
    note: str = "",
) -> Path:
    """Draws the metrics of several models: bars over a table.

    Where both 'control' and 'distilled' are given, their difference stands over the bars.

    Args:
        path: PNG file to write.
        results: Model -> metric -> value: scores in points (100 times the fraction), errors in their own units.
            Prefixes such as ``nuscenes/`` are not shown.
        main: Metrics drawn as bars; all others go to the table alone.
        title: Of the picture.
        note: A line below, for instance what the data is.

    Returns:
        The path.
    """
    shown = {model: {key.rsplit("/", 1)[-1]: value for key, value in row.items()} for model, row in results.items()}
    metrics = list(dict.fromkeys(key for row in shown.values() for key in row))
    missing = [f"{metric} of {model}" for metric in main for model, row in shown.items() if metric not in row]
    if missing:
        raise ValueError(f"nothing to draw for {', '.join(missing)}; there is {metrics}")
    figure = new_figure(max(7.5, 1.05 * len(metrics) + 2.2), 5.6)
    bars, table = figure.subplots(2, 1, height_ratios=[3, 0.4 * len(shown) + 0.5])
    _draw_bars(bars, shown, main)
    _draw_table(table, shown, [*main, *(metric for metric in metrics if metric not in main)])
    if title:
        figure.suptitle(title)
    if note:
        figure.supxlabel(note, fontsize=9, color="#555555")
    return save_figure(figure, path)


def _draw_bars(panel: Axes, results: Mapping[str, Mapping[str, float]], main: Sequence[str]) -> None:
    colours = set_colours(list(results))
    width = 0.8 / len(results)
    centre = np.arange(len(main))
    for index, (model, row) in enumerate(results.items()):
        values = [row[metric] for metric in main]
        drawn = panel.bar(centre + (index - (len(results) - 1) / 2) * width, values, width * 0.92, color=colours[model])
        drawn.set_label(model)
        panel.bar_label(drawn, fmt="%.1f", fontsize=9)
    labels = list(main)
    if {"control", "distilled"} <= set(results):
        gains = [results["distilled"][metric] - results["control"][metric] for metric in main]
        labels = [f"{metric}\ndistilled - control: {gain:+.1f}" for metric, gain in zip(main, gains)]
    panel.set_xticks(centre, labels)
    panel.set_ylabel("points (higher is better)")
    panel.margins(y=0.12)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, ncols=len(results), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _draw_table(panel: Axes, results: Mapping[str, Mapping[str, float]], metrics: Sequence[str]) -> None:
    panel.axis("off")
    cells = [[_cell(metric, row.get(metric)) for metric in metrics] for row in results.values()]
    heads = [f"{m} ↓\n{ERROR_UNITS[m]}" if m in ERROR_UNITS else f"{m} ↑\npoints" for m in metrics]
    table = panel.table(
        cells, rowLabels=list(results), colLabels=heads, loc="center", cellLoc="center", edges="horizontal"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.35)
    for column in range(len(metrics)):
        table[0, column].set_height(1.7 * table[0, column].get_height())  # two lines


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if metric in ERROR_UNITS else f"{value:.1f}"
