"""One forward of student and teachers before training, which tells the shapes that adapters need."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch import nn

from perceptkd.core.batch import input_size
from perceptkd.core.distiller import Distiller
from perceptkd.core.errors import InputError
from perceptkd.core.tap import Tap, TapCollector, TapSpec, map_tensors
from perceptkd.core.teacher import Teacher
from perceptkd.registry import DATASETS

DryBatch = Mapping[str, Any] | Callable[[], Any]


def build_dry_batch(config: DryBatch) -> Any:
    """Make the raw batch of the dry pass.

    Args:
        config: A raw batch (with ``inputs``), a function that returns one, ``dict(image_size=(H, W))`` for random
            images with one box, or ``dict(dataset=..., batch_size=1)`` for the first samples of a data set.
    """
    if not isinstance(config, Mapping):
        return config()
    if "inputs" in config:
        return config
    if "image_size" in config:
        return _random_images(*config["image_size"], batch_size=config.get("batch_size", 1))
    if "dataset" in config:
        # Only data sets that depend on an epoch need to be told one; importing them here keeps the core free of data.
        from perceptkd.datasets.seeded import collect_seeded_datasets

        dataset = DATASETS.build(config["dataset"])
        for seeded in collect_seeded_datasets(dataset):
            seeded.set_epoch(0, seed=0)
        return pseudo_collate([dataset[index] for index in range(config.get("batch_size", 1))])
    raise InputError(f"dry_batch needs inputs=, image_size= or dataset=; got {sorted(config)}")


@torch.no_grad()
def collect_shapes(
    student: nn.Module, taps: Mapping[str, TapSpec], teachers: Sequence[Teacher], batch: Any
) -> tuple[dict[str, Tap], dict[str, dict[str, Tap]]]:
    """Run everything once, and leave the student (its statistics, its random state) as it was.

    Args:
        student: The student.
        taps: Alias -> spec of all its taps.
        teachers: All teachers.
        batch: A raw batch.

    Returns:
        The student's taps, and per teacher name its taps.
    """
    twin: Any = copy.deepcopy(student).eval()
    collector = TapCollector(twin, taps, owner="student")
    data = twin.data_preprocessor(copy.deepcopy(batch), True)
    with collector.recording():
        twin._run_forward(data, mode="loss")
    found = collector.taps(input_size=input_size(data))
    return found, {teacher.name: teacher.example(batch) for teacher in teachers}


def adapter_table(distiller: Distiller, student: Mapping[str, Tap], teacher: Mapping[str, Tap]) -> list[list[str]]:
    """One row per paired alias: tap, student shape, teacher shape, adapter, parameters."""
    rows = []
    for alias in distiller.paired_aliases:
        adapter: Any = distiller.adapters[alias] if distiller.adapter_configs[alias] is not None else None
        layers = adapter.layers if adapter is not None else []
        rows.append(
            [
                f"{distiller.name}.{alias}",
                _shapes(student[alias]),
                _shapes(teacher[alias]),
                f"{adapter.side}: {_describe(layers[0])}" if layers else "-",
                str(sum(parameter.numel() for layer in layers for parameter in layer.parameters())),
            ]
        )
    return rows


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns under the header of the adapter table."""
    lines = [["tap", "student", "teacher", "adapter", "parameters"], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def _shapes(tap: Tap) -> str:
    shapes: list[str] = []
    for call in tap.calls:
        map_tensors(lambda tensor: shapes.append("x".join(map(str, tensor.shape))), call)
    return " ".join(shapes[:5]) + (" .." if len(shapes) > 5 else "")


def _describe(layer: nn.Module) -> str:
    first: Any = layer[0] if isinstance(layer, nn.Sequential) else layer
    kernel = f"{first.kernel_size[0]}x{first.kernel_size[0]}" if hasattr(first, "kernel_size") else ""
    return f"{type(first).__name__.lower()}{kernel}{'+bn+relu' if first is not layer else ''}"


def _random_images(height: int, width: int, *, batch_size: int) -> dict[str, Any]:
    from mmdet.structures import DetDataSample

    samples = []
    for number in range(batch_size):
        box = torch.tensor([[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]])
        sample = DetDataSample(gt_instances=InstanceData(bboxes=box, labels=torch.zeros(1, dtype=torch.long)))
        size = (height, width)
        sample.set_metainfo({"img_id": number, "img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)})
        samples.append(sample)
    images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in range(batch_size)]
    return {"inputs": images, "data_samples": samples}
