"""``tools/test.py``: evaluate the student of any checkpoint."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner

from perceptkd.cli.arguments import (
    UserError,
    add_config_arguments,
    add_run_arguments,
    build_parser,
    collect_datasets,
    run_command,
    set_local_rank,
)
from perceptkd.cli.train import build_runner, read_config
from perceptkd.engine.checkpoints import check_checkpoint, load_student
from perceptkd.engine.student import student_config

TRAINING_KEYS = ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "load_from")


def evaluate(
    source: Mapping[str, Any] | Path | str,
    checkpoint: Path | str,
    *,
    options: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
    stage: str = "test",
    out: str | None = None,
    show_dir: str | None = None,
    tta: bool = False,
    launcher: str | None = None,
) -> dict[str, float]:
    """Metrics of the student in ``checkpoint``, which may be a full one or the student's alone. No teacher is needed.

    Args:
        source: The config that trained it, distilling or not, or its ``student.py``.
        checkpoint: Weights; they must fit exactly.
        options: What ``--cfg-options`` would merge.
        work_dir: Where the log goes.
        stage: Whose loader and evaluator: ``test`` or ``val``.
        out: Write the predictions into this ``.pkl`` file.
        show_dir: Draw predictions into this folder, under the log directory unless it is absolute.
        tta: Average over the config's test-time augmentations.
        launcher: Who starts the processes.

    Raises:
        CheckpointError: The weights do not fit.
        UserError: An option needs something that the config does not have.
    """
    check_checkpoint(checkpoint)
    config = evaluation_config(read_config(source, options=options, work_dir=work_dir), stage=stage)
    if show_dir:
        _draw_into(config, show_dir)
    if tta:
        _enable_tta(config)
    if out is not None and Path(out).suffix not in (".pkl", ".pickle"):
        raise UserError(f"--out writes a pickle file: {out} must end in .pkl")
    runner = build_runner(config, stages=("test",), launcher=launcher)
    load_student(_plain_model(runner), checkpoint)
    if out is not None:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=out))
    return _overall_last(runner.test(), runner.test_dataloader.dataset)


def _overall_last(metrics: Mapping[str, float], dataset: Any) -> dict[str, float]:
    """The metrics of single classes first, so that those of all classes stand at the end of what is printed."""
    classes = getattr(dataset, "metainfo", {}).get("classes") or ()
    names = sorted(metrics, key=lambda name: not any(f"/{each}_" in name for each in classes))
    return {name: metrics[name] for name in names}


def evaluation_config(config: Config, *, stage: str) -> Config:
    """The run's config with the student alone as its model, and nothing of the training."""
    if config.get(f"{stage}_dataloader") is None or config.get(f"{stage}_evaluator") is None:
        raise UserError(f"the config has no {stage}_dataloader and {stage}_evaluator to evaluate with")
    plain, student = Config(config.to_dict(), filename=config.filename), student_config(config)
    for key in TRAINING_KEYS:
        plain.pop(key, None)
    plain.resume = False
    plain.model, plain.default_scope = student.model, student.default_scope
    for part in ("dataloader", "evaluator", "cfg"):
        plain[f"test_{part}"] = config.get(f"{stage}_{part}")
        plain.pop(f"val_{part}", None)
    if stage == "val":
        plain.test_cfg = {"type": "TestLoop", **{k: v for k, v in (config.val_cfg or {}).items() if k != "type"}}
    return plain


def _plain_model(runner: Runner) -> Any:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model.module if isinstance(model, BaseTTAModel) else model


def _draw_into(config: Config, folder: str) -> None:
    hook = config.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise UserError(
            "--show-dir needs default_hooks.visualization in the config; for a BEV detector add "
            "--cfg-options default_hooks.visualization.type=perceptkd.BEVVisualizationHook"
        )
    hook.update(draw=True, test_out_dir=folder)


def _enable_tta(config: Config) -> None:
    if config.get("tta_model") is None or config.get("tta_pipeline") is None:
        raise UserError("--tta needs tta_model and tta_pipeline in the config")
    config.model = ConfigDict(**config.tta_model, module=config.model)
    for dataset in collect_datasets(config.test_dataloader.dataset):
        if "pipeline" in dataset:
            dataset["pipeline"] = config.tta_pipeline


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Evaluate a model on the test data of its config. The checkpoint is a full one (epoch_N.pth), whose student is
        taken, or a student's (epoch_N_student.pth). Teachers are neither built nor needed.
        """,
        examples="""
        python tools/test.py configs/bev/camera_sim.py work_dirs/camera_sim/epoch_4.pth
        python tools/test.py CONFIG work_dirs/run/epoch_12_student.pth --out predictions.pkl
        python tools/test.py CONFIG CHECKPOINT --show-dir pictures --cfg-options default_hooks.visualization.interval=10
        python tools/test.py work_dirs/run/student.py work_dirs/run/epoch_12_student.pth
        bash tools/dist_test.sh CONFIG CHECKPOINT 8                            # eight GPUs
        """,
    )
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="weights to evaluate")
    add_run_arguments(parser)
    parser.add_argument("--out", help="write the predictions into this .pkl file")
    parser.add_argument("--show-dir", help="draw the predictions into this folder under <work dir>/<time>")
    parser.add_argument("--show", action="store_true", help="not here: no window is opened, use --show-dir")
    parser.add_argument("--wait-time", type=float, help=argparse.SUPPRESS)  # mmdet's, of --show
    parser.add_argument("--tta", action="store_true", help="use the config's test-time augmentation")
    return parser.parse_args(arguments)


def command(arguments: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(arguments)
    set_local_rank(parsed)
    if parsed.show or parsed.wait_time is not None:
        raise UserError(
            "--show and --wait-time need windows, which the installed headless OpenCV cannot open: write the pictures "
            "into a folder with --show-dir FOLDER"
        )
    metrics = evaluate(
        parsed.config,
        parsed.checkpoint,
        options=parsed.cfg_options,
        work_dir=parsed.work_dir,
        out=parsed.out,
        show_dir=parsed.show_dir,
        tta=parsed.tta,
        launcher=parsed.launcher,
    )
    if is_main_process():
        for name, value in metrics.items():
            print(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
