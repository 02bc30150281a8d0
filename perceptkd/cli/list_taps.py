"""``tools/list_taps.py``: where can this model be tapped, and what would a tap see there?"""

import argparse
import copy
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from perceptkd.cli.arguments import (
    UserError,
    add_config_arguments,
    annotation_path,
    build_parser,
    collect_datasets,
    run_command,
)
from perceptkd.cli.train import read_config
from perceptkd.core.dry_run import build_dry_batch
from perceptkd.core.source import build_model, read_model_source
from perceptkd.core.teacher_config import TeacherConfig
from perceptkd.engine.student import is_distillation

SHOWN_LEAVES = 8
SYNTHETIC_IMAGE_SIZE = (256, 256)


def tapped_model_source(config: Config, teacher: str | None) -> tuple[Any, str]:
    """The source of the student, or of a teacher, and the mode its forward runs in while it is tapped."""
    if teacher is None:
        return config.model, "loss"
    teachers = config.model.get("teachers", {}) if is_distillation(config) else {}
    if teacher not in teachers:
        raise UserError(f"the config has no teacher '{teacher}'; it has: {', '.join(teachers) or 'none'}")
    options = TeacherConfig.parse(teacher, teachers[teacher])
    # an EMA teacher has no model of its own in the config: its modules are the student's
    return config.model if options.role == "ema" else options.config, options.forward_mode


def dry_batch(config: Config, model: nn.Module) -> Any:
    """One raw sample: the config's ``dry_batch``, or of its training or validation data, or a random image.

    Raises:
        UserError: No data are there, and the model does not take plain images.
    """
    if config.model.get("dry_batch") is not None:
        return build_dry_batch(config.model.dry_batch)
    for stage in ("train", "val"):
        dataset = (config.get(f"{stage}_dataloader") or {}).get("dataset")
        paths = [annotation_path(inner) for inner in collect_datasets(dataset)]
        if dataset is not None and all(path is None or path.exists() for path in paths):
            return build_dry_batch({"dataset": dataset})
    if type(model.data_preprocessor).__name__ != "DetDataPreprocessor":
        raise UserError("--shapes needs one sample: the data of this config are not there (see data/README.md)")
    return build_dry_batch({"image_size": SYNTHETIC_IMAGE_SIZE})


@torch.no_grad()
def record_outputs(model: nn.Module, batch: Any, *, mode: str) -> dict[str, list[Any]]:
    """Run the model once and keep what each module returned, by path, call by call."""
    outputs: dict[str, list[Any]] = defaultdict(list)

    def keep(path: str) -> Any:
        return lambda module, inputs, output: outputs[path].append(describe_leaves(output))

    handles = [module.register_forward_hook(keep(path)) for path, module in model.named_modules() if path]
    try:
        model.eval()
        model._run_forward(model.data_preprocessor(copy.deepcopy(batch), mode == "loss"), mode=mode)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def describe_leaves(output: Any, index: str = "") -> list[tuple[str, str]]:
    """(index, shape) of every tensor in a nested output, the index written as a tap writes it.

    >>> describe_leaves([torch.zeros(1, 2), {"a": torch.zeros(3)}])
    [('[0]', '1x2'), ("[1]['a']", '3')]
    """
    if isinstance(output, Tensor):
        return [(index, "x".join(map(str, output.shape)) or "scalar")]
    if isinstance(output, Mapping):
        return [leaf for key, value in output.items() for leaf in describe_leaves(value, f"{index}[{key!r}]")]
    if isinstance(output, list | tuple):
        return [leaf for i, value in enumerate(output) for leaf in describe_leaves(value, f"{index}[{i}]")]
    return [(index, type(output).__name__)]


def tap_lines(model: nn.Module, outputs: Mapping[str, list[Any]] | None, *, pattern: str = "") -> Iterator[str]:
    """One line per module, or per tensor a module returned: tap, class, shape and number of calls."""
    for path, module in model.named_modules():
        if not path or isinstance(module, nn.ModuleList | nn.ModuleDict) or not re.search(pattern, path):
            continue  # lists of modules are never called themselves
        kind = type(module).__name__
        if outputs is None:
            yield f"{path:<60} {kind}"
            continue
        calls = outputs.get(path, [])
        if not calls:
            yield f"{path:<60} {kind:<24} does not fire"
        for index, shape in calls[0][:SHOWN_LEAVES] if calls else []:
            times = f"  ({len(calls)} calls)" if len(calls) > 1 else ""
            yield f"{path + index:<60} {kind:<24} {shape}{times}"
        if calls and len(calls[0]) > SHOWN_LEAVES:
            yield f"{path:<60} {kind:<24} and {len(calls[0]) - SHOWN_LEAVES} more"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        List the places of a model that a distiller can tap: the names of its modules, and with --shapes what each
        returns on one sample, written as student_taps and teacher_taps are: neck[0], bbox_head[0][0]['heatmap'].
        """,
        examples="""
        python tools/list_taps.py configs/bev/camera_sim.py --filter '^(neck|fuser|bbox_head)'
        python tools/list_taps.py CONFIG --shapes                 # the student, on one sample of its data
        python tools/list_taps.py CONFIG --teacher lidar --shapes
        """,
    )
    add_config_arguments(parser)
    parser.add_argument("--teacher", metavar="NAME", help="list this teacher of the config instead of the student")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only modules whose path matches")
    parser.add_argument("--shapes", action="store_true", help="run the model once and show shapes and calls")
    return parser.parse_args(arguments)


def command(arguments: Sequence[str] | None = None) -> None:
    parsed = parse_arguments(arguments)
    config = read_config(parsed.config, options=parsed.cfg_options)
    named, mode = tapped_model_source(config, parsed.teacher)
    try:
        pattern = re.compile(parsed.filter).pattern
    except re.error as error:
        raise UserError(f"--filter {parsed.filter!r} is not a regular expression: {error}") from error
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        model = build_model(read_model_source(named))
        outputs = record_outputs(model, dry_batch(config, model), mode=mode) if parsed.shapes else None
    for line in tap_lines(model, outputs, pattern=pattern):
        print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
