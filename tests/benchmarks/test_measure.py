"""What benchmarks/measure.py writes about the machine."""

import json
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
