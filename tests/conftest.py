"""Shared settings of the test suite: our own ops, one thread, a seed for every test."""

import os

os.environ["PERCEPTKD_OPS"] = "own"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the suite runs in as many processes as there are cores
os.environ.setdefault("MPLBACKEND", "Agg")

import random
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported, which any test may do

import perceptkd.compat  # noqa: F401  (tests import mmdet3d in any order)

SLOW_SHARE = 0.5
SLOW_SEED_VARIABLE = "PERCEPTKD_SLOW_SEED"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", choices=("all", "sample", "none"), default="all", help="which slow tests to run")
    parser.addoption("--slow-seed", type=int, help="chooses the sample of slow tests (default: another one every day)")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed once: the processes of xdist inherit it, so that they run the same sample after midnight."""
    if config.option.slow_seed is None:
        config.option.slow_seed = int(os.environ.setdefault(SLOW_SEED_VARIABLE, str(date.today().toordinal())))


def pytest_report_header(config: pytest.Config) -> str:
    """What repeats this run's choice of slow tests."""
    return f"slow tests: --slow={config.option.slow} --slow-seed={config.option.slow_seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run and the slow tests that were not asked for."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    slow = sorted((item for item in items if "slow" in item.keywords), key=lambda item: item.nodeid)
    mode, seed = config.option.slow, config.option.slow_seed
    share = {"all": 1.0, "sample": SLOW_SHARE, "none": 0.0}[mode]
    chosen = random.Random(seed).sample(slow, round(len(slow) * share))
    reason = f"slow, and not in the sample (--slow={mode} --slow-seed={seed}; --slow=all runs it)"
    for item in slow:
        if item not in chosen:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (mmdet3d's transforms draw from the global state)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def without_what_others_left() -> Iterator[None]:
    """No test sees what an earlier one set for its process: the default scope, and loggers to streams now closed."""
    with (
        patch.object(DefaultScope, "_instance_dict", OrderedDict()),
        patch.object(MMLogger, "_instance_dict", OrderedDict()),
    ):
        yield


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every kind of device that the test must pass on."""
    return request.param


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def authors_file() -> Callable[[str, str], Path]:
    """authors_file("TIGBEV", name) -> that file in the clone which PERCEPTKD_TIGBEV_REFERENCE names; else a skip."""

    def find(method: str, name: str) -> Path:
        variable = f"PERCEPTKD_{method}_REFERENCE"
        root = os.environ.get(variable)
        if not root:
            pytest.skip(f"{variable} does not name a clone of the authors' repository")
        path = next(Path(root).rglob(name), None)
        assert path is not None, f"no {name} under {root}"
        return path

    return find


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., list[Any]]:
    """run_ranks(script, folder, *arguments, count=2) -> what each process saved.

    They are ``python script RANK FOLDER *arguments``; each saves ``FOLDER/RANK.pt`` and then
    leaves the group by ``leave_processes``, without which it may abort at its end. All of them end with the test.
    """

    def run(script: Path | str, folder: Path, *arguments: str, count: int = 2, timeout_s: float = 600) -> list[Any]:
        processes = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank), str(folder), *arguments],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        try:
            errors = [process.communicate(timeout=timeout_s)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0] * count, "\n".join(errors)
        return [torch.load(folder / f"{rank}.pt") for rank in range(count)]

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real check data; the test is skipped where there is none."""
    folder = os.environ.get("PERCEPTKD_REAL_DATA")
    if not folder:
        pytest.skip("PERCEPTKD_REAL_DATA is not set")
    if not Path(folder).is_dir():
        pytest.fail(f"PERCEPTKD_REAL_DATA={folder} is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nuScenes data root: scene-0061 (mini_train) and scene-0103 (mini_val), 3 key frames, 1 sweep, 200x112."""
    from perceptkd.datasets.simworld.writers.nuscenes import write_nuscenes_world
    from perceptkd.datasets.simworld.writers.plan import plan_mini

    root = tmp_path_factory.mktemp("simworld") / "nuscenes"
    write_nuscenes_world(plan_mini(2, num_keyframes=3, sweeps=1, image_size=(200, 112)), root)
    return root


@pytest.fixture(scope="session")
def tiny_kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A KITTI data root with one scene each for train, val and test; 2 frames per scene, images of 414x125."""
    from perceptkd.datasets.simworld.writers.kitti import write_kitti_world
    from perceptkd.datasets.simworld.writers.plan import plan_kitti

    root = tmp_path_factory.mktemp("simworld") / "kitti"
    splits = {"train": 1, "tune": 1, "report": 1}
    write_kitti_world(plan_kitti("kitti", splits, num_keyframes=2, sweeps=0, image_size=(414, 125)), root)
    return root


@pytest.fixture(scope="session")
def tiny_semantickitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SemanticKITTI data root with sequence 00 (train, scene-0001) and 01 (val, scene-0003), of 2 scans each."""
    from perceptkd.datasets.simworld.writers.plan import plan_kitti
    from perceptkd.datasets.simworld.writers.semantickitti import write_semantickitti_world

    root = tmp_path_factory.mktemp("simworld") / "semantickitti"
    write_semantickitti_world(
        plan_kitti("semantickitti", {"train": 1, "tune": 1}, num_keyframes=2, sweeps=0, image_size=(1242, 375)), root
    )
    return root
