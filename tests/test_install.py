"""tools/install.py ends with one sentence that says what is wrong and what to do."""

import importlib.util
import platform
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def installer(repository: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location("install", repository / "tools" / "install.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def failing_pip(tmp_path: Path, message: str) -> str:
    """An executable that stands for `python -m pip` and fails with the message."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\necho '{message}' >&2\nexit 1\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("version", "word"), [((3, 10, 4), "too old"), ((3, 13, 0), "too new")])
def test_unsupported_python(installer, monkeypatch, version, word):
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit, match=rf"{word}: Python 3\.11 or 3\.12 is needed"):
        installer.check_python()


def test_supported_python(installer):
    installer.check_python()


def test_full_disk_is_seen_before_anything_is_written(installer, monkeypatch, tmp_path):
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 2**30))
    with pytest.raises(SystemExit, match=r"1\.0 GiB free"):
        installer.check_disk(str(tmp_path / "venv"), "cpu")
    assert not (tmp_path / "venv").exists()


def test_the_disk_is_looked_up_where_the_environment_will_be_made(installer, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda path: asked.append(path) or Usage(10**12, 0, 10**12))
    installer.check_disk(str(tmp_path / "not" / "there" / "venv"), "cpu")
    assert asked == [str(tmp_path)]


@pytest.fixture
def venv_module(installer, monkeypatch, tmp_path):
    """``venv_module(output, status)`` stands for `python -m venv`; returns the file it writes its arguments to."""

    def replace(output: str, status: int) -> Path:
        called = tmp_path / "called"
        python = tmp_path / "system_python"
        python.write_text(f"#!/bin/sh\necho \"$@\" > {called}\necho '{output}' >&2\nexit {status}\n")
        python.chmod(0o755)
        monkeypatch.setattr(installer.sys, "executable", str(python))
        return called

    return replace


@pytest.mark.parametrize("python", ["#!/bin/sh\nexit 1\n", "", None])
def test_an_environment_without_pip_is_made_anew(installer, venv_module, tmp_path, python):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    if python is not None:
        (venv / "bin" / "python").write_text(python)
        (venv / "bin" / "python").chmod(0o755)
    called = venv_module("", 0)
    assert installer.create_environment(str(venv)) == str(venv / "bin" / "python")
    assert called.read_text().split() == ["-m", "venv", "--clear", str(venv)]


def test_a_whole_environment_is_kept(installer, venv_module, tmp_path):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/bin/true")
    called = venv_module("", 0)
    installer.create_environment(str(venv))
    assert not called.exists()


def test_a_folder_that_is_no_environment_is_never_cleared(installer, venv_module, tmp_path):
    venv = tmp_path / "home"
    (venv / "bin").mkdir(parents=True)
    called = venv_module("", 0)
    installer.create_environment(str(venv))
    assert "--clear" not in called.read_text()
    called.unlink()
    (venv / "bin" / "python").touch()
    with pytest.raises(SystemExit, match="is no virtual environment"):
        installer.create_environment(str(venv))
    assert not called.exists()


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("was not created successfully because ensurepip is not available.", r"sudo apt install python3\.\d+-venv"),
        ("/usr/bin/python3: No module named venv", r"sudo apt install python3\.\d+-venv"),
        ("Error: [Errno 28] No space left on device", "became full"),
        ("Error: [Errno 13] Permission denied", r"could not be created \(Error: \[Errno 13\] Permission denied\)"),
        ("", "it said nothing"),
    ],
)
def test_a_failing_venv_module_becomes_a_sentence(installer, venv_module, tmp_path, output, sentence):
    venv_module(output, 1)
    with pytest.raises(SystemExit, match=sentence):
        installer.create_environment(str(tmp_path / "venv"))


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "disk became full"),
        ("NewConnectionError: Temporary failure in name resolution", "package index cannot be reached"),
        ("ResolutionImpossible", "pip failed with status 1"),
    ],
)
def test_pip_failures_become_sentences(installer, tmp_path, message, sentence):
    with pytest.raises(SystemExit, match=sentence):
        installer.pip(failing_pip(tmp_path, message), ["install", "anything"])


def test_stamp_follows_the_extras(installer):
    assert installer.stamp_of("dev") == installer.stamp_of("dev") != installer.stamp_of("dev,seg")


def test_an_environment_of_another_python_is_told(installer, tmp_path, capsys):
    other = next(version for version in installer.SUPPORTED if version != sys.version_info[:2])
    for version, words in ((platform.python_version(), ""), ("{}.{}.1".format(*other), "and stays so")):
        (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {version}\n")
        installer.tell_other_python(str(tmp_path))
        said = capsys.readouterr().out
        assert (words in said) if words else said == ""


def test_an_environment_of_an_unsupported_python_is_refused(installer, tmp_path):
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.10.2\n")
    with pytest.raises(SystemExit, match=r"is of Python 3\.10\.2, which the stack has no wheels for"):
        installer.tell_other_python(str(tmp_path))


def test_make_refuses_an_unknown_device(repository):
    result = subprocess.run(["make", "-n", "demo", "DEVICE=tpu"], cwd=repository, capture_output=True, text=True)
    assert result.returncode != 0
    assert "DEVICE is cpu or cuda, not 'tpu'" in result.stderr
