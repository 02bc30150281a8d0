"""tools/install.py ends with one sentence that says what is wrong and what to do."""

import importlib.util
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


def test_make_refuses_an_unknown_device(repository):
    result = subprocess.run(["make", "-n", "demo", "DEVICE=tpu"], cwd=repository, capture_output=True, text=True)
    assert result.returncode != 0
    assert "DEVICE is cpu or cuda, not 'tpu'" in result.stderr
