"""The reference networks, and small targets for them."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from mmengine import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import perceptkd.registry  # noqa: F401  (makes mmdet3d importable)


@pytest.fixture(scope="session")
def openpcdet_modules() -> ModuleType:
    """See ``openpcdet_modules.py``."""
    path = Path(__file__).parent / "openpcdet_modules.py"
    spec = importlib.util.spec_from_file_location("openpcdet_modules", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build() -> Callable[..., nn.Module]:
    """build(config) -> a model of mmdet3d or perceptkd in eval mode."""

    def make(config: Mapping[str, Any], scope: str = "mmdet3d") -> nn.Module:
        init_default_scope(scope)
        return MODELS.build(ConfigDict(config)).eval()

    return make


@pytest.fixture
def prefixed() -> Callable[..., dict[str, torch.Tensor]]:
    """prefixed(vfe=module, ...) -> their weights as one state dict."""

    def make(**modules: nn.Module) -> dict[str, torch.Tensor]:
        return {
            f"{name.replace('__', '.')}.{key}": value
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }

    return make


@pytest.fixture
def anchor_head() -> Callable[..., dict[str, Any]]:
    """anchor_head(channels, sizes) -> config of an Anchor3DHead on an 8 m x 6 m range, one size per class."""

    def make(channels: int, sizes: Sequence[Sequence[float]], **options: Any) -> dict[str, Any]:
        return {
            "type": "Anchor3DHead", "num_classes": len(sizes), "in_channels": channels, "feat_channels": channels,
            "use_direction_classifier": True, "diff_rad_by_sin": True,
            "anchor_generator": {
                "type": "Anchor3DRangeGenerator", "ranges": [[0, -3.0, -1.0 - i / 10, 8.0, 3.0, -1.0 - i / 10]
                                                             for i in range(len(sizes))],
                "sizes": sizes, "rotations": [0, 1.57], "reshape_out": False,
            },
            "bbox_coder": {"type": "DeltaXYZWLHRBBoxCoder"},
            "loss_cls": {"type": "mmdet.FocalLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "mmdet.SmoothL1Loss"},
            "loss_dir": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": False},
            "test_cfg": {"use_rotate_nms": True, "nms_across_levels": False, "nms_thr": 2.0, "score_thr": 0.0,
                         "min_bbox_size": 0, "nms_pre": -1, "max_num": 10_000},
            **options,
        }  # fmt: skip

    return make
