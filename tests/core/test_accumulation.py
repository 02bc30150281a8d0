"""Gradient accumulation with a teacher, through the project's own optimiser wrapper."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perceptkd.engine.amp_optim_wrapper import AmpOptimWrapper

PARTS = 3


def trained(model: Any, batches: list[Any], *, accumulative_counts: int) -> dict[str, Tensor]:
    """The weights after two steps of the optimiser, with a gradient that is clipped."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    wrapper = AmpOptimWrapper(
        optimizer=optimizer,
        precision="fp32",
        accumulative_counts=accumulative_counts,
        clip_grad={"max_norm": 0.5, "norm_type": 2},
    )
    wrapper.initialize_count_status(model, 0, len(batches))
    for batch in batches:
        model.train_step(batch, wrapper)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def join(batches: list[Any]) -> Any:
    return {key: [item for batch in batches for item in batch[key]] for key in batches[0]}


@pytest.mark.parametrize("accumulative_counts", [PARTS, 1])
def test_accumulated_steps_are_one_step_on_the_joint_batch(
    distill_model: Any, batch_of: Any, accumulative_counts: int
) -> None:
    """Small batches hold equally many objects, so that averages over objects are those of the joint batch.

    Without accumulation they are another training.
    """
    small = [batch_of(size=2, seed=seed) for seed in range(2 * PARTS)]
    joint = [join(small[:PARTS]), join(small[PARTS:])]
    runs = []
    for batches, counts in ((small, accumulative_counts), (joint, 1)):
        torch.manual_seed(0)
        model = distill_model(
            student={"norm": False},
            teacher={"channels": 6},
            distiller={
                "weights": {"feature": 10.0},
                "adapters": {"feature": {"type": "conv", "in_channels": 4, "out_channels": 6}},
            },
        )
        runs.append(trained(model.train(), batches, accumulative_counts=counts))
    accumulated, expected = runs
    assert any("adapters" in name for name in expected)
    furthest = max((accumulated[name] - value).abs().max().item() for name, value in expected.items())
    assert (furthest < 1e-5) is (accumulative_counts == PARTS)
