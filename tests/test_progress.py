"""Bars live on terminals; logs get a line now and then."""

import io
import itertools

import pytest

from perceptkd.progress import progress_bar


class Stream(io.StringIO):
    """Standard error, a terminal or not."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize(("is_terminal", "least", "most"), [(False, 2, 4), (True, 50, 200)])
def test_a_log_is_not_flooded(monkeypatch: pytest.MonkeyPatch, is_terminal: bool, least: int, most: int) -> None:
    stream, clock = Stream(is_terminal=is_terminal), itertools.count()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))  # a second passes at each look
    assert list(progress_bar(range(100), desc="frames")) == list(range(100))
    assert least <= stream.getvalue().count("frames:") <= most
    assert "100/100" in stream.getvalue()
