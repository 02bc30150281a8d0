#!/usr/bin/env python3
"""Which upstream models run on our ops: builds every family of mmdet, mmdet3d and mmseg, trains one step and predicts.

One config stands for each family, as it is but for its batch and for weights that would have to be downloaded. Every
family runs in a process of its own. Writes benchmarks/results/zoo_<device>.json, or zoo_compiled_<device>.json when
PERCEPTKD_OPS=compiled asks for the ops of a compiled mmcv.

Examples:
    python benchmarks/zoo.py
    python benchmarks/zoo.py mmdet/retinanet mmdet3d/second    # only these, on the terminal
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from measure import write_results
from tqdm import tqdm
from zoo_cases import BATCHES_3D, EXCLUDED, LIBRARIES, SIZES_2D, Batch3D, Case, cases, families
from zoo_inputs import IMAGE, batch_2d, batch_3d, batch_segmentation, values_of

TARGET = 0.9
TIMEOUT_S = 900
STAGES = ("builds", "trains", "predicts")
MARKER = "ZOO "


@dataclass
class Outcome:
    """How far a family got; ``fault`` says what stopped it."""

    builds: bool = False
    trains: bool = False
    predicts: bool = False
    fault: str = ""

    @property
    def runs(self) -> bool:
        return self.builds and self.trains and self.predicts


def without_downloads(node: Any, root: Path) -> Any:
    """A copy of a config without pretrained weights, with teachers' configs looked up beside its own.

    Augmentations of whole batches, which resize them to the size of a real training, go too.
    """
    if isinstance(node, dict):
        if node.get("type") == "Pretrained" or "://" in str(node.get("checkpoint")):
            return None
        dropped = ("pretrained", "teacher_ckpt", "load_from", "batch_augments")
        return {key: None if key in dropped else without_downloads(value, root) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(without_downloads(item, root) for item in node)
    if isinstance(node, str) and node.startswith("configs/") and node.endswith(".py"):
        return str(root / node.removeprefix("configs/"))
    return node


def build_model(case: Case) -> tuple[Any, dict[str, Any]]:
    """The model of a case and its config."""
    from mmengine.config import Config, ConfigDict
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.utils import import_modules_from_strings

    import perceptkd.compat  # noqa: F401

    import_modules_from_strings([f"{case.library}.models", f"{case.library}.engine"])
    config = Config.fromfile(case.config)
    init_default_scope(case.library)
    options = without_downloads(config.model.to_dict(), case.config.parents[1])
    if "data_preprocessor" not in options and "data_preprocessor" in config:
        options["data_preprocessor"] = config.data_preprocessor.to_dict()
    if "MMSyncBN" in values_of(options, "type"):  # mmcv's own, which asks for a process group when it is built
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(options))
    model.init_weights()
    return revert_sync_batchnorm(model), options  # one process has nothing to synchronize with


def make_batch(case: Case, options: dict[str, Any], *, training: bool) -> dict[str, Any]:
    """A small batch of the case's kind."""
    torch.manual_seed(0)
    batch = BATCHES_3D.get(case.family, Batch3D())
    samples = batch.samples if training else 1  # as in the loaders of the configs
    size = SIZES_2D.get(case.library, {}).get(case.family, IMAGE)
    if case.library == "mmdet":
        return batch_2d(options, size, samples)
    if case.library == "mmseg":
        return batch_segmentation(options, size, samples)
    columns = batch.columns if training else batch.columns - batch.normalized_columns
    return batch_3d(options, batch.kind, columns=columns, images=batch.images, samples=samples)


def examine(case: Case) -> Outcome:
    """Builds the model, takes the loss and its gradients once, and predicts once; stops where it fails."""
    outcome = Outcome()
    try:
        model, options = build_model(case)
        outcome.builds = True
        train_once(model, make_batch(case, options, training=True))
        outcome.trains = True
        predict_once(model, make_batch(case, options, training=False))
        outcome.predicts = True
    except Exception as error:  # the table's content: whatever stops a model
        outcome.fault = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
    return outcome


