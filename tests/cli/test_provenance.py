"""Result files say where their numbers come from."""

import datetime
import json
import platform
import subprocess
from pathlib import Path

import pytest

from perceptkd.atomic import WriteError
from perceptkd.cli import provenance as module
from perceptkd.cli.provenance import provenance, revision, versions, write_json


def test_every_part_of_the_result_form_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(module.ROOT / "tools/compare.py"), "a config.py", "--seeds", "3"])
    found = provenance()
    assert set(found) == {"machine", "device", "versions", "revision", "date", "command"}
    assert found["command"] == "python tools/compare.py 'a config.py' --seeds 3"
    assert datetime.date.fromisoformat(found["date"])
    assert " cores, " in found["machine"]


def test_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERSIONED", ("torch", "no-such-package"))
    assert list(versions()) == ["python", "torch"]
    assert versions()["python"] == platform.python_version()


def test_revision_tells_a_changed_checkout_from_a_clean_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *author, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "one")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    clean = revision()
    assert clean == git("rev-parse", "--short=12", "HEAD")
    (tmp_path / "file").write_text("two")
    assert revision() == f"{clean}+changes"


def test_revision_outside_of_a_checkout_is_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert revision() == module.importlib.metadata.version("perceptkd")


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(WriteError, match="cannot write"):
        write_json(path / "below.json", {})
    assert [found.name for found in path.parent.iterdir()] == ["result.json"]
