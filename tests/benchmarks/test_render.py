"""docs/benchmarks.md says what benchmarks/results/ says."""

import json
import subprocess
import sys

import compare_page
import pytest
import render
from measure import single_row


def test_page_is_current(repository):
    command = [sys.executable, "benchmarks/render.py", "--check"]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_ratio_without_an_interval_is_shown_alone(repository, tmp_path):
    stored = json.loads((repository / "benchmarks/results/nuscenes_eval_cpu.json").read_text())
    row = single_row("memory", 3.0, unit="MiB", peer=2.0, peer_name="other")
    path = tmp_path / "example.json"
    path.write_text(json.dumps({**stored, "rows": [row]}))
    assert "| memory | 3.0 | 2.0 (other) | MiB | 1.5 |  |  |  |" in render.rows_section(path)


@pytest.mark.parametrize("variant", ["", ".published"])
def test_a_comparison_says_what_its_config_is_called_now(repository, tmp_path, variant):
    stored = repository / "benchmarks/results/compare/unidistill_lidar2camera_sim_long.json"
    content = {**json.loads(stored.read_text()), "config": "configs/unidistill/old.py"}
    sentence = "At that revision the config was called `old.py`; now it is `{}.py`."
    for stem, renamed in (("new", True), ("old", False)):
        path = tmp_path / f"{stem}{variant}.json"
        path.write_text(json.dumps(content))
        section = compare_page.compare_sections([path])[-1]
        assert (sentence.format(stem) in section) == renamed
        assert ("was called" in section) == renamed
