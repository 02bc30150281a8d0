"""The holder of a teacher that is read from a store."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perceptkd.core.cache import TeacherCache
from perceptkd.core.cache_key import SampleKey, sample_keys
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.core.teacher_config import active_precision


class CachedTeacher:
    """A teacher's stored outputs, read by sample and content in place of running it.

    Args:
        name: Its name in the config.
        taps: As for any teacher.
        cache: The store.
        precision: See :class:`perceptkd.core.teacher_config.TeacherConfig`. A store that was computed in another one is
            refused at the first step, when the student's is known.
    """

    model = None

    def __init__(
        self, name: str, taps: Mapping[str, TapSpec], *, cache: TeacherCache, precision: str = "student"
    ) -> None:
        self.name = name
        self.cache = cache
        self.precision = precision
        self.specs = {alias: cache.stored_tap(spec) for alias, spec in taps.items()}
        self.device = torch.device("cpu")

    def __deepcopy__(self, memo: dict[int, Any]) -> "CachedTeacher":
        return self

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Nothing to move: outputs are read onto the device they are needed on."""

    def set_device(self, device: torch.device) -> None:
        self.device = device

    def clear(self) -> None:
        """Nothing is kept."""

    def collect(self, batch: Any) -> dict[str, Tap]:
        """Read the taps of the samples in the raw batch."""
        self.cache.check_precision(active_precision(self.precision, self.device))
        return self._read(sample_keys(batch))

    def example(self, batch: Any) -> dict[str, Tap]:
        """The taps of some stored sample, whatever the batch: for who needs their shapes alone."""
        return self._read([self.cache.first_key()])

    def _read(self, keys: Sequence[SampleKey]) -> dict[str, Tap]:
        owner = f"cached teacher '{self.name}'"
        return {
            alias: Tap(spec, [self.cache.read(keys, spec, device=self.device)], owner)
            for alias, spec in self.specs.items()
        }
