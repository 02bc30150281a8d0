"""Contracts 11 and 12, and DistillModel as MMEngine's Runner and its users see it."""

import copy
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from perceptkd.core import DistillModel
from perceptkd.core.batch import RawBatch
from perceptkd.registry import MODELS

STUDENT = {"type": "perceptkd.ToyDetector", "dropout": 0.3}
TEACHER = {"config": {"type": "perceptkd.ToyDetector", "channels": 6, "dropout": 0.5}, "allow_random": True}
ADAPTER = {"type": "conv", "in_channels": 4, "out_channels": 6}


def config(distill: bool = True, weight: Any = 1.0, **teacher: Any) -> dict[str, Any]:
    """A whole model as a config writes it."""
    distiller = {"type": "perceptkd.ToyDistiller", "weights": {"feature": weight}, "adapters": {"feature": ADAPTER}}
    return {
        "type": "perceptkd.DistillModel",
        "student": STUDENT,
        "teachers": {"teacher": {**TEACHER, **teacher}},
        "distillers": [distiller],
        "distill": distill,
    }


def gradients(model: nn.Module, batch: Any, *, seed: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    """The gradients of one training step, and numbers drawn from Python's, numpy's and torch's state after it."""
    student = model.student if isinstance(model, DistillModel) else model
    model.train()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    model.parse_losses(model._run_forward(data, mode="loss"))[0].backward()
    after = torch.tensor([random.random(), np.random.rand(), *torch.rand(4)])  # noqa: NPY002
    return {name: parameter.grad for name, parameter in student.named_parameters()}, after


class NoisyDistillerMixin:
    """Draws from every global random state, as samplers of real methods do."""

    def loss(self, *args: Any) -> dict[str, Tensor]:
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        return super().loss(*args)


@pytest.mark.parametrize("how", ["weights are zero", "distill=False"])
def test_contract_11_without_weight_gradients_equal_the_bare_models_bit_for_bit(batch: Any, how: str) -> None:
    torch.manual_seed(0)
    bare = MODELS.build(STUDENT)
    torch.manual_seed(0)
    model = MODELS.build(config(distill=how != "distill=False", weight=0.0, norm="train"))
    for distiller in model.distillers.values():
        distiller.__class__ = type("Noisy", (NoisyDistillerMixin, type(distiller)), {})
    if how == "weights are zero":
        holder = model.distillers.teachers["teacher"]
        holder.model.backbone[3].train()  # dropout: the teacher draws random numbers
    expected, after = gradients(bare, batch)
    found, after_distillation = gradients(model, batch)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert torch.equal(after, after_distillation)
    assert any(gradient.abs().sum() > 0 for gradient in expected.values())


def test_contract_11_zero_weights_still_measure_the_terms_but_train_nothing(batch: Any) -> None:
    model = MODELS.build(config(weight=0.0))
    losses = model(RawBatch(batch, True), mode="loss")
    assert losses["kd/toydistiller/feature"] > 0
    assert losses["loss_kd/toydistiller/feature"] == 0
    assert not losses["loss_kd/toydistiller/feature"].requires_grad
    assert not any(parameter.requires_grad for parameter in model.distillers.parameters())


def test_contract_11_with_weight_the_gradients_do_change(batch: Any) -> None:
    torch.manual_seed(0)
    bare = MODELS.build(STUDENT)
    torch.manual_seed(0)
    expected, after = gradients(bare, batch)
    found, after_distillation = gradients(MODELS.build(config()), batch)
    assert not torch.equal(expected["backbone.0.weight"], found["backbone.0.weight"])
    assert torch.equal(after, after_distillation)  # the random state is still the bare model's


def test_contract_11_building_and_initialising_leaves_the_students_weights_as_without_distillation() -> None:
    states = []
    for distill in (True, False):
        torch.manual_seed(0)
        model = MODELS.build(config(distill=distill))
        model.init_weights()
        states.append((model.student.state_dict(), torch.rand(1)))
    assert all(torch.equal(states[0][0][key], states[1][0][key]) for key in states[0][0])
    assert states[0][1] == states[1][1]


def test_contract_11_distill_false_needs_no_teacher_checkpoint(batch: Any) -> None:
    model = MODELS.build(config(distill=False, checkpoint="no/such/file.pth"))
    assert not model.distillers.teachers
    assert set(model(RawBatch(batch, True), mode="loss")) == {"loss_cls"}


def test_random_numbers_of_teachers_repeat_per_step_and_differ_between_steps(batch: Any) -> None:
    def terms(model: DistillModel, steps: int) -> list[float]:
        model.distillers.teachers["teacher"].model.backbone[3].train()
        model.student.eval()
        losses = [model(RawBatch(batch, True), mode="loss") for _ in range(steps)]
        return [float(loss["kd/toydistiller/feature"]) for loss in losses]

    torch.manual_seed(0)
    first = MODELS.build(config())
    second = copy.deepcopy(first)
    assert len(set(expected := terms(first, 3))) == 3
    torch.rand(7)  # whatever else draws numbers meanwhile
    assert terms(second, 3) == expected
    first.eval()
    assert len(set(terms(first, 2))) == 1  # only training counts steps
    assert first.distillers.steps == 3


def test_every_rank_draws_random_numbers_of_its_own(batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS.build(config())
    model.distillers.teachers["teacher"].model.backbone[3].train()
    model.eval()  # the step stays the same
    found = []
    for rank in (0, 1):
        group = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda rank=rank: rank)
        monkeypatch.setattr("perceptkd.core.distillation.dist", group)
        found.append(float(model(RawBatch(batch, True), mode="loss")["kd/toydistiller/feature"]))
    assert found[0] != found[1]


class Samples(Dataset):
    """Eight fixed raw samples."""

    metainfo: dict = {}

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: self.batch[key][index] for key in ("inputs", "data_samples")}


