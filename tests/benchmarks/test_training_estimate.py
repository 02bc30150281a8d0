"""benchmarks/training_estimate.py counts without computing, and docs/train_on_nuscenes.md has its figures."""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

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


@pytest.fixture
def measured(repository: Path) -> dict[str, Any]:
    """The committed rows, by name."""
    result = json.loads((repository / "benchmarks/results/training_estimate_cpu.json").read_text())
    return {row["name"]: row for row in result["rows"]}


@pytest.fixture
def guide(repository: Path) -> str:
    return (repository / "docs/train_on_nuscenes.md").read_text()


@pytest.mark.parametrize("names", ["LiDAR to camera", "fusion to camera", "camera to LiDAR", "fusion to LiDAR"])
def test_the_guide_s_table_has_the_measured_figures(measured: dict[str, Any], guide: str, names: str) -> None:
    path = names.lower().replace(" to ", "2")
    rows = {name.removeprefix(f"{path}: "): row for name, row in measured.items() if name.startswith(path)}
    student, both = "student's training step", "distillation step"
    (teacher,) = (name for name in rows if name.startswith("teacher"))
    (line,) = (line for line in guide.splitlines() if line.startswith(f"| {names} |"))
    parameters, operations, half, full = (re.findall(r"[\d.]+", cell) for cell in line.split("|")[2:6])
    millions = {name: float(rows[name]["note"].split()[0]) for name in (student, teacher, both)}
    gigaflops = {name: rows[name]["ours"] for name in (student, teacher, both)}
    for cell, values, digits in ((parameters, millions, 1), (operations, gigaflops, 0)):
        assert cell[:2] == [f"{values[name]:.{digits}f}" for name in (student, teacher)]
        adapters = values[both] - values[student] - values[teacher]
        assert [float(number) for number in cell[2:]] == pytest.approx([adapters] if adapters > 0.5 else [], rel=0.02)
    for cell, precision in ((half, "bf16"), (full, "fp32")):
        assert cell == [f"{rows[f'{name} in {precision}']['ours']:.1f}" for name in (student, both)]


def test_the_guide_s_text_has_the_measured_figures(measured: dict[str, Any], guide: str) -> None:
    frames, text = 28_130, " ".join(guide.split())
    (whole_mib,) = {row["ours"] for name, row in measured.items() if name.endswith("cache of whole maps")}
    near_mib, share = measured["cache of the cells near boxes"]["ours"], measured["cells near boxes"]
    boxes = float(re.findall(r"([\d.]+) boxes", share["note"])[0])
    assert f"{whole_mib} MiB a sample in fp16 on every path: {whole_mib * frames / 2**20:.1f} TiB for the" in text
    assert f"{share['ours']} % were cells near the {boxes:.0f} boxes of a sample" in text
    assert f"{near_mib} MiB a sample, {near_mib * frames / 2**10:.0f} GiB for one view" in text
    parameters = float(measured["lidar2camera: student's training step"]["note"].split()[0])
    assert f"are {parameters:.1f} M x 16 bytes = {parameters * 16e6 / 2**30:.2f} GiB" in text
    assert f"{0.75 * parameters * 16e6 / 2**30:.2f} GiB less" in text
