"""A small data set of somebody's own: clouds as .npy, boxes as CSV."""

import math
from pathlib import Path

import numpy as np
import pytest

HEADER = "frame,class,x,y,z,length,width,height,yaw"


def write_own_data(folder: Path, *, frames: int = 6) -> tuple[Path, Path]:
    """Writes ``clouds/drive/<n>.npy`` and ``boxes.csv``: ground, and boxes full of points.

    Every frame has a car along +y, a van along +x and, in odd frames, a person; the last one has no box.

    Returns:
        The folder of the clouds and the box file.
    """
    rng = np.random.default_rng(0)
    clouds, lines = folder / "clouds", [HEADER]
    (clouds / "drive").mkdir(parents=True)
    for number in range(frames):
        boxes = [("car", 6.0, 3.0, -0.8, 4.5, 1.8, 1.6, math.pi / 2), ("van", -5.0, -2.0, -0.5, 5.5, 2.0, 2.2, 0.0)]
        boxes += [("person", 3.0, -6.0, -0.7, 0.8, 0.7, 1.8, -1.0)] if number % 2 else []
        ground = rng.uniform([-15, -15, -1.7], [15, 15, -1.6], (600, 3))
        parts = [ground]
        for name, *values in [] if number == frames - 1 else boxes:
            lines.append(",".join([f"drive/{number:03d}", name, *map(repr, values)]))
            local = rng.uniform(-0.49, 0.49, (80, 3)) * values[3:6]
            cosine, sine = math.cos(values[6]), math.sin(values[6])
            turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
            parts.append(local @ turn.T + values[:3])
        points = np.concatenate(parts)
        intensity = rng.uniform(0, 255, (len(points), 1))
        np.save(clouds / "drive" / f"{number:03d}.npy", np.hstack([points, intensity]).astype(np.float32))
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    return clouds, folder / "boxes.csv"


@pytest.fixture
def own_data(tmp_path: Path) -> tuple[Path, Path]:
    """See :func:`write_own_data`."""
    return write_own_data(tmp_path / "own")
