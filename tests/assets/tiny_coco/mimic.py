"""The simplest distiller, for distill.py beside it; the tests' conftest files run this module to register it."""

from torch import Tensor

from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.tap import Taps
from perceptkd.registry import DISTILLERS


@DISTILLERS.register_module(force=True)
class TinyMimic(Distiller):
    """Mean squared difference of the finest feature map."""

    default_weights = {"feature": 1.0}
    default_student_taps = {"finest": "neck[0]"}
    default_teacher_taps = {"finest": "neck[0]"}

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        return {"feature": (student["finest"].value - teacher["finest"].value).square().mean()}
