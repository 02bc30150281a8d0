"""docs/ops.md names every op module, no other one, and functions that are there."""

import importlib
import re
from pathlib import Path

import pytest

import perceptkd.ops


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "ops.md").read_text()


def test_every_module_is_on_the_page_and_none_that_is_not_there(page: str, repository: Path) -> None:
    folder = Path(perceptkd.ops.__file__).parent
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    named = set(re.findall(r"`([\w/]+\.py)`", page))
    assert {name for name in named if "/" not in name} == modules
    paths = {name for name in named if "/" in name}
    assert {name for name in paths if not (folder / name).is_file() and not (repository / name).is_file()} == set()


def test_every_row_names_functions_of_its_module(page: str) -> None:
    rows = re.findall(r"^\| (.+) \(`(\w+)\.py`\) \|", page, re.MULTILINE)
    named = {(module, name) for names, module in rows for name in re.findall(r"`(\w+)`", names)}
    assert len(rows) > 25
    missing = [
        (module, name)
        for module, name in sorted(named)
        if not callable(getattr(importlib.import_module(f"perceptkd.ops.{module}"), name, None))
    ]
    assert missing == []
