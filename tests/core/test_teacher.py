"""Contracts 1 and 2: what a teacher is, and how it runs."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import Tensor, nn

from perceptkd.core import teacher as teacher_module
from perceptkd.core.batch import RawBatch
from perceptkd.core.errors import InputError
from perceptkd.core.tap import TapError
from perceptkd.core.teacher import CachedTeacher, EMATeacher, FrozenTeacher


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("norm", ["eval", "train"])
def test_contract_01_teacher_weights_and_statistics_are_bit_identical_after_steps(
    distill_model: Any, train_step: Any, batch_of: Any, norm: str
) -> None:
    model = distill_model(options={"norm": norm}, teacher={"dropout": 0.5})
    teacher = model.distillers.teachers["teacher"].model
    before, student = snapshot(teacher), snapshot(model.student)
    for seed in range(3):
        train_step(model, batch_of(seed=seed))
    assert same(snapshot(teacher), before)
    assert not same(snapshot(model.student), student)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_contract_01_teachers_are_in_no_state_dict_parameters_modules_or_optimiser(distill_model: Any) -> None:
    model = distill_model(student={"channels": 4}, teacher={"channels": 4})
    teacher = model.distillers.teachers["teacher"].model
    ours = {id(value) for value in [*teacher.parameters(), *teacher.buffers()]}
    assert not ours & {id(value) for value in [*model.parameters(), *model.buffers()]}
    assert not set(teacher.modules()) & set(model.modules())
    assert all(key.startswith(("student.", "distillers.")) for key in model.state_dict())
    assert len(model.state_dict()) == len(model.student.state_dict()) + 1  # the extra state of the distillers
    wrapper = build_optim_wrapper(model, {"optimizer": {"type": "SGD", "lr": 0.1}})
    assert not ours & {id(p) for group in wrapper.optimizer.param_groups for p in group["params"]}


def test_contract_01_ema_of_the_model_shares_the_teacher_and_does_not_average_it(distill_model: Any) -> None:
    model = distill_model()
    holder = model.distillers.teachers["teacher"]
    assert copy.deepcopy(holder) is holder
    averaged = ExponentialMovingAverage(model)
    assert averaged.module.distillers.teachers["teacher"] is holder
    assert averaged.module.student is not model.student
    assert not any("teacher" in key for key in averaged.state_dict())


def test_contract_01_the_teacher_moves_with_the_model(distill_model: Any) -> None:
    model = distill_model(student={"norm": False})
    teacher = model.distillers.teachers["teacher"].model
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    model.to(torch.float64)
    assert {p.dtype for p in teacher.parameters()} == {torch.float64}
    model.to("meta")
    assert {p.device.type for p in teacher.parameters()} == {"meta"}
    assert teacher.data_preprocessor.device.type == "meta"  # and puts its batches there


@pytest.mark.gpu
def test_contract_01_the_teacher_moves_to_the_gpu_and_trains_there(
    distill_model: Any, train_step: Any, batch: Any
) -> None:
    model = distill_model().cuda()
    assert {p.device.type for p in model.distillers.teachers["teacher"].model.parameters()} == {"cuda"}
    assert train_step(model, batch)["loss"].device.type == "cuda"


def test_contract_01_every_module_stays_in_eval_when_the_model_trains(distill_model: Any) -> None:
    model = distill_model(teacher={"dropout": 0.5})
    model.train()
    assert model.student.training
    assert not any(module.training for module in model.distillers.teachers["teacher"].model.modules())


def test_norm_train_uses_the_statistics_of_the_batch(distill_model: Any, batch: Any) -> None:
    features = {}
    for norm in ("eval", "train"):
        torch.manual_seed(0)
        holder = distill_model(options={"norm": norm}, distiller={"teacher_taps": {"feature": "backbone.1"}}).distillers
        features[norm] = holder.teachers["teacher"].collect(batch)["toydistiller/feature"].value
    assert features["train"].mean(dim=(0, 2, 3)).abs().max() < 1e-5 < features["eval"].mean(dim=(0, 2, 3)).abs().max()


def test_contract_02_the_teacher_runs_under_no_grad_but_not_in_inference_mode(distill_model: Any, batch: Any) -> None:
    model = distill_model()
    model(**model.data_preprocessor(batch, True), mode="loss")
    value = model.distillers.teachers["teacher"].collect(batch)["toydistiller/feature"].value
    assert not value.requires_grad
    assert not value.is_inference()
    scale = torch.ones((), requires_grad=True)
    (value * scale).sum().backward()  # saves the teacher's tensor for backward, which inference tensors refuse
    assert scale.grad is not None


def spy(teacher: FrozenTeacher) -> list[str]:
    """Names of the teacher's modules in the order they start."""
    calls: list[str] = []
    for name, module in teacher.model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, name=name: calls.append(name))
    return calls


