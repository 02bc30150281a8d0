"""Colours and files that all pictures share."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: One colour per class, in the order of the ten nuScenes classes. None is green: that is the truth.
CLASS_COLOURS = (
    "#1f77b4", "#ff7f0e", "#8c564b", "#9467bd", "#bcbd22", "#17becf", "#e377c2", "#d62728", "#7f7f7f", "#393b79",
)  # fmt: skip
TRUTH_COLOUR = "#1a9850"
#: For sets of boxes or runs that are told apart by colour: teacher, control, distilled, then others.
SET_COLOURS = ("#3b6fd4", "#e08214", "#c51b7d", "#7b3294", "#01857a", "#8c510a")


def class_colour(label: int) -> str:
    """The colour of a class index; black for a box without class."""
    return CLASS_COLOURS[label % len(CLASS_COLOURS)] if label >= 0 else "#000000"


def set_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per name; teacher, control and distilled keep theirs whatever else is drawn."""
    usual = dict(zip(("teacher", "control", "distilled"), SET_COLOURS))
    others = (colour for colour in SET_COLOURS if colour not in {usual[name] for name in names if name in usual})
    drawn = {name: usual[name] if name in usual else next(others, "#555555") for name in names if name != "truth"}
    return {"truth": TRUTH_COLOUR, **drawn}


def as_bgr(colour: str) -> tuple[int, int, int]:
    """OpenCV's (blue, green, red) of '#rrggbb'.

    >>> as_bgr("#ff8000")
    (0, 128, 255)
    """
    return int(colour[5:7], 16), int(colour[3:5], 16), int(colour[1:3], 16)


def new_figure(width_in: float, height_in: float, *, dpi: int = 110) -> Figure:
    """A figure that never looks for a display."""
    figure = Figure(figsize=(width_in, height_in), dpi=dpi, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as PNG, and its folder if needed."""
    path = _png(path)
    figure.savefig(path, format="png")
    return path


def save_image(image: np.ndarray, path: str | Path) -> Path:
    """Writes an image [H, W, 3] (BGR, 8 bit) as PNG, and its folder if needed."""
    path = _png(path)
    encoded = cv2.imencode(".png", image)[1]
    path.write_bytes(encoded.tobytes())
    return path


def _png(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"pictures are written as PNG: {path} must end in .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
