"""A method's losses do not change when the teacher's maps are 0 beyond the reach that it states."""

import sys
from pathlib import Path

import pytest
import torch

from perceptkd.core.bev import batch_boxes
from perceptkd.core.box_reach import foreground_cells
from perceptkd.core.tap import Tap
from perceptkd.registry import DISTILLERS

sys.path.insert(0, str(Path(__file__).parent))
from ddp_worker import EXTENT, Scene, as_taps, values_by_alias

NEAR_BOXES = ["BEVDistill", "ForegroundDistill", "TiGBEV", "UniDistill"]
#: without the terms that read more, or that have no teacher
NEAR_BOXES_WITH = {"ForegroundDistill": {"weights": {"background": 0.0}}, "TiGBEV": {"inner_depth": False}}


def cut(tap: Tap, keep: torch.Tensor) -> Tap:
    height = tap.value[0][0]["heatmap"].shape[2] if isinstance(tap.value, tuple) else tap.value.shape[2]
    assert height == keep.shape[1]
    return tap.map(lambda leaf: leaf * keep[:, None])


@pytest.mark.parametrize("cells", [16, 27, 40, 64], ids=lambda cells: f"{16 / cells:.2f} m")
@pytest.mark.parametrize("name", NEAR_BOXES)
def test_nothing_is_read_beyond_the_reach(name: str, cells: int) -> None:
    scene = Scene((7, 5))
    torch.manual_seed(1)
    options = NEAR_BOXES_WITH.get(name, {})
    method = DISTILLERS.get(name)(**options).eval()
    method.build_adapters()
    student, teacher = (values_by_alias(torch.randn(2, 6, cells, cells) + 0.5) for _ in range(2))
    taps = [as_taps(student, method.student_taps), as_taps(teacher, method.teacher_taps["teacher"])]
    step = scene.step([0, 1])
    boxes, index = batch_boxes(step.data_samples, device=torch.device("cpu"))
    keep = foreground_cells(boxes, index, shape=(2, cells, cells), extent=EXTENT, reach=method.teacher_reach())
    if cells > 16:
        assert not keep.all()
    whole = method(*taps, step)
    near = method(taps[0], {alias: cut(tap, keep) for alias, tap in taps[1].items()}, step)
    assert {term: value.item() for term, value in near.items()} == pytest.approx(
        {term: value.item() for term, value in whole.items()}, rel=1e-6
    )


def test_all_others_read_whole_maps() -> None:
    methods = {name: kind for name, kind in DISTILLERS.module_dict.items() if name not in NEAR_BOXES}
    assert all("box_reach" not in vars(kind) for kind in methods.values())
    foreground = DISTILLERS.get("ForegroundDistill")
    for weights in ({}, dict.fromkeys(foreground.default_weights, 0.0)):  # the second measures all terms
        method = foreground(weights=weights)
        assert method.teacher_reach() is None
        assert "background" in method.weights
    legacy = DISTILLERS.get("UniDistill")(legacy=True)
    assert legacy.teacher_reach() is None
    adapted = DISTILLERS.get("UniDistill")(adapters={"low": {"type": "conv", "side": "teacher"}})
    assert adapted.teacher_reach() is None
