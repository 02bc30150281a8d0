"""Checkpoints that survive being killed, and the student alone beside each of them."""

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner, find_latest_checkpoint

from perceptkd.atomic import TEMPORARY_SUFFIX, atomic_path, write_text
from perceptkd.core.errors import InputError
from perceptkd.engine.checkpoints import (
    STUDENT_SUFFIX,
    check_checkpoint,
    record_metrics,
    student_state_dict,
)
from perceptkd.engine.student import is_distillation, student_config
from perceptkd.registry import HOOKS

STUDENT_CONFIG_FILE = "student.py"
POINTER_FILE = "last_checkpoint"


@HOOKS.register_module()
class StudentCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook`` with the same arguments, and these differences.

    - Beside ``epoch_N.pth`` it writes ``epoch_N_student.pth`` and ``student.py``: the student's weights without prefix
      (averaged ones where an EMA hook runs) and its plain config. A model without a student has no such files.
    - Every file is written under a temporary name and renamed. Old checkpoints are removed last, so a killed run
      always finds what ``last_checkpoint`` names; a full disk leaves the files as they were and says so.
    - ``metrics.json`` records the metrics of each evaluated checkpoint.
    - A resume from a truncated checkpoint stops with a message that names the newest whole one.
    """

    def before_run(self, runner: Runner) -> None:
        """Check the checkpoint that the runner is about to resume from."""
        if not runner._resume:
            return
        path = runner._load_from or find_latest_checkpoint(runner.work_dir)
        if path is not None and "://" not in str(path):
            check_checkpoint(path, folder=runner.work_dir)

    def before_train(self, runner: Runner) -> None:
        """Find the folder, as upstream, and remove what a killed run left half-written."""
        super().before_train(runner)
        if not isinstance(self.file_backend, LocalBackend):
            raise ValueError(f"StudentCheckpointHook writes local files only, but out_dir is {self.out_dir}")
        self._saved_step: int | None = None
        self._student_config = student_config(runner.cfg).pretty_text if is_distillation(runner.cfg) else None
        if is_main_process():
            for leftover in Path(self.out_dir).glob(f"*.pth{TEMPORARY_SUFFIX}"):
                leftover.unlink()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep hold of the weights that go into the checkpoint (this hook comes after any EMA hook)."""
        self._weights = checkpoint["state_dict"]
        self._ema = "ema_state_dict" in checkpoint

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float]) -> None:
        """Save the best checkpoints, and record the metrics of the ones that were evaluated."""
        super().after_val_epoch(runner, metrics)
        if metrics and self._saved_step == self._current_step(runner) and is_main_process():
            record_metrics(self.last_ckpt, _scalars(metrics))

    def _current_step(self, runner: Runner) -> int:
        """Finished epochs or iterations, seen from after them."""
        return runner.epoch if self.by_epoch else runner.iter

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        stale = self._advance_kept(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = str(Path(self.out_dir) / name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        options = {"save_optimizer": self.save_optimizer, "save_param_scheduler": self.save_param_scheduler}
        self._write(runner, name, meta=meta, by_epoch=self.by_epoch, **options, **self.args)
        self._saved_step = step
        if is_main_process():
            write_text(Path(runner.work_dir) / POINTER_FILE, self.last_ckpt)
            for old in stale:
                _remove(Path(self.out_dir) / self.filename_tmpl.format(old))

    def _advance_kept(self, runner: Runner, step: int) -> list[int]:
        """Add ``step`` to the kept checkpoints; returns those to remove once it is written."""
        if self.max_keep_ckpts <= 0:
            return []
        kept = [*(s for s in self.keep_ckpt_ids if s != step), step]
        stale, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
        self.keep_ckpt_ids.clear()
        self.keep_ckpt_ids.extend(kept)
        runner.message_hub.update_info("keep_ckpt_ids", kept)
        return stale

    def _write(self, runner: Runner, name: str, *, meta: dict[str, Any], by_epoch: bool, **options: Any) -> None:
        """Write the checkpoint and the student's, both or none."""
        path = Path(self.out_dir) / name
        if not is_main_process():
            return
        with atomic_path(path) as temporary:
            runner.save_checkpoint(
                self.out_dir,
                temporary.name,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=self.backend_args,
                **options,
            )
            if self._student_config is not None:
                self._write_student(path, meta)
        del self._weights

    def _write_student(self, path: Path, meta: Mapping[str, Any]) -> None:
        kept = {key: meta[key] for key in ("epoch", "iter", "seed", "dataset_meta", "mmengine_version") if key in meta}
        checkpoint = {
            "meta": {**kept, "cfg": self._student_config, "ema": self._ema},
            "state_dict": student_state_dict(self._weights),
        }
        with atomic_path(student_path(path)) as temporary:
            torch.save(checkpoint, temporary)
        write_text(path.with_name(STUDENT_CONFIG_FILE), self._student_config)

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping[str, float]) -> None:
        if not self.save_best:
            return
        if "auto" in self.key_indicators:
            self._choose_metric(next(iter(metrics)))
        updated = [self._save_if_best(runner, key, rule, metrics) for key, rule in zip(self.key_indicators, self.rules)]
        if any(updated) and self._saved_step == self._current_step(runner):
            # once more, so that the checkpoint to resume from knows the best one
            meta = {"epoch": runner.epoch, "iter": runner.iter}
            self._save_checkpoint_with_step(runner, self._current_step(runner), meta)

    def _choose_metric(self, key: str) -> None:
        """Takes the first metric for ``save_best='auto'``."""
        try:
            self._init_rule(self.rules, [key])
        except ValueError as error:
            raise InputError(
                f"save_best='auto' takes the first metric, {key}, whose name does not say whether more is better: set "
                f"default_hooks.checkpoint.save_best={key} and default_hooks.checkpoint.rule to greater or less"
            ) from error

    def _save_if_best(self, runner: Runner, key: str, rule: str, metrics: Mapping[str, float]) -> bool:
        if key not in metrics:
            known = ", ".join(sorted(metrics))
            raise InputError(f"save_best={key!r} is no metric of this evaluation; name one of these: {known}")
        suffix = "" if len(self.key_indicators) == 1 else f"_{key}"
        best = runner.message_hub.runtime_info.get(f"best_score{suffix}", self.init_value_map[rule])
        score = metrics[key]
        if score is None or not self.is_better_than[key](score, best):
            return False
        previous = runner.message_hub.runtime_info.get(f"best_ckpt{suffix}")
        name = f"best_{key}_{self.filename_tmpl.format(self._current_step(runner))}".replace("/", "_")
        path = Path(self.out_dir) / name
        runner.message_hub.update_info(f"best_score{suffix}", score)
        runner.message_hub.update_info(f"best_ckpt{suffix}", str(path))
        self._remember_best(key, str(path))
        meta = {"epoch": runner.epoch, "iter": runner.iter}
        self._write(runner, name, meta=meta, by_epoch=False, save_optimizer=False, save_param_scheduler=False)
        if is_main_process():
            record_metrics(path, _scalars(metrics))
            if previous and Path(previous) != path:
                _remove(Path(previous))
        runner.logger.info(f"Saved the best checkpoint so far, {key} {score:.4f}, as {name}")
        return True

    def _remember_best(self, key: str, path: str) -> None:
        """The attributes that upstream publishes from."""
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[key] = path


def student_path(path: Path) -> Path:
    """``epoch_3.pth`` -> ``epoch_3_student.pth``.

    >>> student_path(Path("epoch_3.pth")).name
    'epoch_3_student.pth'
    """
    return path.with_name(f"{path.stem}{STUDENT_SUFFIX}{path.suffix}")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    student_path(path).unlink(missing_ok=True)


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if isinstance(value, Real)}
