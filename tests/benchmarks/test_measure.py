"""What benchmarks/measure.py writes about the machine, and how it measures memory."""

import functools
import json
import operator
from pathlib import Path

import measure
import pytest


def test_results_say_how_busy_the_machine_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(measure, "LOAD_AT_START", 1.25)
    row = measure.single_row("voxels", 3.0, unit="cells")
    path = measure.write_results("example", [row], backends={})
    written = json.loads(path.read_text())
    assert written["load_at_start"] == 1.25
    assert written["rows"] == [row]


def test_memory_is_the_peak_of_the_call_alone() -> None:
    written = functools.partial(operator.mul, b"x", 64 * 2**20)
    assert 60 < measure.in_new_process(measure.extra_memory_mib, written) < 75


def test_memory_that_was_freed_before_counts_where_it_is_taken_again() -> None:
    def write() -> list[bytes]:
        return [b"x" * 2**16 for _ in range(2**10)]

    written = write()
    del written[:-1]  # the last one keeps the others' place from going back to the system by itself
    assert 60 < measure.extra_memory_mib(write) < 75


def test_a_figure_has_a_ratio_where_it_has_a_peer() -> None:
    row = measure.single_row("memory", 3.0, unit="MiB", peer=2.0, peer_name="other")
    assert (row["peer"], row["peer_name"], row["ratio"], row["ratio_low"]) == (2.0, "other", 1.5, None)
    assert measure.single_row("memory", 3.0, unit="MiB", peer=0.0, peer_name="other")["ratio"] is None
    assert measure.single_row("memory", None, unit="MiB", note="no device")["ratio"] is None


def test_a_call_that_fails_ends_in_the_process_that_measures_it(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="the process that measures memory failed"):
        measure.extra_memory_mib(lambda: 1 / 0)
    assert "ZeroDivisionError" in capfd.readouterr().err
