"""Mistakes of a config end in one sentence, which the commands print, and not in a traceback."""

from typing import Any

import pytest
import torch

from perceptkd.core import DistillModel
from perceptkd.core.errors import InputError
from perceptkd.core.heads import head_maps
from perceptkd.core.tap import Tap, TapSpec


@pytest.mark.parametrize(
    ("distiller", "message"),
    [
        ({"type": "perceptkd.Unknown"}, r"no distiller 'perceptkd\.Unknown'; there are .*UniDistill.*type="),
        ({"name": "mimic"}, "no distiller None; there are .*UniDistill.*type="),
        ({"type": "perceptkd.UniDistill", "weights": {"feature": None}}, "A weight is a number.*got None"),
    ],
)
def test_a_distiller_that_cannot_be_built(toy: Any, distiller: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillModel(toy(), distillers=[distiller])


@pytest.mark.parametrize("output", [torch.zeros(1, 2, 4, 4), (torch.zeros(1, 2, 4, 4),), None])
def test_a_response_tap_on_a_head_without_names(output: Any) -> None:
    tap = Tap(TapSpec("bbox_head", layout="yx"), [output], "student")
    with pytest.raises(InputError, match=r"tap 'bbox_head' of the student gives a \w+ without a name.*teacher_taps"):
        head_maps(tap)
