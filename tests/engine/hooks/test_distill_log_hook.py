"""The bar is drawn on terminals alone, and shows the distillation terms."""

import io
from types import SimpleNamespace

import pytest
from mmengine.logging import MMLogger

from perceptkd.engine.hooks import DistillLogHook


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def runner() -> SimpleNamespace:
    return SimpleNamespace(max_iters=4, iter=1, logger=MMLogger.get_instance("bar"))


def run(hook: DistillLogHook, runner: SimpleNamespace) -> None:
    """One iteration, one evaluation, the end."""
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, outputs={"loss": 3.0, "loss_cls": 1.0, "loss_kd/unidistill/feature": 0.25})
    hook.before_val(runner)
    hook.after_val(runner)
    hook.after_train(runner)


def test_bar_shows_place_and_terms(runner: SimpleNamespace) -> None:
    terminal = Terminal()
    run(DistillLogHook(stream=terminal), runner)
    drawn = terminal.getvalue()
    assert "2/4" in drawn
    assert "loss=3 unidistill/feature=0.25" in drawn
    assert "loss_cls" not in drawn
    assert "evaluating" in drawn


def test_nothing_is_drawn_into_a_file(runner: SimpleNamespace) -> None:
    file = io.StringIO()
    run(DistillLogHook(stream=file), runner)
    assert file.getvalue() == ""


def test_log_handlers_are_given_back(runner: SimpleNamespace) -> None:
    handlers = list(runner.logger.handlers)
    run(DistillLogHook(stream=Terminal()), runner)
    assert runner.logger.handlers == handlers
