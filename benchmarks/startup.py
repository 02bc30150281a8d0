#!/usr/bin/env python3
"""Times what a newcomer does first: install, import, simulated world, demo and tests, in a fresh clone.

The clone is of the committed state and lies in a temporary folder, with an empty HOME and an empty package cache, so
that nothing installed by hand or downloaded before can help. The tests run as in continuous integration, where calling
a compiler fails. Takes about half an hour; leave the machine alone meanwhile.

Example:
    python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from measure import Row, single_row, write_results

from perceptkd.cli.demo import MODELS
from perceptkd.cli.provenance import ROOT, revision

FOLDER = ROOT / "work_dirs/startup"
IMPORTS = 20
IMPORT_TARGET_S, WORLD_TARGET_S, DEMO_TARGET_MIN, CI_TARGET_MIN = 1.0, 180.0, 15.0, 25.0
TIMED_IMPORT = "import time; start = time.perf_counter(); import perceptkd; print(time.perf_counter() - start)"


def seconds(*command: str, folder: Path, home: Path) -> float:
    """Seconds a command takes in a folder; what it prints goes to the terminal."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=newcomer(home), check=True)
    return time.perf_counter() - start


def import_seconds(python: str, *, folder: Path, home: Path) -> float:
    """Seconds a new process takes to import the package."""
    command = (python, "-c", TIMED_IMPORT)
    return float(subprocess.run(command, cwd=folder, env=newcomer(home), check=True, capture_output=True).stdout)


def newcomer(home: Path) -> dict[str, str]:
    """The environment of somebody whose home is empty."""
    home.mkdir(exist_ok=True)
    return {**os.environ, "HOME": str(home), "PIP_CACHE_DIR": str(home / "pip"), "PYTHONPATH": ""}


def demo_row(name: str, metrics: Mapping[str, float]) -> Row:
    """What a model of the demo reached, in points."""
    near_map, official_map, nds = (round(metrics[key], 1) for key in ("near_mAP", "mAP", "NDS"))
    return single_row(f"demo, {name}", near_map, unit="near_mAP", note=f"mAP {official_map}, NDS {nds}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        clone, home = Path(temporary) / "perceptkd", Path(temporary) / "home"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        measured = revision(clone)
        python = str(clone / ".venv/bin/python")
        install_s = seconds("make", "install", folder=clone, home=home)
        demo_s = seconds("make", "demo", folder=clone, home=home)  # first, before anything has warmed a cache
        ci_s = seconds(".ci/run", folder=clone, home=home)
        imports = [import_seconds(python, folder=clone, home=home) for _ in range(IMPORTS)]
        world = ("tools/create_data.py", "simworld", "--out", "data/simworld")
        world_s = seconds(python, *world, folder=clone, home=home)
        shutil.copytree(clone / "work_dirs/demo", FOLDER, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs"))
    summary = json.loads((FOLDER / "summary.json").read_text())
    print(f"summary and pictures of the demo: {FOLDER}")
    import_s = round(statistics.median(imports), 3)
    rows = [
        single_row("make install, empty cache", round(install_s), unit="s"),
        single_row("import perceptkd", import_s, unit="s", target=IMPORT_TARGET_S, note=f"median of {IMPORTS}"),
        single_row(
            "simulated v1.0-mini", round(world_s), unit="s", target=WORLD_TARGET_S, note="10 scenes, 400 frames"
        ),
        single_row(
            "make demo and its install", round((install_s + demo_s) / 60, 1), unit="min", target=DEMO_TARGET_MIN
        ),
        single_row(
            "install and .ci/run",
            round((install_s + ci_s) / 60, 1),
            unit="min",
            target=CI_TARGET_MIN,
            note="lint, types, tests",
        ),
        *(demo_row(name, summary[name]) for name in MODELS),
    ]
    write_results("startup", rows, backends=summary["backends"], world=summary["world"], revision=measured)


if __name__ == "__main__":
    main()
