"""Random numbers for teachers and distillers that the student's training does not notice."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_random_state(*key: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's random state from ``key``, and put back what was there on the way out.

    With this a teacher with dropout leaves the student's dropout, and so its gradients, bit for bit as they were.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  (mm samplers draw from it)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        words = seed_words(*key)
        random.seed(words[0])
        np.random.seed(words[1])  # noqa: NPY002
        torch.default_generator.manual_seed(words[2])
        if devices:
            torch.cuda.manual_seed(words[2])
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def seed_words(*key: int) -> list[int]:
    """Four independent 32-bit seeds, a pure function of the key.

    >>> seed_words(0, 1) == seed_words(0, 1), seed_words(0, 1) == seed_words(1, 0)
    (True, False)
    """
    return [int(word) for word in np.random.SeedSequence([abs(part) for part in key]).generate_state(4)]