@pytest.mark.parametrize(
    ("taps", "last"),
    [
        ({"feature": "backbone.1"}, "backbone.1"),
        ({"feature": "neck[1]", "low": "backbone"}, "neck.reduce"),
        ({"feature": "neck[1]", "score": "bbox_head.score"}, "bbox_head.score"),
    ],
)
def test_contract_02_the_teacher_stops_right_after_its_deepest_tap(
    distill_model: Any, batch: Any, taps: dict, last: str
) -> None:
    model = distill_model(distiller={"teacher_taps": taps})
    holder = model.distillers.teachers["teacher"]
    whole = {alias: tap.calls for alias, tap in holder.collect(batch).items()}
    calls = spy(holder)
    stopped = {alias: tap.calls for alias, tap in holder.collect(batch).items()}
    assert calls[-1] == last
    assert calls.count("bbox_head.score") == (2 if "score" in taps else 0)
    assert holder.model.calls == ["predict"]  # only the first forward came to its end
    for alias in whole:
        assert all(torch.equal(a, b) for a, b in zip(whole[alias], stopped[alias], strict=True))


def test_contract_02_other_batch_sizes_learn_their_own_calls(distill_model: Any, batch_of: Any) -> None:
    holder = distill_model(distiller={"teacher_taps": {"feature": "backbone"}}).distillers.teachers["teacher"]
    for size, finished in [(2, 1), (2, 1), (1, 2), (1, 2), (2, 2)]:
        holder.collect(batch_of(size=size))
        assert len(holder.model.calls) == finished


def test_contract_02_a_number_of_calls_that_depends_on_the_data_raises_and_stop_early_false_keeps_all(
    distill_model: Any, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_module, "RECHECK_EVERY", 3)

    def make(**options: Any) -> tuple[FrozenTeacher, Callable[[int], None]]:
        model = distill_model(
            distiller={"teacher_taps": {"feature": "neck", "score": "bbox_head.score"}}, options=options
        )
        holder = model.distillers.teachers["teacher"]

        def call_score(times: int) -> None:
            holder.model.bbox_head.forward = lambda levels: [
                holder.model.bbox_head.score(levels[0]) for _ in range(times)
            ]

        return holder, call_score

    holder, call_score = make()
    call_score(2)
    holder.collect(batch)
    call_score(1)  # fewer calls: the forward runs to its end and nothing is lost
    assert len(holder.collect(batch)["toydistiller/score"].calls) == 1
    call_score(3)
    with pytest.raises(TapError, match=r"depends on the data.*set stop_early=False"):
        holder.collect(batch)

    holder, call_score = make(stop_early=False)
    for times in (2, 3, 1):
        call_score(times)
        assert len(holder.collect(batch)["toydistiller/score"].calls) == times


def test_contract_02_gradients_flow_through_a_frozen_teacher_only_when_asked(distill_model: Any, batch: Any) -> None:
    for grad_through in (False, True):
        holder = distill_model(options={"grad_through": grad_through}).distillers.teachers["teacher"]
        prompt = torch.zeros(1, requires_grad=True)  # something trainable that feeds the teacher
        holder.model.backbone[0].register_forward_pre_hook(lambda module, inputs, prompt=prompt: (inputs[0] + prompt,))
        value = holder.collect(batch)["toydistiller/feature"].value
        assert value.requires_grad is grad_through
        if grad_through:
            value.sum().backward()
            assert prompt.grad.abs() > 0
            assert all(parameter.grad is None for parameter in holder.model.parameters())


def test_contract_04_a_compiled_teacher_is_compiled_up_to_its_deepest_tap(distill_model: Any, batch: Any) -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = distill_model(
        distiller={"teacher_taps": {"feature": "backbone.2"}}, options={"compile": {"backend": backend}}
    )
    holder = model.distillers.teachers["teacher"]
    values = [holder.collect(batch)["toydistiller/feature"].value for _ in range(3)]
    assert all(torch.equal(value, values[0]) for value in values)
    code = "".join(graph.code for graph in graphs)
    assert len(graphs) == 1
    assert code.count("conv2d(") == 1  # neither the neck nor the head was compiled
    assert "dropout" not in code


