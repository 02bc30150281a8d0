"""The package as users meet it: a light import, a registry that needs no custom import, a wheel with the configs."""

import subprocess
import sys
import zipfile

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


@pytest.mark.slow
def test_wheel_contains_the_configs(repository, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(repository)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"perceptkd/.mim/{path.relative_to(repository)}" for path in repository.glob("configs/**/*.py")}
    assert configs
    assert configs <= names
