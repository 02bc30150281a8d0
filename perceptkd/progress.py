"""Progress bars: drawn all the time on a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 60.0


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A ``tqdm`` on standard error; where that is no terminal, a minute lies between two of its lines.

    Args:
        iterable: What to count; without it, count with ``update``.
        options: As ``tqdm`` takes them.
    """
    if not sys.stderr.isatty():
        options = {"mininterval": LOG_INTERVAL_S, "maxinterval": LOG_INTERVAL_S, **options}
    return tqdm(iterable, **options)
