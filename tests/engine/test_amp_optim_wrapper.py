"""bf16 on the CPU: what is computed in it, what stays fp32, and who decides."""

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODEL_WRAPPERS, OPTIM_WRAPPERS, DefaultScope
from torch import nn

from perceptkd.core.errors import InputError
from perceptkd.engine import backends, precision
from perceptkd.engine.distributed import leave_processes
from perceptkd.engine.precision import choose_precision, to_channels_last
from perceptkd.registry import MODELS


@pytest.fixture
def cpu_computes_bf16(monkeypatch: pytest.MonkeyPatch):
    """Pretend that the CPU multiplies bf16 in hardware, or does not."""
    return lambda answer: monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: answer)


def build(model: nn.Module, **options: object):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return OPTIM_WRAPPERS.build({"type": "perceptkd.AmpOptimWrapper", "optimizer": optimizer, **options})


def test_rule_on_the_cpu(cpu_computes_bf16) -> None:
    cpu_computes_bf16(True)
    chosen = choose_precision("cpu")
    assert (chosen.dtype, chosen.channels_last, chosen.reason) == (torch.bfloat16, True, "this CPU computes bf16")
    cpu_computes_bf16(False)
    chosen = choose_precision("cpu")
    assert (chosen.dtype, chosen.channels_last, chosen.reason) == (None, False, "this CPU does not compute bf16")
    assert choose_precision("cpu", request="bf16").dtype is torch.bfloat16
    cpu_computes_bf16(True)
    assert choose_precision("cpu", request="fp32").dtype is None
    with pytest.raises(InputError, match="auto, bf16, fp16 or fp32"):
        choose_precision("cpu", request="fp8")


def test_forward_is_bf16_and_everything_kept_is_fp32(cpu_computes_bf16) -> None:
    cpu_computes_bf16(True)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    wrapper = build(model)
    wrapper.initialize_count_status(model, 0, 1)
    before = model[0].weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.rand(2, 3, 4, 4))
    assert out.dtype is torch.bfloat16
    wrapper.update_params(out.float().square().mean())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[0].weight.dtype is torch.float32
    assert all(state["momentum_buffer"].dtype is torch.float32 for state in wrapper.optimizer.state.values())
    assert not torch.equal(before, model[0].weight)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A group of a single process, which DDP takes."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    leave_processes()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("wrapper", ["FlexibleDistributedDataParallel", "MMDistributedDataParallel"])
def test_gradients_behind_ddp_are_those_of_the_model(
    cpu_computes_bf16, one_process: None, wrapper: str, unused: bool
) -> None:
    """Torch mixes them up if the layout changes behind its back; MMEngine's own wrapper leaves no chance to lay out."""
    cpu_computes_bf16(True)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    inputs = torch.randn(4, 3, 9, 9)
    model(inputs).square().mean().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    ours = wrapper == "FlexibleDistributedDataParallel"
    options = {"precision": "bf16", "device_ids": [0]} if ours else {}
    wrapped = MODEL_WRAPPERS.build({"type": wrapper, "module": model, "find_unused_parameters": unused, **options})
    build(model, precision="bf16").initialize_count_status(wrapped, 0, 2)
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last) is ours
    assert backends()["memory_format"] == ("channels_last" if ours else "contiguous")
    for _ in range(2):
        model.zero_grad()
        wrapped(inputs).square().mean().backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_teachers_are_laid_out_as_the_student(cpu_computes_bf16, repository: Path) -> None:
    cpu_computes_bf16(True)
    folder = repository / "tests/assets/tiny_coco"
    runpy.run_path(str(folder / "mimic.py"))
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(Config.fromfile(folder / "distill.py").model)
    build(model).initialize_count_status(model, 0, 1)
    for part in (model.student, model.distillers.teachers["big"].model):
        assert part.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_fp32_changes_nothing(cpu_computes_bf16) -> None:
    cpu_computes_bf16(True)
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    inputs = torch.rand(2, 3, 4, 4)
    expected = model(inputs)
    wrapper = build(model, precision="fp32")
    with wrapper.optim_context(model):
        assert torch.equal(model(inputs), expected)
    assert model[0].weight.is_contiguous()


def test_fp16_scales_the_loss_and_skips_a_step_that_overflows() -> None:
    model = nn.Linear(4, 1)
    nn.init.zeros_(model.weight)
    wrapper = build(model, precision="fp16", clip_grad={"max_norm": 1.0})
    wrapper.initialize_count_status(model, 0, 3)
    scale = wrapper.state_dict()["loss_scaler"]["scale"]
    with wrapper.optim_context(model):
        out = model(torch.full((2, 4), 1e-3))
    assert out.dtype is torch.float16
    wrapper.update_params(out.float().mean() * 1e-3)  # 1e-6, which fp16 gradients would lose without the scale
    assert model.weight.abs().min().item() == pytest.approx(0.1 * 1e-6, rel=0.01)
    kept = model.weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.full((2, 4), 1e3))
    wrapper.update_params(out.float().mean() * 1e3)
    assert torch.equal(model.weight, kept)
    assert wrapper.state_dict()["loss_scaler"]["scale"] == scale / 2
    resumed = build(model, precision="fp16")
    resumed.load_state_dict(wrapper.state_dict())
    assert resumed.state_dict()["loss_scaler"]["scale"] == scale / 2
    build(model).load_state_dict(wrapper.state_dict())  # a run that goes on without fp16


def test_accumulated_steps_move_as_one_step_on_their_mean(cpu_computes_bf16) -> None:
    cpu_computes_bf16(False)
    inputs = torch.randn(4, 3)
    weights = []
    for accumulated in (1, 2):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        wrapper = build(model, accumulative_counts=accumulated)
        wrapper.initialize_count_status(model, 0, accumulated)
        for part in inputs.chunk(accumulated):
            with wrapper.optim_context(model):
                loss = model(part).square().mean()
            wrapper.update_params(loss)
        weights.append(model.weight.detach())
    torch.testing.assert_close(*weights)


def test_channels_last_touches_2d_convolutions_alone() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 3, 3, 8))

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3), Sparse(), nn.ConvTranspose2d(4, 4, 2))
    parameters = list(model.parameters())
    values = [p.detach().clone() for p in parameters]
    assert to_channels_last(model) == 2
    assert model[2].weight.is_contiguous()
    assert all(p is q and torch.equal(p, v) for p, q, v in zip(parameters, model.parameters(), values))


def test_the_choice_is_kept_for_results(cpu_computes_bf16) -> None:
    cpu_computes_bf16(True)
    model = nn.Linear(2, 2)
    build(model).initialize_count_status(model, 0, 1)
    assert backends()["amp"] == "bfloat16"
    assert backends()["mmcv_ops"] == "own"
    assert backends()["sparse"] == "torch"
    build(model, precision="fp32").initialize_count_status(model, 0, 1)
    assert backends()["amp"] == "off"


def test_trains_and_resumes_a_detector(tiny_config: Config, tmp_path, train) -> None:
    tiny_config.optim_wrapper.update(type="perceptkd.AmpOptimWrapper", precision="bf16")
    train(tiny_config, tmp_path / "through")
    train(tiny_config, tmp_path / "stopped", kill_at=4)
    train(tiny_config, tmp_path / "stopped", resume=True)
    through, stopped = (
        torch.load(tmp_path / run / "epoch_2.pth", weights_only=False) for run in ("through", "stopped")
    )
    assert all(torch.equal(w, stopped["state_dict"][k]) for k, w in through["state_dict"].items())
    assert all(w.dtype is not torch.bfloat16 for w in through["state_dict"].values())
