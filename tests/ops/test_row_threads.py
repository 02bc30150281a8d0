"""Rows shared among threads: every row once, in as many parts as pay."""

import threading

import pytest
import torch

from perceptkd.ops.row_threads import share_rows


@pytest.mark.parametrize(
    ("rows", "smallest_share", "parts"), [(0, 1, 0), (10, 20, 1), (10, 5, 2), (10, 1, 3), (2, 1, 2), (100, 1, 3)]
)
def test_every_row_once(monkeypatch: pytest.MonkeyPatch, rows: int, smallest_share: int, parts: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    calls = []
    share_rows(lambda start, stop: calls.append((start, stop)), rows, smallest_share=smallest_share)
    assert len(calls) == parts
    assert [row for start, stop in sorted(calls) for row in range(start, stop)] == list(range(rows))


def test_parts_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    both = threading.Barrier(2, timeout=30)  # breaks unless two wait at a time
    arrived = []
    share_rows(lambda *_: arrived.append(both.wait()), 2, smallest_share=1)
    assert sorted(arrived) == [0, 1]


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def fail(start: int, stop: int) -> None:
        if start:
            raise RuntimeError(f"row {start}")

    with pytest.raises(RuntimeError, match="row 5"):
        share_rows(fail, 10, smallest_share=1)
