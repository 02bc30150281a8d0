"""docs/benchmarks.md says what benchmarks/results/ says."""

import json
import subprocess
import sys

import compare_page
import pytest


def test_page_is_current(repository):
    command = [sys.executable, "benchmarks/render.py", "--check"]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


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
