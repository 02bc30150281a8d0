"""The examples in docstrings give what they say."""

import doctest
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import perceptkd

PACKAGE = Path(perceptkd.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text())


@pytest.fixture(autouse=True)
def no_logs() -> Iterator[None]:
    """What is logged once, by whoever comes first, is in no example."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_examples(path: Path) -> None:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