class MeanScore(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [sample["score"] for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {"score": sum(results) / len(results)}


@pytest.fixture
def make_runner(batch_of: Any, tmp_path: Path) -> Any:
    """A stock Runner over the toys: 2 epochs of 4 iterations, validation, checkpoints, learning rate decay."""

    def make(
        name: str, model: Any, *, epochs: int = 2, resume: str | None = None, hooks: Any = (), **optim: Any
    ) -> Runner:
        samples = Samples(batch_of(size=8))
        loader = {"dataset": samples, "batch_size": 2, "num_workers": 0}
        return Runner(
            model=copy.deepcopy(model),
            work_dir=str(tmp_path / name),
            train_dataloader={**loader, "sampler": {"type": "DefaultSampler", "shuffle": False}},
            val_dataloader={**loader, "sampler": {"type": "DefaultSampler", "shuffle": False}},
            train_cfg={"by_epoch": True, "max_epochs": epochs, "val_interval": 1},
            val_cfg={},
            val_evaluator=Evaluator(MeanScore()),
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}, **optim},
            param_scheduler={"type": "StepLR", "step_size": 1, "gamma": 0.5},
            default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
            custom_hooks=list(hooks),
            load_from=resume,
            resume=resume is not None,
            randomness={"seed": 0, "deterministic": False},
            experiment_name=f"{tmp_path.name}-{name}",
            default_scope="mmengine",
            log_level="WARNING",
        )

    return make


def test_a_stock_runner_trains_validates_saves_and_logs(make_runner: Any, tmp_path: Path) -> None:
    runner = make_runner("run", config())
    teacher = runner.model.distillers.teachers["teacher"].model
    before = copy.deepcopy(teacher.state_dict())
    runner.train()
    assert len(runner.message_hub.get_scalar("val/score").data[0]) == 2
    scalars = runner.message_hub.log_scalars
    assert {"train/loss_kd/toydistiller/feature", "train/kd/toydistiller/feature_weight"} <= set(scalars)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    state = torch.load(tmp_path / "run/epoch_2.pth", weights_only=False)["state_dict"]
    assert {key.split(".")[0] for key in state} == {"student", "distillers"}
    fresh = MODELS.build(config())
    assert not any(torch.equal(fresh.student.state_dict()[k], state[f"student.{k}"]) for k in ["backbone.0.weight"])
    fresh.load_state_dict(state, strict=True)
    assert all(torch.equal(fresh.student.state_dict()[k], state[f"student.{k}"]) for k in fresh.student.state_dict())


@pytest.mark.parametrize("role", ["frozen", "ema"])
def test_contract_09_mmengine_can_broadcast_the_initial_state(role: str) -> None:
    """Runner sends every entry of it from the first rank to the others, and knows tensors alone."""
    teacher = {"role": "ema", "config": None} if role == "ema" else {}
    state = MODELS.build(config(**teacher)).state_dict()
    assert "distillers._extra_state" in state
    assert all(isinstance(value, Tensor) for value in state.values())


