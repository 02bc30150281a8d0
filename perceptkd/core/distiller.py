"""The base class of every distillation method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perceptkd.core.align import AdapterConfig, build_pair_adapter
from perceptkd.core.box_reach import BoxReach
from perceptkd.core.class_map import ClassMap
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import check_pair
from perceptkd.core.tap import Taps, TapSpec, parse_tap
from perceptkd.core.weight import build_weight


@dataclass
class Step:
    """What a distiller may look at besides taps, in one training step. Nothing in it may be written to.

    Attributes:
        batch: The raw batch, as the data loader made it.
        data_samples: The student's samples after its own preprocessor: ground truth on the training device.
        progress: How much of the training is done, in [0, 1].
        iteration: Iterations done.
        student_model: The student.
        teacher_models: Teachers by name, frozen; gradients flow through them to what they are fed with. A cached
            teacher has no model and is not in here.
        stored_classes: Of cached teachers by name, the class names of their heads as their stores know them: one list
            per task, None if the head did not say.
        generator: Random numbers that the student's training does not notice and that a resumed run repeats.
    """

    batch: Any = None
    data_samples: Any = None
    progress: float = 0.0
    iteration: int = 0
    student_model: nn.Module | None = None
    teacher_models: Mapping[str, nn.Module] = field(default_factory=dict)
    stored_classes: Mapping[str, list[list[str]] | None] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)


class Distiller(nn.Module):
    """One published method: it declares taps and weights, and turns tapped features into losses.

    A method overrides the class attributes and :meth:`loss`; its heads and adapters are ordinary sub-modules, which are
    trained and saved as ``distillers.<name>.*`` and are no part of the exported student.

    Args:
        teacher: Name of the teacher to learn from, or several names.
        weights: Term -> number or schedule (see :mod:`perceptkd.core.weight`), over ``default_weights``.
        student_taps: Alias -> tap, over ``default_student_taps``.
        teacher_taps: Alias -> tap, over ``default_teacher_taps``; with several teachers name -> (alias -> tap).
        adapters: Alias -> ``'auto'``, None or an adapter config (see :mod:`perceptkd.core.align`).
        class_map: Class of the student -> class or classes of the teacher, for heads that know other classes; classes
            that it does not name have the same name on both sides. None asks for equal classes.
        inherit: Modules of the student, by path, that start with the weights of the teacher's modules of the same
            paths, as the releases of FGD and MGD (``init_student``, all but the backbone) and DistillBEV
            (``inherit_head``) have it; part of the distillation, and so not done in its control.
        name: What the terms are logged under; the class name in lower case if None.
    """

    default_weights: ClassVar[Mapping[str, Any]] = {}
    default_student_taps: ClassVar[Mapping[str, Any]] = {}
    default_teacher_taps: ClassVar[Mapping[str, Any]] = {}
    #: Aliases that both sides tap are paired. 'auto' adapts the student's channels and size to the teacher's, None
    #: hands both to ``loss`` as they are (relations and predictions), a dict fixes the adapter.
    default_adapters: ClassVar[Mapping[str, Any]] = {}
    #: Aliases whose maps a method reads at places in metres, so that the sizes of the two sides may differ.
    sampled_aliases: ClassVar[frozenset[str]] = frozenset()
    #: A method that calls ``canonical_bev`` itself sets this, and may then pair maps of different declared layouts.
    layout_aware: ClassVar[bool] = False
    #: Whether the method pairs heads through :func:`perceptkd.core.heads.pair_heads`, which follows ``class_map``.
    maps_classes: ClassVar[bool] = False
    #: Terms that compare more than the annotated objects, and so need not be zero on samples without any.
    background_terms: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        *,
        teacher: str | Sequence[str] = "teacher",
        weights: Mapping[str, Any] | None = None,
        student_taps: Mapping[str, Any] | None = None,
        teacher_taps: Mapping[str, Any] | None = None,
        adapters: Mapping[str, Any] | None = None,
        class_map: ClassMap | None = None,
        inherit: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name or type(self).__name__.lower()
        if class_map is not None and not self.maps_classes:
            raise InputError(f"{self.name} does not compare the classes of two heads: leave class_map out")
        self.class_map = class_map
        self.teachers = [teacher] if isinstance(teacher, str) else list(teacher)
        self.inherit = [inherit] if isinstance(inherit, str) else list(inherit)
        if self.inherit and len(self.teachers) != 1:
            raise InputError(
                f"{self.name}: inherit= takes the weights of one teacher, and it learns from {self.teachers}"
            )
        self.weights: dict[str, Any] = {**self.default_weights, **(weights or {})}
        unknown = set(weights or {}) - set(self.default_weights)
        if self.default_weights and unknown:
            raise InputError(f"{self.name} has no terms {sorted(unknown)}; it has {sorted(self.default_weights)}")
        for term in self.weights:
            self.weight(term, 0.0)  # a schedule that cannot be read is an error of the config, not of the first step
        for word in [self.name, *self.weights]:
            if "loss" in word or "." in word:
                # MMEngine adds up every logged key that contains 'loss', and '.' separates keys of a state dict.
                raise InputError(f"The name or term {word!r} of a distiller must contain neither 'loss' nor '.'")
        self.student_taps = _parse_taps({**self.default_student_taps, **(student_taps or {})})
        self.teacher_taps = self._parse_teacher_taps({**self.default_teacher_taps, **(teacher_taps or {})})
        self.adapters = nn.ModuleDict()
        self.adapter_configs = {**self.default_adapters, **(adapters or {})}
        unknown = set(self.adapter_configs) - set(self.paired_aliases)
        if unknown:
            raise InputError(f"{self.name}: adapters for {sorted(unknown)}, but the pairs are {self.paired_aliases}")
        for alias in self.paired_aliases:
            self.adapter_configs.setdefault(alias, "auto")

    @property
    def paired_aliases(self) -> list[str]:
        """Aliases that student and teacher both tap."""
        theirs = {alias for specs in self.teacher_taps.values() for alias in specs}
        return [alias for alias in self.student_taps if alias in theirs]

    @property
    def trains(self) -> bool:
        """Whether any term can ever have a weight. If none can, terms are only measured."""
        return not all(build_weight(spec).always_zero for spec in self.weights.values())

    @property
    def box_reach(self) -> BoxReach | None:
        """How far around annotated boxes the method reads the teacher's BEV maps; None where it reads the background.

        A teacher cache may then leave the rest out. A method that looks at boxes alone overrides this.
        """
        return None

    def teacher_reach(self) -> BoxReach | None:
        """:attr:`box_reach`, unless adapters on the teacher's side, with kernels and statistics, read whole maps."""
        configs = ((alias, config) for alias, config in self.adapter_configs.items() if config is not None)
        if any(AdapterConfig.parse(alias, config).side == "teacher" for alias, config in configs):
            return None
        return self.box_reach

    def weight(self, term: str, progress: float) -> float:
        """The weight of a term when ``progress`` (in [0, 1]) of the training is done."""
        return build_weight(self.weights[term])(progress)

    def build_adapters(self, student: Taps | None = None, teacher: Taps | None = None) -> None:
        """Make the adapters of all pairs, from the taps of a dry pass if there was one.

        Without a dry pass, 'auto' means that the channels must agree, which is seen at the first step.
        """
        for alias in self.paired_aliases:
            config = self.adapter_configs[alias]
            if config is not None:
                taps = (student[alias], teacher[alias]) if student is not None and teacher is not None else (None, None)
                resize = alias not in self.sampled_aliases
                self.adapters[alias] = build_pair_adapter(
                    alias, AdapterConfig.parse(alias, config), *taps, resize=resize
                )

    def check_geometry(self, student: Mapping[str, TapSpec], teacher: Mapping[str, TapSpec]) -> None:
        """Raise where pairs are BEV maps of different or partly unknown geometry.

        Args:
            student: Alias -> spec with the model's geometry filled in.
            teacher: The same of the teacher or teachers.
        """
        for alias in self.paired_aliases:
            check_pair(alias, student[alias], teacher[alias], layout_aware=self.layout_aware)

    def forward(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Align both sides and compute the losses in fp32, whatever precision the models run in.

        Returns:
            Term -> unweighted scalar.
        """
        with torch.autocast(step.generator.device.type, enabled=False):
            students = {alias: tap.map(_to_fp32) for alias, tap in student.items()}
            teachers = {alias: tap.map(_to_fp32) for alias, tap in teacher.items()}
            for alias, adapter in self.adapters.items():
                students[alias], teachers[alias] = adapter(students[alias], teachers[alias])
            terms = self.loss(students, teachers, step)
        needed = {term for term, spec in self.weights.items() if not build_weight(spec).always_zero}
        if not needed <= set(terms) <= set(self.weights):
            raise ValueError(
                f"{self.name} returned the terms {sorted(terms)} but has weights for {sorted(self.weights)}"
            )
        for term, value in terms.items():
            if value.ndim or value.dtype != torch.float32:
                shape = tuple(value.shape)
                raise ValueError(f"The term '{term}' of {self.name} must be an fp32 scalar; got {shape} {value.dtype}")
        return terms

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Compare the two sides.

        Args:
            student: Taps of the student by alias, in fp32, adapted.
            teacher: Taps of the teacher or teachers by alias, in fp32, without gradient.
            step: The rest of what is known.

        Returns:
            Term -> unweighted scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(student, teacher, step)")

    def _parse_teacher_taps(self, taps: Mapping[str, Any]) -> dict[str, dict[str, TapSpec]]:
        """Teacher name -> alias -> spec. With one teacher the config leaves its name out."""
        if len(self.teachers) == 1:
            return {self.teachers[0]: _parse_taps(taps)}
        if set(taps) != set(self.teachers):
            raise InputError(f"{self.name} learns from {self.teachers}: teacher_taps must be one dict per teacher name")
        parsed = {name: _parse_taps(taps[name]) for name in self.teachers}
        aliases = [alias for specs in parsed.values() for alias in specs]
        if len(aliases) != len(set(aliases)):
            raise InputError(f"{self.name}: the aliases of its teachers' taps must differ, got {aliases}")
        return parsed


def _parse_taps(taps: Mapping[str, Any]) -> dict[str, TapSpec]:
    return {alias: parse_tap(spec) for alias, spec in taps.items()}


def _to_fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
