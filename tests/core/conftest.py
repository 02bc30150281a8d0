"""Two small detectors, a distiller and a batch, which isolate what the core does from what models do."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

from perceptkd.core import DistillModel
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.tap import Taps
from perceptkd.registry import DISTILLERS, MODELS

_source = Path(__file__).resolve().parent.parent / "ops" / "conftest.py"
_spec = importlib.util.spec_from_file_location("upstream_detectors", _source)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

scene, centerpoint_config = _module.scene, _module.centerpoint_config


@MODELS.register_module(force=True)
class ToyPreprocessor(BaseDataPreprocessor):
    """Stacks images; scales them by ``scale``; optionally writes into what it is given."""

    def __init__(self, scale: float = 1.0, spoil: bool = False) -> None:
        super().__init__()
        self.scale = scale
        self.spoil = spoil

    def forward(self, data: Any, training: bool = False) -> dict[str, Any]:
        data = self.cast_data(data)
        if self.spoil:
            for image, sample in zip(data["inputs"], data["data_samples"]):
                image.zero_()
                sample.gt_instances.labels.fill_(-1)
                sample.set_metainfo({"spoiled": True})
        return {"inputs": torch.stack(list(data["inputs"])) * self.scale, "data_samples": data["data_samples"]}


@MODELS.register_module(force=True)
class ToyDetector(BaseModel):
    """Convolution, BatchNorm, in-place ReLU, dropout; a neck of two levels; a head that is called once per level."""

    def __init__(
        self,
        channels: int = 4,
        dropout: float = 0.0,
        scale: float = 1.0,
        spoil: bool = False,
        bev_geometry: Mapping[str, Any] | None = None,
        norm: bool = True,
    ) -> None:
        super().__init__(data_preprocessor=ToyPreprocessor(scale, spoil))
        self.backbone = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.BatchNorm2d(channels) if norm else nn.Identity(),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.neck = ToyNeck(channels)
        self.bbox_head = ToyHead(channels)
        self.calls: list[str] = []
        if bev_geometry is not None:
            self.bev_geometry = bev_geometry

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        outputs = self.bbox_head(self.neck(self.backbone(inputs)))
        self.calls.append(mode)
        if mode == "loss":
            labels = torch.stack([sample.gt_instances.labels.float().mean() for sample in data_samples])
            error = sum((level.mean(dim=(1, 2, 3)) - labels).square().mean() for level in outputs)
            return {"loss_cls": error}
        return outputs if mode == "tensor" else [{"score": float(o.detach().mean())} for o in outputs[0]]


class ToyNeck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        return feature, self.reduce(feature)


class ToyHead(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1)

    def forward(self, levels: tuple[Tensor, ...]) -> list[Tensor]:
        return [self.score(level) for level in levels]


@DISTILLERS.register_module(force=True)
class ToyDistiller(Distiller):
    """Mean squared difference per object, which is a sum over a count, as real methods have it."""

    default_weights = {"feature": 1.0}
    default_student_taps = {"feature": "neck[1]"}
    default_teacher_taps = {"feature": "neck[1]"}

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        first, second = student["feature"].value, teacher["feature"].value
        per_sample = (first - second).square().mean(dim=(1, 2, 3))
        counts = per_sample.new_tensor([len(sample.gt_instances) for sample in step.data_samples])
        return {"feature": (per_sample * counts).sum() / all_reduce_mean(counts.sum()).clamp(min=1e-6)}


def make_batch(size: int = 2, pixels: int = 8, seed: int = 0) -> dict[str, Any]:
    """A raw batch as ``pseudo_collate`` makes it; sample i holds i + 1 objects."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for number in range(size):
        labels = torch.randint(0, 3, (number + 1,), generator=generator)
        sample = BaseDataElement(metainfo={"img_id": f"{seed}-{number}"})
        sample.gt_instances = InstanceData(labels=labels)
        samples.append(sample)
    images = [torch.randn(3, pixels, pixels, generator=generator) for _ in range(size)]
    return {"inputs": images, "data_samples": samples}


@pytest.fixture
def batch() -> dict[str, Any]:
    return make_batch()


@pytest.fixture
def batch_of() -> Callable[..., dict[str, Any]]:
    return make_batch


@pytest.fixture
def toy() -> type[ToyDetector]:
    return ToyDetector


@pytest.fixture
def distill_model() -> Callable[..., DistillModel]:
    """Makes a DistillModel of toys; keywords go to it, ``student``, ``teacher`` and ``distiller`` to their configs."""

    def make(
        student: Mapping[str, Any] | None = None,
        teacher: Mapping[str, Any] | None = None,
        distiller: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> DistillModel:
        config = {"type": "perceptkd.ToyDetector", **(teacher or {})}
        return DistillModel(
            student={"type": "perceptkd.ToyDetector", **(student or {})},
            teachers={"teacher": {"config": config, "allow_random": True, **(options or {})}},
            distillers=[{"type": "perceptkd.ToyDistiller", **(distiller or {})}],
            **kwargs,
        )

    return make


@pytest.fixture
def train_step() -> Callable[..., dict[str, Tensor]]:
    """One training step as MMEngine's loops make it, with SGD."""
    from mmengine.optim import OptimWrapper

    def run(model: BaseModel, batch: Any, lr: float = 0.1, optimizer: Any = None) -> dict[str, Tensor]:
        model.train()
        return model.train_step(batch, optimizer or OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr)))

    return run
