"""Distillation in fp16 with a scaled loss: what overflows is skipped, and training goes on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor

from perceptkd.core import DistillModel

ADAPTER = {"type": "conv", "in_channels": 4, "out_channels": 6}
BEYOND_FP16 = 1e6


@pytest.fixture
def model(distill_model: Callable[..., DistillModel]) -> DistillModel:
    """Without batch norm, whose running statistics would keep what overflowed."""
    distiller = {"adapters": {"feature": ADAPTER}}
    plain = {"norm": False}
    return distill_model(plain, {**plain, "channels": 6}, distiller, check_finite=False).train()


def fp16_optimizer(model: DistillModel) -> Any:
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    wrapper = OPTIM_WRAPPERS.build({"type": "perceptkd.AmpOptimWrapper", "precision": "fp16", "optimizer": optimizer})
    wrapper.initialize_count_status(model, 0, 100)
    return wrapper


def scale_of(optimizer: Any) -> float:
    return optimizer.state_dict()["loss_scaler"]["scale"]


def weights_of(model: DistillModel) -> list[Tensor]:
    return [value.detach().clone() for value in model.parameters() if value.requires_grad]


def moved(model: DistillModel, before: list[Tensor]) -> bool:
    return any(not torch.equal(first, second) for first, second in zip(weights_of(model), before, strict=True))


def test_scaled_gradients_that_overflow_are_skipped_until_the_scale_fits(model: DistillModel, batch: Any) -> None:
    model.distillers["toydistiller"].weights["feature"] = 1e3  # times the scale, beyond fp16
    optimizer, before = fp16_optimizer(model), weights_of(model)
    first_scale = scale_of(optimizer)
    seen = []
    model.student.neck.register_forward_hook(lambda _module, _inputs, output: seen.append(output[1].dtype))
    logs = model.train_step(batch, optimizer)
    assert logs["loss_kd/toydistiller/feature"].isfinite()
    assert logs["kd/toydistiller/feature"].dtype is torch.float32
    assert not moved(model, before)
    assert scale_of(optimizer) == first_scale / 2
    for _ in range(20):
        model.train_step(batch, optimizer)
    assert moved(model, before)
    assert all(value.isfinite().all() for value in weights_of(model))
    assert set(seen) == {torch.float16}


def test_a_term_that_overflows_is_skipped_where_it_may(model: DistillModel, batch: Any) -> None:
    optimizer, before = fp16_optimizer(model), weights_of(model)
    first_scale = scale_of(optimizer)
    overflowing = {**batch, "inputs": [BEYOND_FP16 * image for image in batch["inputs"]]}
    logs = model.train_step(overflowing, optimizer)
    assert not logs["kd/toydistiller/feature"].isfinite()
    assert not moved(model, before)
    assert scale_of(optimizer) == first_scale / 2
    for _ in range(10):  # the first of them may still overflow
        model.train_step(batch, optimizer)
    assert moved(model, before)
    model.distillers.check_finite = True
    with pytest.raises(FloatingPointError, match="check_finite=False where a loss scaler should skip such steps"):
        model.train_step(overflowing, optimizer)
