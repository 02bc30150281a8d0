"""Contract 15: a missing optional dependency is one line with the pip command."""

import sys
from pathlib import Path

import pytest

from perceptkd.core.optional import MissingDependencyError, require


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({"extra": "deploy"}, "pip install 'perceptkd[deploy]'"),
        ({"package": "no-such-package"}, "pip install no-such-package"),
        ({}, "pip install no_such_module"),
    ],
)
def test_contract_15_missing_dependency_is_one_line_with_the_pip_command(options: dict, command: str) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        require("no_such_module.inside", **options)
    assert str(caught.value) == f"no_such_module.inside is not installed: {command}"


def test_contract_15_a_broken_installation_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import its_missing_part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="its_missing_part") as caught:
        require("half_installed")
    assert not isinstance(caught.value, MissingDependencyError)
    assert "half_installed" not in sys.modules
