"""What a student starts from: weights drawn anew, a checkpoint, its share of a larger model's, modules of a teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from perceptkd.core.checkpoint import find_checkpoint, load_weights
from perceptkd.core.class_map import task_classes
from perceptkd.core.dry_run import DryBatch, build_dry_batch
from perceptkd.core.errors import InputError, list_some
from perceptkd.core.random_state import isolated_random_state
from perceptkd.core.slicing import IMPORTANCES, slice_weights
from perceptkd.core.source import build_model, read_model_source
from perceptkd.core.teacher import Teacher

OPTIONS = ("config", "checkpoint", "compression", "importance")


@dataclass(frozen=True)
class Start:
    """A student that is described by more than its model.

    Attributes:
        config: Its model, or the larger one that it is made of.
        checkpoint: Weights of that model; None draws the student's anew.
        compression: How many times fewer parameters the student has (:func:`perceptkd.models.compact.shrink`).
        importance: Which channels of the checkpoint a compact student takes over, see :mod:`perceptkd.core.slicing`.
        dry_batch: Of the :class:`perceptkd.core.distill_model.DistillModel`.
        data_preprocessor: Of the same, for a model that has none.
    """

    config: Any
    checkpoint: str | None = None
    compression: float = 1
    importance: str = "l1"
    dry_batch: DryBatch | None = None
    data_preprocessor: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, options: Mapping[str, Any], **model: Any) -> "Start":
        """Read what a config says about its student.

        Args:
            options: The description.
            model: ``dry_batch`` and ``data_preprocessor``.

        Raises:
            InputError: An option is unknown, says nothing, or needs another one.
        """
        if not set(options) <= set(OPTIONS) or set(options) == {"config"}:
            raise InputError(
                f"A student is dict(config=, checkpoint=, compression=), where checkpoint= has trained weights of the "
                f"config and compression= makes the student smaller than it, not one with {', '.join(options)}: give "
                "the config itself as student= to train all of it from scratch"
            )
        start = cls(**options, **model)
        if start.importance not in IMPORTANCES:
            raise InputError(f"A student's importance is one of {', '.join(IMPORTANCES)}; got {start.importance!r}")
        if "importance" in options and start.checkpoint is None:
            raise InputError("A student's importance= chooses channels of trained weights: it needs checkpoint=")
        if start.checkpoint is not None and start.compression != 1 and start.dry_batch is None:
            raise InputError(
                "A compact student with a checkpoint= is cut out of the weights of its config, along the way that a "
                "batch takes through the model: give the model dry_batch=, such as dict(dataset=train_dataset)"
            )
        return start

    def load(self, student: nn.Module) -> None:
        """Put the weights into the student, which is initialised."""
        if self.checkpoint is None:
            return
        source, owner = read_model_source(self.config), "the student"
        path = find_checkpoint(self.checkpoint, owner=owner, stem=source.stem, config=source.path)
        if self.compression == 1:
            load_weights(student, path, owner=owner)
            return
        if self.data_preprocessor is not None:
            source.model.setdefault("data_preprocessor", dict(self.data_preprocessor))
        assert self.dry_batch is not None
        with isolated_random_state(0):
            whole = build_model(source).eval()
            load_weights(whole, path, owner="the model that the student is cut out of")
            batch = build_dry_batch(self.dry_batch)
            student.load_state_dict(slice_weights(whole, student, batch, importance=self.importance))


def inherit_modules(student: nn.Module, teacher: Teacher, modules: Sequence[str], *, owner: str) -> None:
    """Copy the weights and statistics of a teacher's modules into the student's modules of the same paths.

    Args:
        student: Initialised; changed.
        teacher: Of a distiller.
        modules: Paths such as ``bbox_head``.
        owner: Who asks, for messages.

    Raises:
        InputError: The teacher is cached, a module is missing, or the two differ in names, shapes or classes.
    """
    if teacher.model is None:
        raise InputError(f"{owner}: inherit= needs the weights of '{teacher.name}', and a cached teacher has none")
    for path in modules:
        try:
            mine, theirs = student.get_submodule(path), teacher.model.get_submodule(path)
        except AttributeError as error:
            raise InputError(f"{owner}: inherit= names '{path}', which student and teacher must both have") from error
        state, wanted = theirs.state_dict(), mine.state_dict()
        different = sorted(
            key
            for key in state.keys() | wanted.keys()
            if key not in state or key not in wanted or state[key].shape != wanted[key].shape
        )
        if different or not wanted:
            raise InputError(
                f"{owner}: inherit= asks for equal modules, but '{path}' of student and '{teacher.name}' differ in "
                f"{list_some(different) or 'having no weights at all'}: leave it out"
            )
        _check_classes(student, teacher.model, path, whose=f"student and '{teacher.name}'", owner=owner)
        mine.load_state_dict(state)


def _check_classes(student: nn.Module, teacher: nn.Module, path: str, *, whose: str, owner: str) -> None:
    """Refuse a module that is, holds or belongs to heads whose channels mean other classes, though shapes are equal."""
    others = dict(teacher.named_modules(remove_duplicate=False))
    for name, head in student.named_modules(remove_duplicate=False):
        if not (f"{name}.".startswith(f"{path}.") or f"{path}.".startswith(f"{name}.")):
            continue
        own, other = task_classes(head), task_classes(others.get(name))
        if own is not None and other is not None and own != other:
            raise InputError(
                f"{owner}: inherit= asks for equal modules, but '{path}' of {whose} have other classes or another "
                f"order: {own} (student), {other} (teacher): give both the same, or leave it out"
            )
