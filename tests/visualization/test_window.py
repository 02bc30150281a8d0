"""The geometries of the open3d window; nothing is opened."""

import sys

import numpy as np
import pytest
import torch

from perceptkd.optional import MissingDependencyError
from perceptkd.visualization.frames import Frame
from perceptkd.visualization.samples import DrawnSample
from perceptkd.visualization.window import build_geometries


@pytest.fixture
def sample(make_boxes) -> DrawnSample:
    """Three points and a box of 4 x 2 x 1.5 m at (5, 6)."""
    points = torch.tensor([[0.0, 0, 0, 9], [1, 2, 3, 9], [4, 5, 6, 9]])
    return DrawnSample(Frame(points, make_boxes([(5.0, 6.0, 0.0, 4.0, 2.0, 1.5, 0.0)]), {}, {}))


def test_points_and_boxes_as_geometries(sample) -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    _, cloud, box = build_geometries(sample)
    assert np.allclose(np.asarray(cloud.points), sample.scene.points[:, :3])
    corners = np.asarray(box.points)
    assert corners.min(axis=0).tolist() == [3.0, 5.0, 0.0]
    assert corners.max(axis=0).tolist() == [7.0, 7.0, 1.5]
    heading = corners[np.asarray(box.lines)[-1]]
    assert np.allclose(heading, [[5, 6, 0], [7, 6, 0]])


def test_labels_colour_the_points(sample) -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    labelled = DrawnSample(sample.scene, point_labels=np.array([1, 1, 2]))
    colours = np.asarray(build_geometries(labelled)[1].colors)
    assert np.array_equal(colours[0], colours[1])
    assert not np.array_equal(colours[0], colours[2])


def test_without_open3d_the_error_names_the_command(sample, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependencyError, match="open3d is not installed: pip install open3d"):
        build_geometries(sample)
