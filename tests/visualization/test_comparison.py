"""The comparison picture: bars as high as the metrics, and errors for what cannot be drawn."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from perceptkd.visualization import comparison, draw_comparison
from perceptkd.visualization.figure import as_bgr, set_colours

RESULTS = {
    "teacher": {"nuscenes/mAP": 80.0, "nuscenes/NDS": 70.0, "nuscenes/mATE": 0.2},
    "control": {"nuscenes/mAP": 40.0, "nuscenes/NDS": 35.0, "nuscenes/mATE": 0.5},
    "distilled": {"nuscenes/mAP": 50.0, "nuscenes/NDS": 42.0},
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


def test_scores_are_in_points_and_errors_in_their_units(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = []
    monkeypatch.setattr(comparison, "save_figure", lambda figure, path: figures.append(figure))
    draw_comparison(tmp_path / "c.png", RESULTS, main=["mAP"])
    bars, table = figures[0].axes
    cells = {cell.get_text().get_text() for cell in table.tables[0].get_celld().values()}
    assert {"mAP ↑\npoints", "NDS ↑\npoints", "mATE ↓\nm", "80.0", "42.0", "0.200", "0.500", "-"} < cells
    assert bars.get_xticklabels()[0].get_text() == "mAP\ndistilled - control: +10.0"


def test_a_missing_metric_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mATE of distilled"):
        draw_comparison(tmp_path / "c.png", RESULTS, main=["mAP", "mATE"])