@pytest.mark.parametrize("role", ["frozen", "ema"])
def test_contract_12_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    make_runner: Any, tmp_path: Path, role: str
) -> None:
    model = config(weight={"type": "linear", "value": 2.0})
    model["student"] = {**STUDENT, "dropout": 0.0}  # a student's own dropout is the iteration seed's business
    if role == "ema":
        model["teachers"] = {"teacher": {"role": "ema", "momentum": 0.9}}
        model["distillers"][0]["adapters"] = {}
    hooks = [{"type": "EMAHook", "momentum": 0.01}]

    def noisy(runner: Runner) -> Runner:
        if role == "frozen":
            runner.model.distillers.teachers["teacher"].model.backbone[3].train()  # dropout that a resume must repeat
        return runner

    whole = noisy(make_runner("whole", model, hooks=hooks))
    whole.train()
    checkpoint = str(tmp_path / "whole/epoch_1.pth")
    torch.rand(11)  # another process has another random state
    resumed = noisy(make_runner("resumed", model, hooks=hooks, resume=checkpoint))
    resumed.train()
    expected, found = (
        torch.load(tmp_path / f"{name}/epoch_2.pth", weights_only=False) for name in ("whole", "resumed")
    )
    for key in ("state_dict", "ema_state_dict"):
        assert_equal(expected[key], found[key])
    assert_equal(expected["optimizer"]["state"], found["optimizer"]["state"])
    extra = expected["ema_state_dict"]["module.distillers._extra_state"]  # EMAHook swaps the two state dicts on saving
    random_state = extra["random"] if role == "ema" else extra
    assert random_state[1] == 8  # steps


def assert_equal(first: Any, second: Any) -> None:
    """Equal to the bit, through nested dicts."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


class Recorder(Hook):
    """Of every iteration the weight of the term, and whether the optimiser moved the student."""

    def __init__(self) -> None:
        self.weights: list[float] = []
        self.moved: list[bool] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.before = next(runner.model.parameters()).detach().clone()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.weights.append(float(outputs["kd/toydistiller/feature_weight"]))
        self.moved.append(not torch.equal(self.before, next(runner.model.parameters())))


def test_contract_10_schedules_count_iterations_where_steps_are_accumulated(
    make_runner: Any, distill_model: Any
) -> None:
    recorder = Recorder()
    model = distill_model(distiller={"weights": {"feature": {"type": "linear", "value": 8.0}}})
    make_runner("run", model, hooks=[recorder], accumulative_counts=2).train()
    assert recorder.weights == [8.0 - iteration for iteration in range(8)]
    assert recorder.moved == [False, True] * 4


def test_predict_and_tensor_are_the_students(distill_model: Any, batch: Any) -> None:
    model = distill_model().eval()
    holder = model.distillers.teachers["teacher"]
    assert model.val_step(batch) == model.test_step(batch) == model.student.val_step(batch)
    data = model.student.data_preprocessor(batch, False)
    for mode in ("tensor", "predict"):
        raw = model(RawBatch(batch, False), mode=mode)
        prepared = model(data["inputs"], data["data_samples"], mode=mode)
        assert_equal(dict(enumerate(raw)), dict(enumerate(prepared)))
    assert holder.model.calls == []
    with pytest.raises(TypeError, match="need the raw batch"):
        model(data["inputs"], data["data_samples"], mode="loss")


def test_the_student_may_be_a_path_and_gets_the_preprocessor_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "student.py"
    path.write_text("model = dict(type='perceptkd.ToyDetector', channels=5)\n")
    assert MODELS.build({"type": "perceptkd.DistillModel", "student": str(path)}).student.backbone[0].out_channels == 5
    with pytest.raises(TypeError, match="data_preprocessor"):  # it reaches the student, which in this toy takes none
        DistillModel(str(path), data_preprocessor={"type": "perceptkd.ToyPreprocessor"})


def test_loss_names_of_student_and_distillers_must_differ(distill_model: Any, batch: Any) -> None:
    model = distill_model()
    forward = model.student.forward
    model.student.forward = lambda *args, **kwargs: {"loss_kd/toydistiller/feature": forward(*args, **kwargs)}
    with pytest.raises(ValueError, match=r"share the names \['loss_kd/toydistiller/feature'\]"):
        model(RawBatch(batch, True), mode="loss")


def test_taps_hold_no_memory_after_a_step_even_after_an_error(distill_model: Any, batch: Any) -> None:
    model = distill_model()
    collectors = [model.distillers.student_taps, model.distillers.teachers["teacher"].collector]
    model(RawBatch(batch, True), mode="loss")
    assert [collector.counts for collector in collectors] == [{}, {}]
    model.distillers["toydistiller"].loss = lambda *args: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model(RawBatch(batch, True), mode="loss")
    assert [collector.counts for collector in collectors] == [{}, {}]


def test_contract_04_the_whole_training_step_runs_under_torch_compile(distill_model: Any, batch: Any) -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph.code)
        return graph.forward

    plain = distill_model(student={"norm": False}, teacher={"norm": False})
    compiled = copy.deepcopy(plain)
    compiled.train_step = torch.compile(compiled.train_step, backend=backend)  # what the Runner's compile= does
    logs = []
    for model in (plain, compiled):
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        logs.append([model.train_step(batch, optimizer) for _ in range(2)][-1])
    assert logs[0].keys() == logs[1].keys()
    assert all(torch.allclose(logs[0][key], logs[1][key]) for key in logs[0])
    convolutions = max(code.count("conv2d(") for code in graphs)
    assert convolutions == 4  # the student's forward is one graph, through its taps
