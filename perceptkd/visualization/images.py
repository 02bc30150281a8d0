"""2D boxes over the image they belong to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perceptkd.visualization.cameras import tag
from perceptkd.visualization.figure import as_bgr, class_colour, save_image


def draw_image(path: str | Path, image: np.ndarray, boxes: Any = None, *, class_names: Sequence[str] = ()) -> Path:
    """Draws the boxes of an image in the colours of their classes.

    Args:
        path: PNG file to write.
        image: RGB image [H, W, 3], 8 bit.
        boxes: InstanceData with ``bboxes`` (x0, y0, x1, y1) [M, 4] and ``labels`` [M], or None.
        class_names: Names of the labels, written beside the boxes.

    Returns:
        The path.
    """
    drawn = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    if boxes is not None and len(boxes):
        corners = np.asarray(getattr(boxes.bboxes, "tensor", boxes.bboxes)).round().astype(int)
        for (left, top, right, bottom), label in zip(corners.tolist(), boxes.labels.tolist()):
            colour = class_colour(label)
            cv2.rectangle(drawn, (left, top), (right, bottom), as_bgr(colour), 2)
            if class_names and label >= 0:
                tag(drawn, class_names[label], (left, top), colour, scale=0.4)
    return save_image(drawn, path)
