"""The scene from above: LiDAR points, true boxes, and what each model found."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Polygon

from perceptkd.visualization.boxes import TRUTH, DrawnBoxes, as_drawn, match_boxes
from perceptkd.visualization.figure import TRUTH_COLOUR, class_colour, new_figure, save_figure

Area = tuple[float, float, float, float]  # x0, y0, x1, y1 in metres

AREA_M: Area = (-50.0, -50.0, 50.0, 50.0)
VEHICLE_M: Area = (-4.0, -4.0, 4.0, 4.0)  # is always drawn
MISSED_COLOUR = "#000000"
POINT_COLOUR = "#9aa5b1"
LABEL_COLOURS = "tab20"
EGO_SIZE_M = (1.9, 4.6)
SIDES = {
    "y": ("x, right of the vehicle [m]", "y, ahead of the vehicle [m]"),
    "x": ("x, ahead of the vehicle [m]", "y, left of the vehicle [m]"),
}
PANEL_IN = 6.0  # width


def draw_bev(
    path: str | Path,
    points: Any,
    boxes: Mapping[str, Any],
    *,
    class_names: Sequence[str] = (),
    area_m: Area = AREA_M,
    score_threshold: float = 0.3,
    match_distance_m: float = 2.0,
    point_labels: Any = None,
    forward: str = "y",
    title: str = "",
) -> Path:
    """Draws one panel per set of boxes, seen from above, x to the right and y up.

    With the truth given under the name 'truth', the other panels show it as outlines: green where a prediction of the
    same class lies within ``match_distance_m``, dashed black where none does. Predictions are filled in the colour of
    their class; a bar leads from the centre to the front.

    Args:
        path: PNG file to write.
        points: LiDAR points [N, >= 3] in metres, or None.
        boxes: Name -> boxes (InstanceData or mmdet3d boxes) in the LiDAR frame; names are the titles of the panels.
        class_names: Names of the labels, for the legend.
        area_m: Edges ``(x0, y0, x1, y1)`` of what is drawn; what lies outside is neither drawn nor counted.
        score_threshold: Predictions with a lower score are left out.
        match_distance_m: See above.
        point_labels: Class of every point [N], which colours it; None for grey points.
        forward: The axis that points ahead of the vehicle: 'y' in nuScenes, 'x' in KITTI and most others.
        title: Of the picture.

    Returns:
        The path.
    """
    if not boxes:
        raise ValueError("draw_bev needs at least one set of boxes; an empty set is fine")
    drawn = {name: as_drawn(value, score_threshold=score_threshold) for name, value in boxes.items()}
    columns = len(drawn) if len(drawn) <= 3 else math.ceil(len(drawn) / 2)
    rows = math.ceil(len(drawn) / columns)
    x0, y0, x1, y1 = area_m
    figure = new_figure(PANEL_IN * columns, PANEL_IN * rows * (y1 - y0) / (x1 - x0) + 1.1)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(drawn) :]:
        panel.set_visible(False)
    visible = {name: value.select(_inside(value, area_m)) for name, value in drawn.items()}
    for panel, (name, value) in zip(panels, visible.items()):
        _draw_ground(panel, points, area_m, point_labels=point_labels, forward=forward)
        if name == TRUTH or TRUTH not in visible:
            _draw_boxes(panel, value)
            panel.set_title(f"{name}: {len(value)} objects")
        else:
            _draw_against_truth(panel, name, value, visible[TRUTH], match_distance_m)
    _add_legend(figure, visible, class_names, match_distance_m, ncols=3 * columns)
    if title:
        figure.suptitle(title, fontsize=14)
    return save_figure(figure, path)


def area_of(model: Mapping[str, Any]) -> Area:
    """Edges of what a model sees, by the ``point_cloud_range`` of its config, and of the vehicle; else 50 m around it.

    >>> area_of({"backbone": {}, "voxel_layer": {"point_cloud_range": [0, -40, -3, 70.4, 40, 1]}})
    (-4.0, -40, 70.4, 40)
    """
    areas = [(x0, y0, x1, y1) for x0, y0, _, x1, y1, _ in _areas(model)]
    if not areas:
        return AREA_M
    x0, y0, x1, y1 = zip(*areas, VEHICLE_M)
    return min(x0), min(y0), max(x1), max(y1)


def forward_axis(metainfo: Mapping[str, Any]) -> str:
    """The axis of a data set's LiDAR frame that points ahead: 'y' in nuScenes, else 'x' as mmdet3d has it.

    >>> forward_axis({"dataset": "nuscenes"}), forward_axis({"dataset": "kitti"})
    ('y', 'x')
    """
    return "y" if metainfo.get("dataset") == "nuscenes" else "x"


def _areas(config: Any) -> Iterator[Sequence[float]]:
    """Every ``point_cloud_range`` inside of a config."""
    if isinstance(config, Mapping):
        if "point_cloud_range" in config:
            yield config["point_cloud_range"]
        for value in config.values():
            yield from _areas(value)


def _inside(boxes: DrawnBoxes, area_m: Area) -> np.ndarray:
    centres = boxes.centres[:, :2]
    return ((centres >= area_m[:2]) & (centres <= area_m[2:])).all(axis=1)


def _draw_ground(panel: Axes, points: Any, area_m: Area, *, point_labels: Any, forward: str) -> None:
    """Points, rings every 10 m or 20 m, and the vehicle that carries the sensors."""
    if points is not None:
        xyz = np.asarray(points.detach().cpu() if hasattr(points, "detach") else points)
        colours: dict[str, Any] = {"c": POINT_COLOUR}
        if point_labels is not None:
            colours = {"c": np.asarray(point_labels) % 20, "cmap": LABEL_COLOURS, "vmin": 0, "vmax": 19}
        panel.scatter(xyz[:, 0], xyz[:, 1], s=0.6, linewidths=0, rasterized=True, **colours)
    x0, y0, x1, y1 = area_m
    reach = max(abs(edge) for edge in area_m)
    step = 10 if reach <= 30 else 20
    for radius in range(step, int(reach * math.sqrt(2)), step):
        panel.add_patch(Circle((0, 0), radius, fill=False, edgecolor="#d0d4da", linewidth=0.7, zorder=1))
        seen = [(x, y) for x, y in ((0, -radius), (radius, 0), (0, radius)) if x0 < x < x1 and y0 < y < y1]
        if seen:
            style: dict[str, Any] = {"color": "#5f6873", "fontsize": 7, "ha": "center", "va": "center", "zorder": 2}
            ground: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
            panel.text(*seen[0], f"{radius} m", bbox=ground, **style)
    width, length = EGO_SIZE_M
    nose = [(-width / 2, -length / 2), (-width / 2, length / 4), (0, length / 2), (width / 2, length / 4)]
    outline = np.array([*nose, (width / 2, -length / 2)])
    if forward == "x":
        outline = np.stack([outline[:, 1], -outline[:, 0]], axis=1)
    panel.add_patch(Polygon(outline, closed=True, color="#222222", zorder=6))
    panel.set(xlim=area_m[::2], ylim=(y0, y1), aspect="equal")
    panel.set(xlabel=SIDES[forward][0], ylabel=SIDES[forward][1])


def _draw_boxes(panel: Axes, boxes: DrawnBoxes) -> None:
    """Boxes filled in the colours of their classes, each with a bar from its centre to its front."""
    if not len(boxes):
        return
    colours = [class_colour(int(label)) for label in boxes.labels]
    outline = list(boxes.footprints)
    panel.add_collection(PolyCollection(outline, facecolors=colours, alpha=0.35, zorder=3))
    panel.add_collection(PolyCollection(outline, facecolors="none", edgecolors=colours, linewidths=1.4, zorder=4))
    heading = [(corners.mean(axis=0), corners[2:].mean(axis=0)) for corners in outline]
    panel.add_collection(LineCollection(heading, colors=colours, linewidths=1.4, zorder=4))


def _draw_against_truth(panel: Axes, name: str, boxes: DrawnBoxes, truth: DrawnBoxes, distance_m: float) -> None:
    right, found = match_boxes(boxes, truth, distance_m=distance_m)
    for kept, colour, style in ((found, TRUTH_COLOUR, "solid"), (~found, MISSED_COLOUR, (0, (3, 2)))):
        outline = list(truth.select(kept).footprints)
        panel.add_collection(
            PolyCollection(outline, facecolors="none", edgecolors=colour, linewidths=1.1, linestyles=[style], zorder=5)
        )
    _draw_boxes(panel, boxes)
    panel.set_title(f"{name}: found {found.sum()} of {len(found)}, {(~right).sum()} false")


def _add_legend(
    figure: Figure, drawn: Mapping[str, DrawnBoxes], class_names: Sequence[str], distance_m: float, *, ncols: int
) -> None:
    labels = sorted({int(label) for boxes in drawn.values() for label in boxes.labels if label >= 0})
    handles: list[Artist] = [
        Patch(facecolor=class_colour(label), alpha=0.6, label=class_names[label] if class_names else f"class {label}")
        for label in labels
    ]
    if TRUTH in drawn and len(drawn) > 1:
        handles += [
            Line2D([], [], color=TRUTH_COLOUR, label=f"truth, found within {distance_m:g} m"),
            Line2D([], [], color=MISSED_COLOUR, linestyle=(0, (3, 2)), label="truth, missed"),
        ]
    handles += [
        Line2D([], [], marker="o", linestyle="none", markersize=3, color=POINT_COLOUR, label="LiDAR points"),
        Line2D([], [], marker="^", linestyle="none", markersize=8, color="#222222", label="vehicle with the sensors"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
