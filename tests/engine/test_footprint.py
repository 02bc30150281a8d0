"""Operations and memory against sums by hand."""

import torch
from torch import nn

from perceptkd.engine.footprint import measure, state_bytes


def make_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 10))


def test_operations_of_a_step() -> None:
    """Forward 2 M N K each; backward as much again for the weights, and for the input of the second layer."""
    model, inputs = make_model(), torch.randn(32, 100)
    first, second = 2 * 32 * 100 * 200, 2 * 32 * 200 * 10
    assert measure(lambda: model(inputs).sum().backward(), model=model).flops == 2 * first + 3 * second


def test_memory_without_gradients_is_what_is_alive_at_once() -> None:
    model, inputs = make_model(), torch.randn(32, 100)
    with torch.no_grad():
        found = measure(lambda: model(inputs), model=model)
    hidden = 32 * 200 * 4
    assert found.peak_bytes == 2 * hidden  # before and after the ReLU; the second layer finds the first one freed


def test_memory_of_training_keeps_activations_and_makes_gradients() -> None:
    model, inputs = make_model(), torch.randn(32, 100)
    found = measure(lambda: model(inputs).sum().backward(), model=model)
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    kept = 32 * 200 * 4  # the output of the ReLU, for both layers' backward
    assert weights < found.peak_bytes < weights + 3 * kept


def test_memory_grows_with_the_batch_by_its_activations() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(50, 50), nn.ReLU()) for _ in range(20)))
    one, two = (
        measure(lambda size=size: model(torch.zeros(size, 50)).sum().backward(), model=model).peak_bytes
        for size in (1000, 2000)
    )
    kept = 20 * 1000 * 50 * 4
    assert kept <= two - one <= 1.2 * kept


def test_state_of_the_optimiser() -> None:
    model = make_model()
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert state_bytes(model, "AdamW") == 3 * weights
    assert state_bytes(model, "SGD") == 2 * weights
    model[0].requires_grad_(False)
    assert state_bytes(model, "AdamW") == weights + 2 * (200 * 10 + 10) * 4
    assert state_bytes(model, None) == weights
