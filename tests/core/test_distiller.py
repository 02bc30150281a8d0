"""Contracts 8 and 10: losses in fp32, and how terms are weighted and logged."""

from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from torch import Tensor

from perceptkd.core.batch import RawBatch
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.tap import Taps
from perceptkd.registry import DISTILLERS


@DISTILLERS.register_module(force=True)
class WatchingDistiller(Distiller):
    """Remembers what it was given; two terms."""

    default_weights = {"near": 2.0, "far": 3.0}
    default_student_taps = {"feature": "neck[1]"}
    default_teacher_taps = {"feature": "neck[1]"}

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        self.seen = student["feature"].value, teacher["feature"].value, step
        difference = (student["feature"].value - teacher["feature"].value).abs()
        return {"near": difference.mean(), "far": difference.amax()}


@pytest.fixture
def watching(distill_model: Any) -> Any:
    """A DistillModel with the watching distiller, and the distiller."""

    def make(**distiller: Any) -> tuple[Any, WatchingDistiller]:
        model = distill_model(distiller={"type": "perceptkd.WatchingDistiller", **distiller})
        return model, model.distillers[distiller.get("name", "watchingdistiller")]

    return make


def losses_of(model: Any, batch: Any) -> dict[str, Tensor]:
    return model(RawBatch(batch, True), mode="loss")


