"""DistillModel: a student that learns from teachers, and is only a student to everybody else."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from perceptkd.core.batch import RawBatch, RawBatchPreprocessor, data_samples
from perceptkd.core.distillation import Distillation
from perceptkd.core.dry_run import DryBatch
from perceptkd.core.errors import InputError
from perceptkd.core.source import build_model, is_described, read_model_source
from perceptkd.core.start import Start
from perceptkd.registry import MODELS


@MODELS.register_module()
class DistillModel(BaseModel):
    """Trains ``student`` with its own loss plus what the distillers find in the taps of student and teachers.

    ``state_dict()`` has ``student.*`` and ``distillers.*``, and no teacher except an EMA teacher's mean (in the extra
    state of ``distillers``). Validation, testing and every other use run the student alone.

    Args:
        student: Model dict, config path, ``lib::path`` or module; one that starts from trained weights, or is smaller
            than its config, is a dict of ``config``, ``checkpoint`` and ``compression`` (:mod:`perceptkd.core.start`).
        teachers: Name -> options (:class:`perceptkd.core.teacher_config.TeacherConfig`).
        distillers: Configs of :class:`perceptkd.core.distiller.Distiller`.
        distill: False trains the same student without distillation; teachers are not even built.
        dry_batch: What adapters are inferred from, and channels followed by (``build_dry_batch`` in
            :mod:`perceptkd.core.dry_run`).
        data_preprocessor: The student's, where its own dict has none.
        check_finite: Stop at a term that is NaN or infinite, naming it.
        seed: Of the random numbers of teachers and distillers; torch's initial seed (the Runner's) if None.
    """

    def __init__(
        self,
        student: Any,
        *,
        teachers: Mapping[str, Mapping[str, Any]] | None = None,
        distillers: Sequence[Any] = (),
        distill: bool = True,
        dry_batch: DryBatch | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        check_finite: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(data_preprocessor=RawBatchPreprocessor())
        self._start: Start | None = None
        if is_described(student):
            self._start = Start.parse(student, dry_batch=dry_batch, data_preprocessor=data_preprocessor)
        self.student = _build_student(student, data_preprocessor)
        self.distillers = Distillation(
            self.student,
            distillers=distillers if distill else (),
            teachers=(teachers or {}) if distill else {},
            dry_batch=dry_batch if distill else None,
            check_finite=check_finite,
            seed=seed,
        )

    @torch.compiler.disable(recursive=False)
    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor", **kwargs: Any) -> Any:
        """MMEngine's entry.

        Args:
            inputs: The raw batch as ``self.data_preprocessor`` wraps it, or, for 'predict' and 'tensor', what the
                student's own preprocessor made.
            data_samples: The samples in the second case.
            mode: 'loss' distils, 'predict' and 'tensor' are the student's.
        """
        if not isinstance(inputs, RawBatch):
            if mode == "loss":
                raise TypeError(
                    "DistillModel's losses need the raw batch: model.data_preprocessor(batch, True)['inputs']"
                )
            return self.student(inputs, data_samples, mode=mode, **kwargs)
        if mode == "loss":
            return self.loss(inputs.data)
        return self.student._run_forward(self.student.data_preprocessor(inputs.data, inputs.training), mode=mode)

    @torch.compiler.disable(recursive=False)
    def loss(self, batch: Any) -> dict[str, Any]:
        """The student's losses and the distillers' terms.

        Args:
            batch: The raw batch; nobody writes into it.
        """
        data = self.student.data_preprocessor(copy.deepcopy(batch), True)
        if not self.distillers:
            return self.student._run_forward(data, mode="loss")
        samples = copy.deepcopy(data_samples(data))  # some losses write into theirs
        with self.distillers.recording():
            losses = self.student._run_forward(data, mode="loss")
        terms = self.distillers(batch, data, samples, self.student)
        clash = losses.keys() & terms.keys()
        if clash:
            raise ValueError(f"The student's losses and the distillers' share the names {sorted(clash)}")
        return {**losses, **terms}

    def init_weights(self) -> None:
        """Initialise the student as the Runner would without distillation; then what it starts from or inherits."""
        if self.is_init:  # type: ignore[has-type]
            return
        self.student.init_weights()
        if self._start is not None:
            self._start.load(self.student)
        self.distillers.start(self.student)
        self.is_init = True

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        if state_dict and not any(key.startswith(f"{prefix}student.") for key in state_dict):
            raise InputError(
                "These weights are not those of a DistillModel: none is named 'student.*'. A student that starts from "
                "the weights of a detector is student=dict(config=, checkpoint=); load_from= is for checkpoints of "
                "distillations"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _set_device(self, device: torch.device) -> None:
        super()._set_device(device)
        self.distillers.set_device(device)


def _build_student(student: Any, data_preprocessor: Mapping[str, Any] | None) -> Any:
    if isinstance(student, nn.Module):
        return student
    source = read_model_source(student)
    if data_preprocessor is not None:
        source.model.setdefault("data_preprocessor", dict(data_preprocessor))
    return build_model(source)
