"""The distillers of a model together with their teachers: everything of DistillModel that is not the student."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn
from torch import distributed as dist

from perceptkd.core.batch import input_size
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.dry_run import DryBatch, adapter_table, build_dry_batch, collect_shapes, format_table
from perceptkd.core.errors import InputError
from perceptkd.core.random_state import isolated_random_state, seed_words
from perceptkd.core.selection import choose_channels
from perceptkd.core.start import inherit_modules
from perceptkd.core.tap import Tap, TapCollector, TapSpec
from perceptkd.core.teacher import CachedTeacher, EMATeacher, Teacher, build_teacher
from perceptkd.registry import DISTILLERS


class Distillation(nn.ModuleDict):
    """Distillers by name; what they train is saved as ``distillers.<name>.*``.

    The holders in :attr:`teachers` are no modules. The state of the random numbers and of EMA teachers is the extra
    state of this module, so that a resumed run goes on exactly.

    Args:
        student: The student.
        distillers: Configs of :class:`Distiller`, or distillers.
        teachers: Name -> options of a teacher.
        dry_batch: What adapters are inferred from, see :func:`perceptkd.core.dry_run.build_dry_batch`.
        check_finite: Stop at a term that is NaN or infinite.
        seed: Of all random numbers of teachers and distillers; torch's initial seed (the Runner's) if None.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        distillers: Sequence[Any],
        teachers: Mapping[str, Mapping[str, Any]],
        dry_batch: DryBatch | None = None,
        check_finite: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.check_finite = check_finite
        self.seed = torch.initial_seed() % 2**32 if seed is None else seed
        self.steps = 0
        self.teachers: dict[str, Teacher] = {}
        with isolated_random_state(self.seed):
            for config in distillers:
                self._insert(config if isinstance(config, Distiller) else _build_distiller(config))
            self._build_teachers(student, teachers)
            self._build_adapters(student, dry_batch)
        self.student_taps = TapCollector(student, self._student_specs(), owner="student")
        for distiller in self.each():
            if not distiller.trains:
                distiller.requires_grad_(False)  # DDP must not wait for gradients that cannot come
            distiller.check_geometry(*self._sides(distiller, self.student_taps.specs, self._teacher_specs()))

    def each(self) -> Iterator[Distiller]:
        """The distillers in order."""
        for distiller in self.values():
            assert isinstance(distiller, Distiller)
            yield distiller

    def start(self, student: nn.Module) -> None:
        """Give the student, which is initialised, the modules that distillers say it inherits."""
        for distiller in self.each():
            if distiller.inherit:
                inherit_modules(student, self.teachers[distiller.teachers[0]], distiller.inherit, owner=distiller.name)

    def recording(self) -> AbstractContextManager[None]:
        """Keep the student's taps from here to the end of the block."""
        return self.student_taps.recording()

    @torch.compiler.disable  # a compiled training step is the student's; teachers are compiled by their own option
    def forward(self, batch: Any, data: Any, samples: Any, student: nn.Module) -> dict[str, Tensor]:
        """Run the teachers and all distillers on the recorded step.

        Args:
            batch: The raw batch.
            data: What the student's preprocessor made of it.
            samples: Those of ``data``, as they were before the student's losses.
            student: The student.

        Returns:
            Per term ``loss_kd/<name>/<term>`` (weighted), ``kd/<name>/<term>`` and ``kd/<name>/<term>_weight``.
        """
        taps = self.student_taps.taps(input_size=input_size(data))
        self.steps += self.training
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        key = (self.seed, self.steps, rank)
        step = self._step(batch, samples, student, key)
        logs: dict[str, Tensor] = {}
        with self._cleared(), isolated_random_state(*key):
            teacher_taps = {name: self._ask(teacher, batch, student) for name, teacher in self.teachers.items()}
            for distiller in self.each():
                with torch.set_grad_enabled(torch.is_grad_enabled() and distiller.trains):
                    terms = distiller(*self._sides(distiller, taps, teacher_taps), step)
                logs |= self._weighted(distiller, terms, step.progress)
        return logs

    def get_extra_state(self) -> Tensor | dict[str, Any]:
        """What a resumed run needs besides weights. Tensors only, because checkpoints are moved to the CPU.

        Without a running mean it is a single tensor: MMEngine broadcasts every entry of the initial state to all ranks.
        """
        random = torch.tensor([self.seed, self.steps])
        averaged = {
            name: t.state_dict() for name, t in self.teachers.items() if isinstance(t, EMATeacher) and t.started
        }
        return {"random": random, "ema": averaged} if averaged else random

    def set_extra_state(self, state: Tensor | Mapping[str, Any]) -> None:
        random, averaged = (state, {}) if isinstance(state, Tensor) else (state["random"], state["ema"])
        self.seed, self.steps = (int(value) for value in random)
        for name, weights in averaged.items():
            teacher = self.teachers.get(name)
            if isinstance(teacher, EMATeacher):
                teacher.load_state_dict(weights)

    def set_device(self, device: torch.device) -> None:
        """Tell teachers where batches go."""
        for teacher in self.teachers.values():
            teacher.set_device(device)

    def _apply(self, fn: Any, recurse: bool = True) -> "Distillation":
        """Take the teachers along to another device or type."""
        for teacher in self.teachers.values():
            teacher.apply(fn)
        return super()._apply(fn, recurse)

    @contextmanager
    def _cleared(self) -> Iterator[None]:
        """Drop all taps at the end of the step, with the memory they hold."""
        try:
            yield
        finally:
            self.student_taps.clear()
            for teacher in self.teachers.values():
                teacher.clear()

    def _ask(self, teacher: Teacher, batch: Any, student: nn.Module) -> dict[str, Tap]:
        if isinstance(teacher, EMATeacher) and self.training:
            teacher.update(student)
        return teacher.collect(batch)

    def _weighted(self, distiller: Distiller, terms: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        if self.check_finite and not torch.stack([value.detach() for value in terms.values()]).isfinite().all():
            bad = {term: float(value.detach()) for term, value in terms.items() if not value.isfinite()}
            raise FloatingPointError(
                f"Distillation terms of '{distiller.name}' are not finite: {bad}. Look at its taps and weights, or set "
                "check_finite=False where a loss scaler should skip such steps."
            )
        logs = {}
        for term, value in terms.items():
            weight = distiller.weight(term, progress)
            logs[f"loss_kd/{distiller.name}/{term}"] = value * weight
            logs[f"kd/{distiller.name}/{term}"] = value.detach()
            logs[f"kd/{distiller.name}/{term}_weight"] = value.new_tensor(weight)
        return logs

    def _step(self, batch: Any, samples: Any, student: nn.Module, key: Sequence[int]) -> Step:
        hub = MessageHub.get_current_instance()
        iteration, total = int(hub.get_info("iter", 0)), int(hub.get_info("max_iters", 0))
        device = next(student.parameters()).device
        return Step(
            batch=batch,
            data_samples=samples,
            progress=min(1.0, iteration / total) if total else 0.0,
            iteration=iteration,
            student_model=student,
            teacher_models={name: t.model for name, t in self.teachers.items() if t.model is not None},
            stored_classes={n: t.cache.classes for n, t in self.teachers.items() if isinstance(t, CachedTeacher)},
            generator=torch.Generator(device).manual_seed(seed_words(*key)[3]),
        )

    def _insert(self, distiller: Distiller) -> None:
        if distiller.name in self:
            raise InputError(f"Two distillers are called '{distiller.name}': give one of them name=")
        self[distiller.name] = distiller

    def _student_specs(self) -> dict[str, TapSpec]:
        return {f"{each.name}/{alias}": spec for each in self.each() for alias, spec in each.student_taps.items()}

    def _teacher_specs(self) -> dict[str, dict[str, TapSpec]]:
        return {name: teacher.specs for name, teacher in self.teachers.items()}

    @staticmethod
    def _sides(
        distiller: Distiller, student: Mapping[str, Any], teachers: Mapping[str, Mapping[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What of all taps (or specs) one distiller sees, under its own aliases."""
        both = ({}, {})  # type: tuple[dict[str, Any], dict[str, Any]]
        for side, sources in zip(both, ([student], [teachers[name] for name in distiller.teachers])):
            for source in sources:
                prefix = f"{distiller.name}/"
                side.update({k.removeprefix(prefix): v for k, v in source.items() if k.startswith(prefix)})
        return both

    def _build_teachers(self, student: nn.Module, options: Mapping[str, Mapping[str, Any]]) -> None:
        wanted = {name for distiller in self.each() for name in distiller.teachers}
        if wanted != set(options):
            raise InputError(f"The distillers learn from {sorted(wanted)}, but teachers= has {sorted(options)}")
        for name, teacher in options.items():
            taps = {
                f"{distiller.name}/{alias}": spec
                for distiller in self.each()
                for alias, spec in distiller.teacher_taps.get(name, {}).items()
            }
            built = self.teachers[name] = build_teacher(name, teacher, taps, student=student)
            if isinstance(built, CachedTeacher):
                for distiller in self.each():
                    specs = list(distiller.teacher_taps.get(name, {}).values())
                    built.cache.check_reach(distiller.name, distiller.teacher_reach(), specs)

    def _build_adapters(self, student: nn.Module, dry_batch: DryBatch | None) -> None:
        if dry_batch is None:
            for distiller in self.each():
                distiller.build_adapters()
            return
        batch = build_dry_batch(dry_batch)
        taps, teacher_taps = collect_shapes(student, self._student_specs(), list(self.teachers.values()), batch)
        rows = []
        for distiller in self.each():
            sides = self._sides(distiller, taps, teacher_taps)
            choose_channels(distiller, student, sides[0], self.teachers, batch)
            distiller.build_adapters(*sides)
            rows += adapter_table(distiller, *sides)
        print_log(f"Adapters:\n{format_table(rows)}", "current")


def _build_distiller(config: Mapping[str, Any]) -> Distiller:
    """Build by type, whatever the default scope is: distillers are nobody's but ours."""
    options = dict(config)
    kind = options.pop("type", None)
    found = DISTILLERS.get(kind) if isinstance(kind, str) else None
    if found is None:
        known = ", ".join(sorted(DISTILLERS.module_dict))
        raise InputError(f"There is no distiller {kind!r}; there are {known}. Name one of them as its type=")
    return found(**options)
