"""benchmarks/training_estimate.py counts without computing, and docs/train_on_nuscenes.md has its figures."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from training_estimate import WithoutArithmetic

from perceptkd.engine.footprint import measure


@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_not_computed_is_counted_alike(autocast: bool) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 2, 2),
        nn.Flatten(),
        nn.Linear(4 * 28 * 28, 7),
    ).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 16, 16)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(images).square().sum().backward()

    counted = []
    for mode in (nullcontext(), WithoutArithmetic()):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), mode:
            counted.append(measure(step, model=model))
    assert counted[0] == counted[1]
    assert counted[0].flops > 1e5
    assert all(not parameter.grad.any() for parameter in model[0].parameters())  # it was not computed


def test_coordinates_are_computed() -> None:
    points, turn = torch.randn(9, 4), torch.randn(4, 4)
    with WithoutArithmetic():
        assert torch.equal(points @ turn, torch.mm(points, turn))
        assert (points @ turn).any()
        assert not (torch.ones(9, 16) @ torch.ones(16, 4)).any()


@pytest.mark.parametrize("names", ["LiDAR to camera", "fusion to camera", "camera to LiDAR", "fusion to LiDAR"])
def test_the_guide_has_the_measured_figures(repository: Path, names: str) -> None:
    path = names.lower().replace(" to ", "2")
    result = json.loads((repository / "benchmarks/results/training_estimate_cpu.json").read_text())
    rows = {name.removeprefix(f"{path}: "): row for row in result["rows"] if (name := row["name"]).startswith(path)}
    student, both = "student's training step", "distillation step"
    (teacher,) = (name for name in rows if name.startswith("teacher"))
    guide = (repository / "docs/train_on_nuscenes.md").read_text()
    (line,) = (line for line in guide.splitlines() if line.startswith(f"| {names} |"))
    parameters, operations, half, full = (re.findall(r"[\d.]+", cell) for cell in line.split("|")[2:6])
    assert parameters[:2] == [f"{float(rows[name]['note'].split()[0]):.1f}" for name in (student, teacher)]
    assert operations[:2] == [f"{rows[name]['ours']:.0f}" for name in (student, teacher)]
    for cell, precision in ((half, "bf16"), (full, "fp32")):
        assert cell == [f"{rows[f'{name} in {precision}']['ours']:.1f}" for name in (student, both)]