def test_contract_08_losses_are_computed_in_fp32_whatever_the_models_compute_in(watching: Any, batch: Any) -> None:
    model, distiller = watching()
    dtypes = []
    model.student.neck.register_forward_hook(lambda module, inputs, output: dtypes.append(output[1].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logs = model.train_step(batch, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    student, teacher, _ = distiller.seen
    assert dtypes == [torch.bfloat16]
    assert student.dtype == teacher.dtype == torch.float32
    assert logs["kd/watchingdistiller/near"].dtype == torch.float32


def test_contract_08_autocast_is_off_inside_of_a_loss_and_on_again_behind_it(distill_model: Any, batch: Any) -> None:
    model = distill_model()
    distiller = model.distillers["toydistiller"]
    inside: list[torch.dtype] = []
    original = distiller.loss

    def loss(*args: Any) -> dict[str, Tensor]:
        inside.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return original(*args)

    distiller.loss = loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses_of(model, batch)
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert inside == [torch.float32]


def test_contract_08_no_foreground_gives_a_graph_connected_zero(distill_model: Any, batch: Any) -> None:
    model = distill_model()
    for sample in batch["data_samples"]:
        sample.gt_instances = sample.gt_instances[:0]
        sample.gt_instances.labels = torch.zeros(0)
    term = losses_of(model, batch)["loss_kd/toydistiller/feature"]
    assert term == 0
    (gradient,) = torch.autograd.grad(term, model.student.neck.reduce.weight)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_contract_08_student_comes_first(watching: Any, batch: Any) -> None:
    model, distiller = watching()
    losses_of(model, batch)
    student, teacher, step = distiller.seen
    assert student.requires_grad
    assert not teacher.requires_grad
    assert step.student_model is model.student
    assert step.teacher_models == {"teacher": model.distillers.teachers["teacher"].model}
    assert step.batch is batch
    assert len(step.data_samples) == 2


def test_contract_10_terms_are_logged_raw_weighted_and_with_their_weight(watching: Any, batch: Any) -> None:
    model, _ = watching(name="watch", weights={"far": 5.0})
    losses = losses_of(model, batch)
    total, logged = model.parse_losses(losses)
    distilled = {key for key in losses if "kd/" in key}
    assert distilled == {
        "loss_kd/watch/near", "kd/watch/near", "kd/watch/near_weight",
        "loss_kd/watch/far", "kd/watch/far", "kd/watch/far_weight",
    }  # fmt: skip
    for term, weight in (("near", 2.0), ("far", 5.0)):
        assert losses[f"kd/watch/{term}_weight"] == weight
        assert torch.equal(losses[f"loss_kd/watch/{term}"], losses[f"kd/watch/{term}"] * weight)
        assert not losses[f"kd/watch/{term}"].requires_grad
    summed = losses["loss_cls"] + 2 * losses["kd/watch/near"] + 5 * losses["kd/watch/far"]
    assert torch.allclose(total, summed)
    assert set(logged) == {"loss", *losses}


def test_contract_10_weights_follow_the_progress_of_the_runner(watching: Any, batch: Any) -> None:
    model, distiller = watching(weights={"near": {"type": "linear", "value": 8.0}, "far": 0.0})
    hub = MessageHub.get_current_instance()
    try:
        for iteration, weight in ((0, 8.0), (25, 6.0), (100, 0.0)):
            hub.update_info("iter", iteration)
            hub.update_info("max_iters", 100)
            losses = losses_of(model, batch)
            assert losses["kd/watchingdistiller/near_weight"] == weight
            assert distiller.seen[2].progress == iteration / 100
            assert distiller.seen[2].iteration == iteration
    finally:
        for key in ("iter", "max_iters"):
            hub.runtime_info.pop(key)
    assert losses_of(model, batch)["kd/watchingdistiller/near_weight"] == 8.0  # without a runner nothing has begun


def test_contract_10_names_that_mmengine_would_add_up_are_refused(distill_model: Any) -> None:
    for options in ({"name": "my_loss"}, {"name": "a.b"}):
        with pytest.raises(ValueError, match=r"neither 'loss' nor '\.'"):
            distill_model(distiller=options)
    with pytest.raises(ValueError, match=r"no terms \['featur'\]; it has \['feature'\]"):
        distill_model(distiller={"weights": {"featur": 1.0}})
    with pytest.raises(ValueError, match="'stop'"):
        distill_model(distiller={"weights": {"feature": {"type": "stop", "value": 1.0}}})


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        (
            {"feature": torch.tensor(float("nan"))},
            FloatingPointError,
            "'toydistiller' are not finite: {'feature': nan}",
        ),
        ({"feature": torch.tensor(float("inf"))}, FloatingPointError, "'feature': inf"),
        ({"feature": torch.zeros(2)}, ValueError, r"'feature' of toydistiller must be an fp32 scalar; got \(2,\)"),
        ({"feature": torch.zeros((), dtype=torch.bfloat16)}, ValueError, "bfloat16"),
        ({}, ValueError, r"returned the terms \[\] but has weights for \['feature'\]"),
        ({"feature": torch.zeros(()), "more": torch.zeros(())}, ValueError, "'more'"),
    ],
)
def test_contract_14_a_term_that_cannot_train_stops_with_its_name(
    distill_model: Any, batch: Any, terms: dict, error: type, message: str
) -> None:
    model = distill_model()
    model.distillers["toydistiller"].loss = lambda *args: terms
    with pytest.raises(error, match=message):
        losses_of(model, batch)
    if error is FloatingPointError:
        model.distillers.check_finite = False
        assert not torch.isfinite(losses_of(model, batch)["loss_kd/toydistiller/feature"])


def test_two_distillers_need_two_names(toy: Any) -> None:
    from perceptkd.core import DistillModel

    def make(*names: str | None) -> DistillModel:
        return DistillModel(
            toy(),
            teachers={"teacher": {"config": toy(), "allow_random": True}},
            distillers=[{"type": "perceptkd.ToyDistiller", "name": name} for name in names],
        )

    assert list(make("first", "second").distillers) == ["first", "second"]
    with pytest.raises(ValueError, match="Two distillers are called 'toydistiller': give one of them name="):
        make(None, None)


def test_a_distiller_may_learn_from_several_teachers(toy: Any, batch: Any) -> None:
    from perceptkd.core import DistillModel

    class Both(WatchingDistiller):
        default_teacher_taps = {}

        def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
            self.seen = teacher
            return {"near": student["feature"].value.mean(), "far": teacher["second"].value.mean()}

    taps = {"camera": {"feature": "neck[1]"}, "lidar": {"second": "neck[0]"}}
    with pytest.raises(ValueError, match="aliases of its teachers' taps must differ"):
        Distiller(teacher=["camera", "lidar"], teacher_taps={"camera": {"a": "neck"}, "lidar": {"a": "neck"}})
    with pytest.raises(ValueError, match="one dict per teacher name"):
        Distiller(teacher=["camera", "lidar"], teacher_taps={"camera": {"a": "neck"}})
    distiller = Both(teacher=["camera", "lidar"], teacher_taps=taps)
    teachers = {name: {"config": toy(), "allow_random": True} for name in ("camera", "lidar")}
    losses_of(DistillModel(toy(), teachers=teachers, distillers=[distiller]), batch)
    assert {alias: tuple(tap.value.shape) for alias, tap in distiller.seen.items()} == {
        "feature": (2, 4, 4, 4),
        "second": (2, 4, 8, 8),
    }
