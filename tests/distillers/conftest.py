"""What the tests of the distillers share: hand-made taps and steps on UniDistill's 180 x 180 map.

The synthetic batch is the BEV tests'.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData
from torch import Tensor

import perceptkd.registry  # noqa: F401  (makes mmdet3d importable)
from perceptkd.core.distiller import Step
from perceptkd.core.tap import Tap, TapSpec

_source = Path(__file__).resolve().parent.parent / "models" / "bev" / "conftest.py"
_spec = importlib.util.spec_from_file_location("bev_synthetic_batch", _source)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

make_batch = _module.make_batch
FULL_EXTENT = (-54.0, -54.0, 54.0, 54.0)
TASK_CLASSES = (1, 2, 2, 1, 2, 2)
REGRESSION_CHANNELS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1}


@pytest.fixture
def make_step() -> Callable[..., Step]:
    """make_step([[(x, y, l, w, yaw), ...] of each sample]) -> a step that holds these boxes."""
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes

    def make(boxes_of_samples: Sequence[Sequence[Sequence[float]]]) -> Step:
        samples = []
        for boxes in boxes_of_samples:
            bev = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
            full = torch.zeros(len(bev), 9)
            full[:, [0, 1, 3, 4, 6]] = bev
            full[:, 2], full[:, 5] = -1.0, 1.5
            sample = Det3DDataSample()
            sample.gt_instances_3d = InstanceData(bboxes_3d=LiDARInstance3DBoxes(full, box_dim=9))
            samples.append(sample)
        return Step(data_samples=samples)

    return make


@pytest.fixture
def make_taps() -> Callable[..., dict[str, Tap]]:
    """make_taps(low, high, response) -> taps with these values, on the full map unless said otherwise."""

    def make(
        low: Tensor, high: Tensor, response: Any, *, layout: str | None = "yx", extent: Any = FULL_EXTENT
    ) -> dict[str, Tap]:
        values = {"low": low, "high": high, "response": response}
        return {name: Tap(TapSpec(name, layout=layout, extent=extent), [value]) for name, value in values.items()}

    return make


@pytest.fixture
def make_head() -> Callable[..., tuple]:
    """make_head(logit, regression) -> the output of a six-task CenterHead whose maps are constant."""

    def make(logit: float, regression: float, *, batch_size: int = 1, size: int = 180) -> tuple:
        def full(channels: int, value: float) -> Tensor:
            return torch.full((batch_size, channels, size, size), value)

        return tuple(
            [
                {
                    "heatmap": full(classes, logit),
                    **{name: full(channels, regression) for name, channels in REGRESSION_CHANNELS.items()},
                }
            ]
            for classes in TASK_CLASSES
        )

    return make
