"""The package as users meet it: a light import, a registry that needs no custom import, a wheel that works alone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light():
    loaded = run_python("import sys, perceptkd; print(' '.join(sys.modules))").split()
    assert "perceptkd" in loaded
    assert not {"torch", "numpy", "mmengine", "mmcv", "spconv", "open3d", "gsplat"} & set(loaded)


@pytest.mark.parametrize("scope", ["mmengine", "mmdet", "mmdet3d"])
def test_types_are_found_from_any_default_scope(scope):
    found = run_python(
        "from mmengine.registry import MODELS, DefaultScope\n"
        "import perceptkd.compat\n"
        f"DefaultScope.get_instance('test', scope_name='{scope}')\n"
        "print(MODELS.get('perceptkd.DistillModel').__name__)"
    )
    assert found.strip().endswith("DistillModel")


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(repository)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_contains_the_configs_and_the_command(wheel: Path, repository: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    configs = {f"perceptkd/.mim/{path.relative_to(repository)}" for path in repository.glob("configs/**/*.py")}
    assert configs
    assert configs <= names
    (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    assert "perceptkd = perceptkd.cli.console:main" in archive.read(entry_points).decode().splitlines()


@pytest.mark.slow
def test_installed_wheel_needs_no_checkout(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)

    def run(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(target)}
        return subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
        ).stdout

    code = (
        "from perceptkd.core.source import load_config\n"
        "config = load_config('perceptkd::unidistill/unidistill_lidar2camera_sim.py')\n"
        "print(config.filename, config.model.student.type, load_config(config.model.teachers.lidar.config).model.type)"
    )
    path = target / "perceptkd/.mim/configs/unidistill/unidistill_lidar2camera_sim.py"
    assert run(sys.executable, "-c", code).split() == [str(path), "perceptkd.BEVDetector", "perceptkd.BEVDetector"]
    assert "perceptkd COMMAND" in run(str(target / "bin/perceptkd"), "--help")
