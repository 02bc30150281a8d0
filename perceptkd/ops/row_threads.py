"""Shares the rows of a numba kernel among threads.

The kernels release the GIL, so plain threads do. numba's own ``prange`` is not used: its OpenMP pool ends every worker
process that is forked after its first use, as data loaders fork theirs, and its other pool two calls at a time.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def share_rows(function: Callable[[int, int], object], rows: int, *, smallest_share: int) -> None:
    """Calls ``function(start, stop)`` for parts of ``range(rows)``, one per thread and at most torch's number of them.

    Args:
        function: works on the rows from start to stop, on no others, and releases the GIL.
        rows: how many there are; nothing is called when there are none.
        smallest_share: rows that are worth a thread.

    >>> seen = []
    >>> share_rows(lambda start, stop: seen.append((start, stop)), 10, smallest_share=20)
    >>> seen
    [(0, 10)]
    """
    threads = max(1, min(torch.get_num_threads(), rows // max(1, smallest_share)))
    if threads == 1:
        if rows:
            function(0, rows)
        return
    bounds = [rows * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(function, *bounds[part : part + 2]) for part in range(threads)]:
            done.result()
