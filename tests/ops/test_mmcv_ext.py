"""Whose ops mmcv gets: the rule of PERCEPTKD_OPS, the missing ops, the signatures."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import mmcv
import pytest
import torch

import perceptkd.compat  # noqa: F401
from perceptkd.ops import mmcv_ext, mmcv_ext_functions

FAKE_EXTENSION = "def nms(*args, **kwargs): return 'compiled'\n"
FAKE_SETUP = "import mmcv; mmcv.__path__.append({folder!r})\n"


def run_python(code: str, choice: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PERCEPTKD_OPS": choice}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("requested", "compiled_file", "expected"),
    [
        ("own", None, "own"),
        ("own", "_ext.so", "own"),
        ("auto", None, "own"),
        ("auto", "_ext.so", "compiled"),
        ("compiled", "_ext.so", "compiled"),
    ],
)
def test_rule(requested: str, compiled_file: str | None, expected: str) -> None:
    assert mmcv_ext.choose_backend(requested, compiled_file) == expected


def test_unknown_choice_is_an_error() -> None:
    result = run_python("import perceptkd.compat", "fast")
    assert "PERCEPTKD_OPS='fast' is not a choice of ops; set it to one of own, compiled, auto" in result.stderr
    assert result.returncode != 0


def test_compiled_without_compiled_ops_is_an_error() -> None:
    with pytest.raises(ImportError, match=r"no compiled ops .* PERCEPTKD_OPS=own"):
        mmcv_ext.choose_backend("compiled", None)


@pytest.mark.parametrize(("choice", "expected"), [("own", "own"), ("auto", "compiled"), ("compiled", "compiled")])
def test_choice_where_compiled_ops_exist(tmp_path: Path, choice: str, expected: str) -> None:
    """A stand-in for a compiled module, next to mmcv's files, is found, and used or passed over by the rule."""
    (tmp_path / "_ext.py").write_text(FAKE_EXTENSION)
    code = FAKE_SETUP.format(folder=str(tmp_path)) + (
        "import perceptkd.compat, mmcv._ext\n"
        "from perceptkd.ops import mmcv_ext\n"
        "taken = 'own' if isinstance(mmcv._ext, mmcv_ext.OwnExtension) else mmcv._ext.nms()\n"
        "print('result', taken, mmcv_ext.backends()['mmcv_ops'])\n"
    )
    result = run_python(code, choice)
    assert f"result {expected} {expected}" in result.stdout, result.stderr


def test_own_after_compiled_ops_were_imported_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "_ext.py").write_text(FAKE_EXTENSION)
    code = FAKE_SETUP.format(folder=str(tmp_path)) + "import mmcv._ext\nimport perceptkd.compat\n"
    assert "import perceptkd.compat before mmcv.ops" in run_python(code, "own").stderr


def test_choice_is_logged_once() -> None:
    result = run_python("import perceptkd.compat, mmcv.ops, mmdet3d.models", "own")
    lines = [line for line in (result.stdout + result.stderr).splitlines() if "mmcv ops: " in line]
    assert len(lines) == 1
    assert "mmcv ops: own (PERCEPTKD_OPS=own, no compiled ops found)" in lines[0]


def test_backends_names_the_choice() -> None:
    assert mmcv_ext.backends() == {"mmcv_ops": "own", "mmcv_ops_request": "own"}


def test_install_is_idempotent() -> None:
    before = list(sys.meta_path)
    assert mmcv_ext.install() == "own"
    assert sys.meta_path == before


def test_missing_op_says_its_name() -> None:
    import mmcv._ext

    with pytest.raises(NotImplementedError, match=r"'no_such_op' .* PERCEPTKD_OPS=compiled"):
        mmcv._ext.no_such_op(torch.zeros(1, 4, 3))


def test_helpers_are_not_offered_as_ops() -> None:
    import mmcv._ext

    with pytest.raises(NotImplementedError, match="'Tensor'"):
        mmcv._ext.Tensor()
    assert not hasattr(mmcv._ext, "__path__")


GRID = ([1, 1, 1], [0, 0, 0, 6, 6, 3])
CALLS = {
    "nms": lambda ops, corners, _, scores: ops.nms(corners, scores, 0.3)[1],
    "soft_nms": lambda ops, corners, _, scores: ops.soft_nms(corners, scores)[0],
    "nms_rotated": lambda ops, _, turned, scores: ops.nms_rotated(turned, scores, 0.3)[1],
    "bbox_overlaps": lambda ops, corners, *_: ops.bbox_overlaps(corners, corners),
    "box_iou_rotated": lambda ops, _, turned, __: ops.box_iou_rotated(turned, turned),
    "hard_voxelize": lambda ops, _, turned, __: ops.voxelization(turned.float(), *GRID, 2, 20)[0],
    "dynamic_voxelize": lambda ops, _, turned, __: ops.voxelization(turned.float(), *GRID, -1, -1),
}


@pytest.mark.parametrize("name", CALLS)
def test_mmcv_functions_give_the_cpus_result_on_every_device(device: str, name: str) -> None:
    """Ops with a test file of their own run there; these are the others, through mmcv's wrappers."""
    import mmcv.ops

    centre, size, scores = torch.rand(80, 2).double() * 6, torch.rand(80, 2).double() * 3 + 0.5, torch.rand(80).double()
    corners = torch.cat((centre - size / 2, centre + size / 2), dim=1)
    turned = torch.cat((centre, size, torch.rand(80, 1).double() * 6), dim=1)
    arguments = (corners, turned, scores)
    expected = CALLS[name](mmcv.ops, *arguments)
    found = CALLS[name](mmcv.ops, *(argument.to(device) for argument in arguments))
    assert found.device.type == device
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("name", sorted(mmcv_ext_functions.functions()))
def test_signature_is_mmcvs(name: str) -> None:
    """Argument names and order equal those of mmcv's binding, whose source ships with mmcv."""
    source = Path(mmcv.__file__).parent / "ops/csrc/pytorch/pybind.cpp"
    if not source.is_file():
        pytest.skip(f"{source} is not part of this mmcv")
    binding = re.search(rf'm\.def\(\s*"{name}",(.*?)\);', source.read_text(), re.DOTALL)
    assert binding is not None, f"mmcv binds no op called {name}"
    expected = re.findall(r'py::arg\("(\w+)"\)', binding[1])
    assert list(inspect.signature(mmcv_ext_functions.functions()[name]).parameters) == expected
