"""A progress bar with the distillation terms, where there is a terminal to draw it on."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, TextIO

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from perceptkd.registry import HOOKS

KD_PREFIX = "loss_kd/"


@HOOKS.register_module()
class DistillLogHook(Hook):
    """Draws iterations, remaining time, the loss and every weighted ``loss_kd/`` term on one line of a terminal.

    Log lines are printed above the bar. Without a terminal nothing is drawn: the lines of ``LoggerHook`` say the same.

    Args:
        stream: Where to draw; standard error by default.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, *, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._bar: tqdm | None = None
        self._redirection = ExitStack()

    def before_train(self, runner: Runner) -> None:
        """Open the bar at the iteration where the run stands."""
        if not (is_main_process() and self.stream.isatty()):
            return
        self._redirection.enter_context(logging_redirect_tqdm(loggers=[runner.logger]))
        self._bar = tqdm(
            total=runner.max_iters, initial=runner.iter, desc="train", unit="it", file=self.stream, dynamic_ncols=True
        )

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance."""
        if self._bar is not None:
            self._bar.set_postfix_str(describe_losses(outputs or {}), refresh=False)
            self._bar.update()

    def before_val(self, runner: Runner) -> None:
        """Say why the bar stands still."""
        if self._bar is not None:
            self._bar.set_description("evaluating")

    def after_val(self, runner: Runner) -> None:
        """Go on."""
        if self._bar is not None:
            self._bar.set_description("train")

    def after_train(self, runner: Runner) -> None:
        """Close the bar and give the log its stream back."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._redirection.close()


def describe_losses(losses: Mapping[str, Any]) -> str:
    """The total loss and the weighted distillation terms.

    >>> describe_losses({"loss": 2.5, "loss_cls": 1.0, "loss_kd/unidistill/feature": 0.5})
    'loss=2.5 unidistill/feature=0.5'
    """
    shown = {"loss": losses["loss"]} if "loss" in losses else {}
    shown |= {key.removeprefix(KD_PREFIX): value for key, value in losses.items() if key.startswith(KD_PREFIX)}
    return " ".join(f"{key}={float(value):.4g}" for key, value in shown.items())