@pytest.mark.parametrize(
    ("precision", "autocast", "dtype"),
    [
        ("student", False, torch.float32),
        ("student", True, torch.bfloat16),
        ("bf16", False, torch.bfloat16),
        ("bf16", True, torch.bfloat16),
        ("fp32", False, torch.float32),
        ("fp32", True, torch.float32),
    ],
)
def test_the_teacher_computes_in_its_own_precision(
    distill_model: Any, batch: Any, precision: str, autocast: bool, dtype: torch.dtype
) -> None:
    options = {"precision": precision, "compile": {"backend": "eager"}}
    holder = distill_model(options=options).distillers.teachers["teacher"]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        for _ in range(3):  # the first forward is a whole one, later ones are compiled
            assert holder.collect(batch)["toydistiller/feature"].value.dtype is dtype
    assert next(holder.model.parameters()).dtype is torch.float32


@pytest.mark.parametrize("compiled", [False, {"backend": "eager"}])
def test_a_bf16_teacher_teaches_nearly_what_an_fp32_one_does(distill_model: Any, batch: Any, compiled: Any) -> None:
    runs = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = distill_model(teacher={"channels": 4}, options={"precision": precision, "compile": compiled}).train()
        runs.append([model(RawBatch(batch, True), mode="loss") for _ in range(3)][-1])
    exact, rounded = runs
    term = "loss_kd/toydistiller/feature"
    assert rounded["loss_cls"] == exact["loss_cls"]  # the student computes as before
    assert rounded[term] != exact[term]
    assert rounded[term].item() == pytest.approx(exact[term].item(), rel=0.02)
    assert rounded[term].dtype is torch.float32


def test_ema_teacher_is_the_running_mean_of_the_student(distill_model: Any, train_step: Any, batch_of: Any) -> None:
    model = distill_model(options={"role": "ema", "config": None, "momentum": 0.5})
    holder = model.distillers.teachers["teacher"]
    assert isinstance(holder, EMATeacher)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    mean = None
    for seed in range(4):
        weight = model.student.backbone[0].weight.detach().clone()
        mean = weight if mean is None else torch.lerp(mean, weight, 0.5)
        logs = train_step(model, batch_of(seed=seed), optimizer=optimizer)
        assert torch.allclose(holder.model.backbone[0].weight, mean, atol=1e-7)
        buffers = zip(holder.model.buffers(), model.student.buffers(), strict=True)
        assert all(torch.equal(mine, students) for mine, students in buffers)
        assert not holder.model.training
    assert logs["kd/toydistiller/feature"] > 0
    assert all(key.startswith(("student.", "distillers.")) for key in model.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow_random": False}, "has no checkpoint=.*python tools/train.py.*allow_random=True"),
        ({"role": "peer"}, "role='peer' is not available.*optimiser"),
        ({"role": "teacher"}, "role must be one of frozen, ema, peer, cached"),
        ({"precision": "fp8"}, "precision must be one of student, bf16, fp32"),
        ({"norm": "batch"}, "norm must be one of eval, train"),
        ({"forward_mode": "fast"}, "forward_mode must be one of predict, loss, tensor"),
        ({"config": None}, "needs config="),
        ({"role": "cached"}, "needs cache="),
        ({"compile": True, "stop_early": False}, "compile needs stop_early=True"),
        ({"checkpont": "x.pth"}, "Teacher 'teacher' has no option 'checkpont'; it has config, checkpoint, role, "),
    ],
)
def test_a_wrong_option_of_a_teacher_says_what_is_allowed(distill_model: Any, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        distill_model(options=options)


def test_teachers_and_distillers_must_agree_on_names(distill_model: Any) -> None:
    with pytest.raises(ValueError, match=r"learn from \['lidar'\], but teachers= has \['teacher'\]"):
        distill_model(distiller={"teacher": "lidar"})


def test_cached_teacher_is_no_model_and_is_shared_like_any_other() -> None:
    assert CachedTeacher.model is None
    holder = CachedTeacher("teacher", {}, cache=object())
    assert copy.deepcopy(holder) is holder
    assert copy.deepcopy({"teachers": [holder]})["teachers"][0] is holder
