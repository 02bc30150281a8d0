"""docs/benchmarks.md says what benchmarks/results/ says."""

import subprocess
import sys


def test_page_is_current(repository):
    command = [sys.executable, "benchmarks/render.py", "--check"]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
