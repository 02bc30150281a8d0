"""The core of perceptkd: a student, its teachers, and the taps between them. docs/concepts.md has the picture."""

from perceptkd.core.distill_model import DistillModel

__all__ = ["DistillModel"]
