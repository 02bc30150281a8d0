"""Paired timing and the one result form of every benchmark script.

Ours and the peer run in turn, so that a machine whose speed drifts slows both; the ratio is taken pair by pair. Its
interval is the bootstrap's central 95 % of the median ratio. Calls before the first pair warm caches and compilers and
are not counted.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from perceptkd.cli.provenance import provenance, write_json

SPCONV = "spconv==2.3.8"  # the peer of sparse convolution and voxelization
RESULTS = Path(__file__).parent / "results"
LOAD_AT_START = os.getloadavg()[0]  # over the last minute before the script
Row = dict[str, Any]


def time_ms(function: Callable[[], Any]) -> float:
    """Wall-clock milliseconds of one call."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def paired_row(
    name: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    *,
    peer_name: str,
    target: float | None,
    pairs: int = 30,
    warm_up: int = 3,
    note: str = "",
) -> Row:
    """Times two functions in alternation.

    Args:
        target: the largest ratio ours / peer that meets the goal, or None where there is none.

    Returns:
        A row of the result form; ``ours`` and ``peer`` are median milliseconds, ``met`` is judged at ``ratio_high``.
    """
    for _ in range(warm_up):
        ours()
        peer()
    times = np.array([(time_ms(ours), time_ms(peer)) for _ in range(pairs)])
    ratios = times[:, 0] / times[:, 1]
    resampled = np.median(np.random.default_rng(0).choice(ratios, (2000, pairs)), axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {
        "name": name,
        "ours": round(statistics.median(times[:, 0]), 3),
        "peer": round(statistics.median(times[:, 1]), 3),
        "peer_name": peer_name,
        "unit": "ms",
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_low": round(float(low), 3),
        "ratio_high": round(float(high), 3),
        "target": target,
        "met": None if target is None else bool(high <= target),
        "note": note or f"{pairs} alternating pairs",
    }


def single_row(
    name: str,
    ours: float | None,
    *,
    unit: str,
    peer: float | None = None,
    peer_name: str | None = None,
    target: float | None = None,
    note: str = "",
) -> Row:
    """A figure that is measured once, as is its peer's where there is one; the ratio of the two has no interval.

    ``ours`` is None where it could not be measured, and ``note`` then says why.
    """
    met = None if target is None or ours is None else bool(ours <= target)
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "unit": unit,
        "ratio": round(ours / peer, 3) if ours is not None and peer else None,
        "ratio_low": None,
        "ratio_high": None,
        "target": target,
        "met": met,
        "note": note,
    }


def extra_memory_mib(function: Callable[[], Any]) -> float:
    """How far a call raises the peak memory of a process that has its inputs, from a fork of this one (on Linux).

    What earlier work has freed goes back to the system first: a call that is given it again would seem to take less.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            function()
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os.write(write_end, str(grown).encode())
            os._exit(0)
        except BaseException:  # whoever called must not go on twice
            traceback.print_exc()
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        grown = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not grown:
        raise RuntimeError(f"the process that measures memory failed with status {status}")
    return round(int(grown) / 1024, 1)


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns in a process of its own, whose memory no other work has touched."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def write_results(name: str, rows: Sequence[Row], *, backends: dict[str, Any], **extra: Any) -> Path:
    """Writes ``benchmarks/results/<name>_<device>.json`` and prints the rows; ``extra`` are further keys."""
    source = provenance()
    device = source["device"].lower().replace(" ", "-")
    path = RESULTS / f"{name}_{device}.json"
    write_json(
        path, {**source, "load_at_start": round(LOAD_AT_START, 2), "backends": backends, **extra, "rows": list(rows)}
    )
    for row in rows:
        peer = "" if row["peer"] is None else f"  {row['peer_name']} {row['peer']}  ratio {row['ratio']}"
        goal = "" if row["target"] is None else f"  target {row['target']} {'met' if row['met'] else 'not met'}"
        print(f"{row['name']}: {row['ours']} {row['unit']}{peer}{goal}  {row['note']}")
    print(path)
    return path
