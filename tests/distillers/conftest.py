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
from torch import Tensor, nn

import perceptkd.registry  # noqa: F401  (makes mmdet3d importable)
from perceptkd.core.distiller import Step
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.registry import MODELS

_source = Path(__file__).resolve().parent.parent / "models" / "bev" / "conftest.py"
_spec = importlib.util.spec_from_file_location("bev_synthetic_batch", _source)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

make_batch = _module.make_batch
make_sample, make_points = _module.make_sample, _module.make_points
FULL_EXTENT = (-54.0, -54.0, 54.0, 54.0)
TASK_CLASSES = (1, 2, 2, 1, 2, 2)
LABEL_HEADS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
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
def make_batch_for(make_batch: Callable[..., dict]) -> Callable[..., dict]:
    """make_batch_for(model, samples, boxes=4) -> a raw batch for a detector of SimWorld, or a segmentor of points."""
    from mmdet3d.structures import PointData

    def make(model: nn.Module, batch_size: int, *, boxes: int) -> dict:
        batch = make_batch(batch_size, size=(128, 352), boxes=boxes)
        if hasattr(model, "decode_head"):
            batch["inputs"] = {"points": [points[:, :4] for points in batch["inputs"]["points"]]}
            for points, sample in zip(batch["inputs"]["points"], batch["data_samples"]):
                labels = torch.randint(model.decode_head.ignore_index + 1, (len(points),))
                sample.gt_pts_seg = PointData(pts_semantic_mask=labels)
        return batch

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


def build_label_teacher() -> nn.Module:
    """Neck and head of a detector with levels of 5 and 6 channels, two tasks with classes (a) and (b, c)."""
    torch.manual_seed(0)
    model = nn.Module()
    norm = {"type": "BN", "eps": 1e-3}
    model.neck = MODELS.build(
        {"type": "mmdet3d.SECONDFPN", "in_channels": [5, 6], "out_channels": [4, 4], "upsample_strides": [1, 2],
         "use_conv_for_no_stride": True, "norm_cfg": norm}
    )  # fmt: skip
    size = {"point_cloud_range": [-8, -8, -5, 8, 8, 3], "voxel_size": [1.0, 1.0, 8.0], "out_size_factor": 1}
    coder = {"type": "mmdet3d.CenterPointBBoxCoder", "pc_range": [-8, -8], "voxel_size": [1, 1], "out_size_factor": 1}
    model.bbox_head = MODELS.build(
        {
            "type": "perceptkd.BEVCenterHead",
            "class_names": ["a", "b", "c"],
            "tasks": [{"num_class": 1, "class_names": ["a"]}, {"num_class": 2, "class_names": ["b", "c"]}],
            "in_channels": 8,
            "share_conv_channel": 8,
            "common_heads": {name: (channels, 2) for name, channels in LABEL_HEADS.items()},
            "separate_head": {"type": "mmdet3d.SeparateHead", "init_bias": -2.19, "final_kernel": 3, "head_conv": 8},
            "bbox_coder": coder,
            "loss_cls": {"type": "mmdet.GaussianFocalLoss", "reduction": "mean"},
            "loss_bbox": {"type": "mmdet.L1Loss", "reduction": "mean", "loss_weight": 0.25},
            "train_cfg": {**size, "grid_size": [16, 16, 1], "gaussian_overlap": 0.1, "min_radius": 1,
                          "code_weights": [1.0] * 10},
        }
    )  # fmt: skip
    return model.eval().requires_grad_(False)


@pytest.fixture
def label_teacher() -> nn.Module:
    """See :func:`build_label_teacher`."""
    return build_label_teacher()
