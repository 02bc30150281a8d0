"""Contract 3: each model prepares the raw batch itself, and nobody writes into it."""

import copy
from typing import Any

import pytest
import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from perceptkd.core.batch import RawBatch, RawBatchPreprocessor, batch_size, input_size
from perceptkd.core.tap import TapCollector


def fingerprint(batch: dict[str, Any]) -> tuple[list[bytes], list[bytes], list[dict]]:
    """Every byte and every meta field of a batch."""
    images = [image.numpy().tobytes() for image in batch["inputs"]]
    labels = [sample.gt_instances.labels.numpy().tobytes() for sample in batch["data_samples"]]
    return images, labels, [dict(sample.metainfo) for sample in batch["data_samples"]]


@pytest.mark.parametrize("spoiler", ["teacher", "student"])
def test_contract_03_the_raw_batch_survives_models_that_write_into_it(
    distill_model: Any, train_step: Any, batch: Any, spoiler: str
) -> None:
    before = fingerprint(batch)
    model = distill_model(**{spoiler: {"spoil": True}})
    train_step(model, batch)
    assert fingerprint(batch) == before
    honest = copy.deepcopy(batch)  # and the detector without a wrapper does write, so that this test can fail
    model_that_writes = distill_model(student={"spoil": True}).student
    model_that_writes.data_preprocessor(honest, True)
    assert fingerprint(honest) != before


def test_contract_03_a_teacher_that_writes_does_not_disturb_the_student(distill_model: Any, batch: Any) -> None:
    losses = []
    for spoil in (False, True):
        torch.manual_seed(0)
        model = distill_model(teacher={"spoil": spoil}, distiller={"weights": {"feature": 0.0}})
        losses.append(model(RawBatch(batch, True), mode="loss"))
    assert torch.equal(losses[0]["loss_cls"], losses[1]["loss_cls"])
    assert not torch.equal(losses[0]["kd/toydistiller/feature"], losses[1]["kd/toydistiller/feature"])


def test_contract_03_distillers_see_the_samples_as_they_were_before_the_students_losses(
    distill_model: Any, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = distill_model()
    distiller = next(model.distillers.each())
    losses, terms, seen = model.student.forward, distiller.loss, []

    def write(inputs: Any, data_samples: Any, mode: str) -> Any:
        found = losses(inputs, data_samples, mode)
        for sample in data_samples:
            sample.gt_instances.labels.fill_(-7)
        return found

    def look(student: Any, teacher: Any, step: Any) -> Any:
        seen.extend(step.data_samples)
        return terms(student, teacher, step)

    monkeypatch.setattr(model.student, "forward", write)
    monkeypatch.setattr(distiller, "loss", look)
    model(RawBatch(batch, True), mode="loss")
    assert len(seen) == len(batch["data_samples"])
    for sample, given in zip(seen, batch["data_samples"]):
        assert torch.equal(sample.gt_instances.labels, given.gt_instances.labels)


def test_contract_03_each_model_runs_its_own_preprocessor(distill_model: Any, batch: Any) -> None:
    model = distill_model(
        student={"scale": 2.0}, teacher={"scale": 5.0}, distiller={"teacher_taps": {"feature": "backbone.0"}}
    )
    seen: dict[str, Tensor] = {}
    for name, part in (("student", model.student), ("teacher", model.distillers.teachers["teacher"].model)):
        part.backbone[0].register_forward_pre_hook(lambda module, inputs, name=name: seen.update({name: inputs[0]}))
    model.distillers.teachers["teacher"].collect(batch)
    model.val_step(batch)
    stacked = torch.stack(batch["inputs"])
    assert torch.equal(seen["student"], stacked * 2)
    assert torch.equal(seen["teacher"], stacked * 5)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_contract_03_what_the_models_keep_is_not_the_batch_itself(distill_model: Any, batch: Any, side: str) -> None:
    """The first layer hands its input on, and the preprocessor copies nothing: what is tapped would be the batch."""
    model = distill_model()
    part = model.student if side == "student" else model.distillers.teachers["teacher"].model
    part.backbone.insert(0, nn.Identity())
    part.data_preprocessor = BaseDataPreprocessor()
    batch["inputs"] = torch.stack(batch["inputs"])
    collector = TapCollector.attach(part, {"input": {"path": "backbone.0", "clone": False}})
    with torch.set_grad_enabled(side == "student"), collector.recording():
        model(RawBatch(batch, True), mode="loss")
    kept = collector.taps()["input"].value
    assert torch.equal(kept, batch["inputs"])
    assert kept.data_ptr() != batch["inputs"].data_ptr()
    assert part.data_preprocessor(batch, True)["inputs"].data_ptr() == batch["inputs"].data_ptr()


def test_the_preprocessor_of_the_model_hands_the_batch_on_untouched(batch: Any) -> None:
    wrapped = RawBatchPreprocessor()(batch, True)
    assert list(wrapped) == ["inputs"]
    assert wrapped["inputs"].data is batch
    assert wrapped["inputs"].training


def test_sizes_are_read_from_samples_or_images() -> None:
    sample = BaseDataElement(metainfo={"batch_input_shape": (32, 64)})
    assert input_size({"inputs": None, "data_samples": [sample]}) == (32, 64)
    assert input_size({"inputs": torch.zeros(1, 3, 8, 16), "data_samples": None}) == (8, 16)
    assert input_size({"inputs": {"points": []}, "data_samples": [BaseDataElement()]}) is None
    assert batch_size({"data_samples": [sample, sample]}) == 2
    assert batch_size((torch.zeros(1), None)) == -1
