"""Boxes that the tests of the pictures draw."""

from collections.abc import Callable, Sequence

import pytest
import torch
from mmengine.structures import InstanceData

import perceptkd.registry  # noqa: F401  (makes mmdet3d importable)


@pytest.fixture
def make_boxes() -> Callable[..., InstanceData]:
    """make_boxes([(x, y, z of the bottom, l, w, h, yaw), ...], labels, scores) -> InstanceData."""
    from mmdet3d.structures import LiDARInstance3DBoxes

    def make(
        rows: Sequence[Sequence[float]], labels: Sequence[int] | None = None, scores: Sequence[float] | None = None
    ) -> InstanceData:
        boxes = LiDARInstance3DBoxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 7))
        made = InstanceData(bboxes_3d=boxes, labels_3d=torch.tensor([0] * len(rows) if labels is None else labels))
        if scores is not None:
            made.scores_3d = torch.tensor(scores)
        return made

    return make
