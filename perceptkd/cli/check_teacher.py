"""``tools/check_teacher.py``: is the teacher whole, and as good as it was when it was trained?"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from perceptkd.cli.arguments import UserError, add_config_arguments, build_parser, run_command
from perceptkd.cli.test import evaluation_config
from perceptkd.cli.train import build_runner, read_config
from perceptkd.core.checkpoint import LoadReport, find_checkpoint, load_weights
from perceptkd.core.source import build_model, load_config, read_model_source
from perceptkd.core.teacher_config import TeacherConfig
from perceptkd.engine.checkpoints import METRICS_FILE, recorded_metrics
from perceptkd.engine.student import is_distillation

#: A metric this share below the recorded one is reported as worse: other hardware rounds differently.
TOLERATED_LOSS = 0.01


@dataclass(frozen=True)
class TeacherCheck:
    """What was found about one teacher.

    Attributes:
        name: Its name in the config.
        checkpoint: The file its weights are in, or their address.
        report: How the file's keys fit.
        measured: Its metrics now; empty if it was not evaluated.
        recorded: Its metrics in ``metrics.json``; None if none are recorded.
    """

    name: str
    checkpoint: Path | str
    report: LoadReport
    measured: Mapping[str, float]
    recorded: Mapping[str, float] | None

    @property
    def worse(self) -> list[str]:
        """Metrics that fell short of the recorded ones."""
        both = self.measured.keys() & (self.recorded or {}).keys()
        return sorted(k for k in both if self.measured[k] < self.recorded[k] - TOLERATED_LOSS * abs(self.recorded[k]))

    def lines(self) -> list[str]:
        """The report as it is printed."""
        lines = [f"teacher '{self.name}': {self.checkpoint}", f"  {self.report}"]
        if self.measured and self.recorded is None:
            lines.append(f"  no metrics are recorded in a {METRICS_FILE} beside it")
        if self.measured:
            lines.append(f"  {'metric':<32} {'measured':>10} {'recorded':>10}")
        for key, value in self.measured.items():
            before = (self.recorded or {}).get(key)
            note = "  lower than recorded" if key in self.worse else ""
            lines.append(f"  {key:<32} {value:>10.4f} {'-' if before is None else format(before, '.4f'):>10}{note}")
        return lines


def check_teacher(config: Config, name: str, *, evaluation: bool = True, work_dir: str | None = None) -> TeacherCheck:
    """Load one teacher of a distillation config, and evaluate it on the validation data of its own config.

    Raises:
        CheckpointError: More than 1 % of its keys do not fit, or one has another shape, and its options do not allow
            that.
        InputError: Its options are wrong.
        UserError: It is not loaded from a checkpoint, or its config cannot evaluate.
    """
    options = TeacherConfig.parse(name, config.model.teachers[name])
    if options.checkpoint is None:
        raise UserError(f"teacher '{name}' (role '{options.role}') has no checkpoint to check")
    source = read_model_source(options.config)
    path = find_checkpoint(options.checkpoint, owner=f"teacher '{name}'", stem=source.stem, config=source.path)
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        model = build_model(source)
    report = load_weights(model, path, owner=f"teacher '{name}'", allow_partial=options.allow_partial)
    measured: dict[str, float] = {}
    if evaluation:
        own = load_config(options.config)
        if own.get("val_dataloader") is None:
            raise UserError(f"teacher '{name}' has no validation data: name its config by path, or pass --no-eval")
        measured = evaluate_weights(own, model.state_dict(), work_dir=work_dir)
    return TeacherCheck(name, path, report, measured, recorded_metrics(path))


def evaluate_weights(config: Config, weights: Mapping[str, Tensor], *, work_dir: str | None) -> dict[str, float]:
    """Metrics on the config's validation data of weights that are loaded already, in whatever form they were stored."""
    plain = evaluation_config(read_config(config, work_dir=work_dir), stage="val")
    runner = build_runner(plain, stages=("test",), launcher="none")
    runner.model.load_state_dict(weights)
    return runner.test()


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Check the teachers of a distillation config: which keys of the checkpoint are missing, unexpected or of another
        shape, and what the teacher scores on the validation data of its own config beside what metrics.json recorded.
        The exit status is 1 if a metric is more than 1 % below the recorded one, 2 if the teacher cannot be loaded.
        """,
        examples="""
        python tools/check_teacher.py configs/unidistill/unidistill_lidar2camera_sim.py
        python tools/check_teacher.py CONFIG --teacher lidar --no-eval
        """,
    )
    add_config_arguments(parser)
    parser.add_argument("--teacher", metavar="NAME", help="check this one alone")
    parser.add_argument("--no-eval", action="store_true", help="load it, but do not evaluate it")
    parser.add_argument("--work-dir", help="where the log of the evaluation goes")
    return parser.parse_args(arguments)


def command(arguments: Sequence[str] | None = None) -> int:
    parsed = parse_arguments(arguments)
    config = read_config(parsed.config, options=parsed.cfg_options)
    teachers = list(config.model.get("teachers", {})) if is_distillation(config) else []
    if not teachers or (parsed.teacher and parsed.teacher not in teachers):
        raise UserError(f"the config has no teacher '{parsed.teacher or ''}'; it has: {', '.join(teachers) or 'none'}")
    status = 0
    for name in [parsed.teacher] if parsed.teacher else teachers:
        check = check_teacher(config, name, evaluation=not parsed.no_eval, work_dir=parsed.work_dir)
        print("\n".join(check.lines()))
        status = max(status, int(bool(check.worse)))
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
