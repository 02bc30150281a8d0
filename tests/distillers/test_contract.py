"""What the contract of the core asks of every registered method (line 8), and of the code of all of them."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import perceptkd.distillers
from perceptkd.core.batch import RawBatch
from perceptkd.core.distiller import Distiller
from perceptkd.registry import DISTILLERS, MODELS

FOLDER = Path(perceptkd.distillers.__file__).parent
METHODS = sorted(
    (cls for cls in DISTILLERS.module_dict.values() if cls.__module__.startswith("perceptkd.distillers.")),
    key=lambda cls: cls.__name__,
)
SMALLEST_EPS = 1e-6


def smallest_config(method: type[Distiller], repository: Path) -> Config:
    """A config of SimWorld in the method's folder, its teachers with random weights.

    From one sensor or encoder to another, as ``voxel2pillar``, where there are such: `make_batch_for` has their inputs.
    """
    stem = method.__module__.split(".")[-1]
    paths = (repository / "configs" / stem).glob(f"{stem}_*_sim.py")
    path = min(paths, key=lambda path: ("2" not in path.stem, "fusion" in path.stem, path.stem))
    config = Config.fromfile(path)
    for teacher in config.model.teachers.values():
        teacher.update(checkpoint=None, allow_random=True)
    return config


def test_every_module_has_a_registered_method() -> None:
    assert {cls.__module__.split(".")[-1] for cls in METHODS} == {path.stem for path in FOLDER.glob("[!_]*.py")}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_contract_08_no_foreground_gives_graph_connected_zeros(
    method: type[Distiller], repository: Path, make_batch_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every term of the method's own config is 0 on samples without a box, and its gradient exists and is 0.

    Terms that the method declares as background terms must be finite and connected instead, to the student or to the
    method's own parts.
    """
    monkeypatch.chdir(repository)
    model = MODELS.build(smallest_config(method, repository).model).train()
    (distiller,) = model.distillers.each()
    assert type(distiller) is method
    batch = make_batch_for(model.student, 1, boxes=0)
    losses = model(RawBatch(batch, True), mode="loss")
    parameters = list(model.student.parameters())
    for term in distiller.weights:
        value = losses[f"loss_kd/{distiller.name}/{term}"]
        own = [each for each in distiller.parameters() if each.requires_grad and term in distiller.background_terms]
        found = torch.autograd.grad(value, [*parameters, *own], retain_graph=True, allow_unused=True)
        reached = [gradient for gradient in found if gradient is not None]
        assert reached, f"{term} is connected to nothing that is trained"
        if term in distiller.background_terms:
            assert all(tensor.isfinite().all() for tensor in (value, *reached)), term
            continue
        assert value == 0, term
        assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in reached), term


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_cuda_agrees_with_the_cpu(
    method: type[Distiller], repository: Path, make_batch_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every term of the method's own config, and a gradient for everything that it trains."""
    monkeypatch.chdir(repository)
    config = smallest_config(method, repository)
    batch = make_batch_for(MODELS.build(config.model).student, 2, boxes=4)
    terms = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = MODELS.build(config.model).train().to(device)
        losses = model(RawBatch(batch, True), mode="loss")
        (distiller,) = model.distillers.each()
        terms.append({name: losses[f"kd/{distiller.name}/{name}"].item() for name in distiller.weights})
        sum(losses[f"loss_kd/{distiller.name}/{name}"] for name in distiller.weights).backward()
        assert all(each.grad.isfinite().all() for each in distiller.parameters() if each.requires_grad)
    assert terms[1] == pytest.approx(terms[0], rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_background_terms_are_terms(method: type[Distiller]) -> None:
    assert method.background_terms <= set(method.default_weights)


def forbidden(source: str) -> list[str]:
    """Products with a literal 0 and literals below the smallest eps, as they are written."""
    found = []
    for node in ast.walk(ast.parse(source)):
        sides = [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) else []
        tiny = isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < node.value < SMALLEST_EPS
        if tiny or any(isinstance(side, ast.Constant) and side.value == 0 for side in sides):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_contract_08_no_product_with_zero_and_no_eps_below_1e_6(path: Path) -> None:
    assert forbidden(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("loss = loss + feature.sum() * 0", ["feature.sum() * 0"]),
        ("loss += 0.0 * sum(p.sum() for p in extra)", ["0.0 * sum((p.sum() for p in extra))"]),
        ("def loss(x, eps=1e-8): return x / (x.norm() + eps)", ["1e-08"]),
        ("def loss(x, eps=1e-6): return (x * 0.5).sum() / (2 + eps)", []),
    ],
)
def test_what_the_scan_finds(source: str, expected: list[str]) -> None:
    assert forbidden(source) == expected
