"""What distillation on nuScenes takes at the published size: parameters, operations, memory, teacher cache.

All paths of UniDistill, as `tools/analysis_tools/estimate.py` counts them from the operators that run: nothing is
timed, no GPU is used. The samples are simulated, 10 sweeps and six cameras in the format of nuScenes. Convolutions and
products of features are counted without being computed; tests/benchmarks/test_training_estimate.py shows on a small
model that the same operations and memory are counted as where they are computed.

Usage: python benchmarks/training_estimate.py, with the world that configs/unidistill/README.md makes in
data/simworld_splits.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from measure import Row, single_row, write_results
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from perceptkd.cli.cache_teacher import reach_around_boxes
from perceptkd.cli.estimate import GIB, MIB, Line, build_dataset, estimate, quiet_libraries, with_random_teachers
from perceptkd.cli.train import read_config
from perceptkd.core.cache_writer import TeacherCacheWriter
from perceptkd.engine.backends import backends
from perceptkd.registry import MODELS

aten = torch.ops.aten
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}
PRODUCTS = {aten.mm.default: 0, aten.addmm.default: 1}  # operator -> which argument is the left matrix
LEAST_CHANNELS = 16  # of products of features; those of coordinates, which decide on sizes, have fewer columns
PATHS = ("lidar2camera", "fusion2camera", "camera2lidar", "fusion2lidar")
DATA = {"train_dataloader.dataset.dataset.dataset.data_root": "data/simworld_splits/nuscenes"}
BATCH_SIZE = 5  # samples per GPU, as in the configs
SIZED_SAMPLES = 100  # whose cells near boxes are counted


class WithoutArithmetic(TorchDispatchMode):
    """Convolutions and matrix products of features give zeros of the shapes and types that they would give.

    Modes that count operators and memory inside of it see the same, but for copies where the strides differ.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_product = func in PRODUCTS and args[PRODUCTS[func]].shape[1] >= LEAST_CHANNELS
        if func not in CONVOLUTIONS and not is_product:
            return func(*args, **(kwargs or {}))
        shapes = func(*tree_map_only(Tensor, lambda tensor: tensor.to("meta"), args), **(kwargs or {}))
        return tree_map_only(
            Tensor, lambda meta: torch.empty_strided(meta.shape, meta.stride(), dtype=meta.dtype).zero_(), shapes
        )


def all_rows() -> list[Row]:
    """The figures of all paths, and of a cache of the first one's teacher."""
    configs = {path: read_config(f"configs/unidistill/unidistill_{path}_full.py", options=DATA) for path in PATHS}
    first = configs[PATHS[0]]
    rows = []
    with quiet_libraries(), DefaultScope.overwrite_default_scope(first.default_scope), WithoutArithmetic():
        dataset = build_dataset(first)  # of all paths: distillation loads both sensors
        for path, config in configs.items():
            lines, cached = estimate(config, dataset)
            halved, _ = estimate(config, dataset, autocast=True)
            rows += [*cost_rows(path, lines), *memory_rows(path, {"fp32": lines, "bf16": halved})]
            (whole_bytes,) = cached.values()
            rows.append(
                single_row(
                    f"{path}: cache of whole maps", round(whole_bytes / MIB, 1), unit="MiB a sample", note="fp16"
                )
            )
        return rows + cache_rows(first, dataset)


def cost_rows(path: str, lines: Sequence[Line]) -> list[Row]:
    """Operations and parameters of the student's step, the teacher and both."""
    return [
        single_row(
            f"{path}: {line.name}",
            round(line.flops / 1e9, 1),
            unit="GFLOP a sample",
            note=f"{line.parameters / 1e6:.2f} M parameters",
        )
        for line in lines
    ]


def memory_rows(path: str, by_precision: dict[str, Sequence[Line]]) -> list[Row]:
    """Memory of what is trained, alone and with its teacher."""
    return [
        single_row(
            f"{path}: {line.name} in {precision}",
            round(line.memory(BATCH_SIZE) / GIB, 2),
            unit="GiB",
            note=f"batch of {BATCH_SIZE}",
        )
        for precision, lines in by_precision.items()
        for line in (lines[0], lines[-1])
    ]


def cache_rows(config: Config, dataset: Any) -> list[Row]:
    """What a teacher cache takes of the cells near boxes, which it keeps by default."""
    model: Any = MODELS.build(with_random_teachers(config.model))
    ((name, teacher),) = model.distillers.teachers.items()
    reach = reach_around_boxes(model, name)
    taps = teacher.collect(pseudo_collate([dataset[0]]))
    samples = [dataset[len(dataset) * number // SIZED_SAMPLES]["data_samples"] for number in range(SIZED_SAMPLES)]
    with tempfile.TemporaryDirectory() as folder:
        writer = TeacherCacheWriter(folder, {}, reach=reach)
        stored = [writer.pack(1, taps, [sample])[0] for sample in samples]
        place = writer.manifest["taps"]["fuser"]["leaves"][0]
        writer.close(complete=False)
    height, width = place["grid"]
    boxes = fmean(len(sample.gt_instances_3d) for sample in samples)
    note = f"mean of {SIZED_SAMPLES} samples, {boxes:.1f} boxes each"
    near = fmean(sum(array.nbytes for array in arrays) for arrays in stored)
    share = fmean(arrays[place["cells"]].size for arrays in stored) / (height * width)
    return [
        single_row("cache of the cells near boxes", round(near / MIB, 1), unit="MiB a sample", note=f"fp16, {note}"),
        single_row("cells near boxes", round(100 * share, 1), unit="% of the map", note=note),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    write_results("training_estimate", all_rows(), backends=backends())


if __name__ == "__main__":
    main()
