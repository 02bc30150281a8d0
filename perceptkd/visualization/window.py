"""A sample in an open3d window, for machines with a display."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from perceptkd.core.errors import InputError
from perceptkd.datasets.point_files import OPEN3D_LIBRARIES
from perceptkd.optional import require
from perceptkd.visualization.boxes import BOTTOM, as_drawn
from perceptkd.visualization.cameras import EDGES
from perceptkd.visualization.figure import class_colour
from perceptkd.visualization.samples import DrawnSample


def build_geometries(sample: DrawnSample) -> list[Any]:
    """Geometries of a sample: points coloured by height or label, the axes, an outline with a heading per box."""
    open3d = require("open3d", libraries=OPEN3D_LIBRARIES)
    geometries = [open3d.geometry.TriangleMesh.create_coordinate_frame(size=2.0)]
    if sample.scene.points is not None:
        points = np.asarray(sample.scene.points, dtype=np.float64)[:, :3]
        cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
        cloud.colors = open3d.utility.Vector3dVector(_colours(points[:, 2], sample.point_labels))
        geometries.append(cloud)
    if sample.scene.truth is not None:
        boxes = as_drawn(sample.scene.truth)
        for corners, label in zip(boxes.corners, boxes.labels):
            heading = np.stack([corners[list(BOTTOM)].mean(axis=0), corners[list(BOTTOM[2:])].mean(axis=0)])
            lines = [*EDGES, (8, 9)]
            outline = open3d.geometry.LineSet(
                open3d.utility.Vector3dVector(np.concatenate([corners, heading])),
                open3d.utility.Vector2iVector(np.array(lines)),
            )
            outline.paint_uniform_color(to_rgb(class_colour(int(label))))
            geometries.append(outline)
    return geometries


def _colours(height: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """RGB [N, 3] in [0, 1]."""
    if labels is not None:
        return colormaps["tab20"](labels % 20)[:, :3]
    low, high = np.percentile(height, [2, 98]) if len(height) else (0.0, 1.0)
    return colormaps["viridis"](np.clip((height - low) / max(high - low, 1e-6), 0, 1))[:, :3]


def show_samples(samples: Sequence[tuple[str, DrawnSample]]) -> None:
    """Opens a window for each (title, sample), one after another.

    Raises:
        InputError: There is no display.
    """
    open3d = require("open3d", libraries=OPEN3D_LIBRARIES)
    for title, sample in samples:
        viewer = open3d.visualization.Visualizer()
        if not viewer.create_window(window_name=title):
            raise InputError("open3d cannot open a window here: leave out --window, which writes PNG files")
        for geometry in build_geometries(sample):
            viewer.add_geometry(geometry)
        viewer.get_render_option().point_size = 1.5
        viewer.run()
        viewer.destroy_window()
