"""Submissions: what is written, and that the devkit reads it before it gets its name."""

import json
from pathlib import Path

import numpy as np
import pytest

from perceptkd.evaluation.nuscenes_boxes import BoxTable
from perceptkd.evaluation.nuscenes_submission import INPUTS, write_submission


@pytest.fixture
def frames() -> dict[str, BoxTable]:
    """Three cars in one frame, none in the next."""
    cars = BoxTable(
        frame=np.zeros(3, int),
        label=np.zeros(3, int),
        translation=np.ones((3, 3)),
        size=np.ones((3, 3)),
        rotation=np.tile([1.0, 0, 0, 0], (3, 1)),
        velocity=np.zeros((3, 2)),
        attribute=np.full(3, -1),
        score=np.array([0.9, 0.8, 0.7]),
    )
    return {"first": cars, "second": cars[:0]}


def test_every_frame_is_there_and_the_inputs_are_declared(frames, tmp_path: Path) -> None:
    write_submission(tmp_path, frames, inputs=["lidar"], check_max_boxes=3)
    written = json.loads((tmp_path / "results_nusc.json").read_text())
    assert written["meta"] == {f"use_{name}": name == "lidar" for name in INPUTS}
    assert {token: len(records) for token, records in written["results"].items()} == {"first": 3, "second": 0}


def test_what_the_devkit_refuses_is_not_written(frames, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Only <= 2 boxes per sample"):
        write_submission(tmp_path, frames, check_max_boxes=2)
    assert list(tmp_path.iterdir()) == []