def train_once(model: Any, batch: dict[str, Any]) -> None:
    """One loss and backward; the loss must be finite and some parameter must get a gradient.

    Some models ask how far the training is; this is its first step.
    """
    from mmengine.logging import MessageHub

    hub = MessageHub.get_current_instance()
    for name in ("iter", "epoch"):
        hub.update_info(name, 0)
    if hasattr(model, "set_epoch"):
        model.set_epoch(0)
    model.train()
    data = model.data_preprocessor(batch, training=True)
    total, _ = model.parse_losses(model(**data, mode="loss"))
    if not torch.isfinite(total):
        raise FloatingPointError(f"the loss is {total.item()}")
    total.backward()
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    if not gradients or not all(torch.isfinite(gradient).all() for gradient in gradients):
        raise FloatingPointError("a gradient is not finite, or there is none")


@torch.no_grad()
def predict_once(model: Any, batch: dict[str, Any]) -> None:
    """One prediction per sample."""
    model.eval()
    results = model.test_step(batch)
    if len(results) != len(batch["data_samples"]):
        raise AssertionError(f"{len(results)} results for {len(batch['data_samples'])} samples")


def operators() -> str:
    """Whose ops run, as PERCEPTKD_OPS says; ours unless it does."""
    return os.environ.get("PERCEPTKD_OPS", "own")


def run_apart(case: Case) -> Outcome:
    """:func:`examine` in a process of its own, which may crash or hang."""
    command = [sys.executable, __file__, "--one", case.name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PERCEPTKD_OPS": operators()}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired:
        return Outcome(fault=f"not done after {TIMEOUT_S} s")
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARKER)]
    if lines:
        return Outcome(**json.loads(lines[-1].removeprefix(MARKER)))
    return Outcome(fault=f"ended with status {done.returncode}: {(done.stderr.strip().splitlines() or ['silent'])[-1]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="LIBRARY/FAMILY", help="only these, and write nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--parallel", type=int, default=os.cpu_count(), help="families at a time")
    arguments = parser.parse_args()
    everything = {case.name: case for library in LIBRARIES for case in cases(library)}
    if arguments.one:
        print(MARKER + json.dumps(asdict(examine(everything[arguments.one]))))
        return 0
    unknown = [name for name in arguments.names if name not in everything]
    if unknown:
        parser.error(f"no such family: {', '.join(unknown)}")
    chosen = [everything[name] for name in arguments.names] or list(everything.values())
    with ThreadPoolExecutor(arguments.parallel) as pool:
        outcomes = dict(
            zip((case.name for case in chosen), tqdm(pool.map(run_apart, chosen), total=len(chosen), unit="family"))
        )
    for name, outcome in outcomes.items():
        print(f"{name}: {' '.join(stage for stage in STAGES if getattr(outcome, stage)) or '-'} {outcome.fault}")
    if not arguments.names:
        record(outcomes, everything)
    return 0


def record(outcomes: dict[str, Outcome], everything: dict[str, Case]) -> None:
    """Writes the results in the form of every benchmark: a row per family and one per library."""
    rows: list[dict[str, Any]] = []
    for library in LIBRARIES:
        mine = {name: outcome for name, outcome in outcomes.items() if name.startswith(f"{library}/")}
        if not mine:
            rows.append(row(f"{library}", None, note=f"not measured: {library} is not installed"))
            continue
        share = sum(outcome.runs for outcome in mine.values()) / len(mine)
        left_out = f"{len(mine)} families, {len(EXCLUDED[library].keys() & set(families(library)))} left out"
        rows.append({**row(library, round(share, 3), note=left_out), "target": TARGET, "met": share >= TARGET})
        for name, outcome in mine.items():
            case = everything[name]
            stages = {stage: getattr(outcome, stage) for stage in STAGES}
            rows.append({**row(name, float(outcome.runs), note=outcome.fault), **stages, "config": case.config.name})
    excluded = {name: {k: v for k, v in EXCLUDED[name].items() if k in families(name)} for name in LIBRARIES}
    ops = operators()
    name = "zoo" if ops == "own" else f"zoo_{ops}"
    write_results(name, rows, backends={"mmcv_ops": ops}, target=TARGET, excluded=excluded)


def row(name: str, ours: float | None, *, note: str) -> dict[str, Any]:
    empty = dict.fromkeys(("peer", "peer_name", "ratio", "ratio_low", "ratio_high", "target", "met"))
    return {"name": name, "ours": ours, "unit": "share", **empty, "note": note}


if __name__ == "__main__":
    sys.exit(main())
