"""The comparison picture: bars as high as the metrics, and errors for what cannot be drawn."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from perceptkd.visualization import draw_comparison
from perceptkd.visualization.figure import as_bgr, set_colours

RESULTS = {
    "teacher": {"nuscenes/mAP": 0.8, "nuscenes/NDS": 0.7, "nuscenes/mATE": 0.2},
    "control": {"nuscenes/mAP": 0.4, "nuscenes/NDS": 0.35, "nuscenes/mATE": 0.5},
    "distilled": {"nuscenes/mAP": 0.5, "nuscenes/NDS": 0.42},
}


def test_bars_are_as_high_as_the_metric(tmp_path: Path) -> None:
    image = cv2.imread(str(draw_comparison(tmp_path / "c.png", RESULTS, main=["mAP"], title="T", note="simulated")))
    heights = {}
    for model, colour in set_colours(list(RESULTS)).items():
        mask = (image == as_bgr(colour)).all(axis=2).astype(np.uint8)
        _, _, boxes, _ = cv2.connectedComponentsWithStats(mask)
        heights[model] = max((box[3] for box in boxes[1:]), default=0)
    assert heights["control"] / heights["teacher"] == pytest.approx(0.5, abs=0.02)
    assert heights["distilled"] / heights["teacher"] == pytest.approx(0.625, abs=0.02)


def test_a_missing_metric_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mATE of distilled"):
        draw_comparison(tmp_path / "c.png", RESULTS, main=["mAP", "mATE"])
