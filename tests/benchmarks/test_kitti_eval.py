"""benchmarks/kitti_eval.py times nothing whose APs are not mmdet3d's."""

import kitti_eval
import numpy as np
import pytest


def test_scenes_are_kitti_s_in_size_and_kind():
    predictions, truth = kitti_eval.make_boxes(400)
    assert (len(truth), len(predictions)) == (2350, 4000)
    assert len(np.unique(truth.label)) == len(kitti_eval.TYPES)
    assert not (predictions.label == kitti_eval.TYPES.index("DontCare")).any()
    same, _ = kitti_eval.make_boxes(400)
    assert np.array_equal(same.score, predictions.score)


@pytest.mark.slow
def test_every_row_can_be_measured():
    rows = kitti_eval.measure(20, 1)
    assert [row["met"] for row in rows] == [None, True, True, None]
    assert rows[2]["ours"] < 1e-9
    assert rows[-1]["unit"] == "MiB"


def test_aps_that_differ_end_the_run(monkeypatch):
    monkeypatch.setattr(kitti_eval, "mmdet3d_aps", lambda *_: [np.zeros((3, 3, 2))] * 8)
    with pytest.raises(RuntimeError, match="an AP differs from mmdet3d's by"):
        kitti_eval.measure(20, 1)
