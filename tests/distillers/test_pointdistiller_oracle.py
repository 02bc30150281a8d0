"""PointDistiller against the authors' functions where present.

The authors' repository is not part of this project; PERCEPTKD_POINTDISTILLER_REFERENCE may name a local clone of it.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceptkd.core.distiller import Step
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.distillers.pointdistiller import EdgeEncoder, PointDistiller

WANTED = {
    "kd_utils.py": ("pool_features", "pool_features1d", "index_feature", "square_distance", "knn_feature"),
    "detectors/voxelnet.py": ("get_voxel_knn", "get_knn_voxel_backbone"),
    "detectors/point_rcnn.py": ("get_knn_point_backbone",),
}


@pytest.fixture
def reference(authors_file: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The authors' functions, of which those of ``forward_train`` read their adapters from a global ``self``."""
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    names: dict[str, Any] = {"torch": torch, "F": F, "self": SimpleNamespace()}
    for file, functions in WANTED.items():
        path = authors_file("POINTDISTILLER", file)
        found = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and node.name in functions
        ]
        assert len(found) == len(functions)
        exec(compile(ast.Module(found, []), str(path), "exec"), names)
    return names


def their_adapter(encoder: EdgeEncoder) -> nn.Sequential:
    """1 x 1 convolution, batch norm and ReLU on edges [B, 2C, N, K], with the weights of ours."""
    out_channels, in_channels = encoder.weight.shape
    convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    convolution.weight.data = encoder.weight.data[..., None, None].clone()
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


def build(on: str, **options: Any) -> PointDistiller:
    torch.manual_seed(0)
    distiller = PointDistiller(on=on, released=True, out_channels=8, num_samples=12, k=5, **options)
    distiller.build_adapters()
    return distiller


def taps(**values: Any) -> dict[str, Tap]:
    return {alias: Tap(TapSpec(alias), [value]) for alias, value in values.items()}


def check(distiller: PointDistiller, sides: Any, student: Tensor, expected: Tensor, adapter: nn.Sequential) -> None:
    """The same loss, and the same gradients of the student's features and of its encoder."""
    loss = distiller.weight("graph", 0.0) * distiller.loss(*sides, Step())["graph"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = torch.autograd.grad(loss, (student, distiller.student_encoders[0].weight))
    theirs = torch.autograd.grad(expected, (student, adapter[0].weight))
    assert torch.allclose(ours[0], theirs[0], atol=1e-7)
    assert torch.allclose(ours[1], theirs[1][..., 0, 0], atol=1e-6)


OPTIONS = [{}, {"edge": "sub"}, {"reweight": "none"}]


def authors_options(options: dict[str, str]) -> dict[str, Any]:
    fuse = {"cat": "idendity", "sub": "sub"}[options.get("edge", "cat")]
    return {"fuse_mode": fuse, "reweight": options.get("reweight") != "none", "kneighbours": 5}


@pytest.mark.parametrize("options", OPTIONS)
def test_golden_voxels(reference: dict, options: dict) -> None:
    distiller = build("voxels", student_channels=4, teacher_channels=6, **options)
    student, teacher = torch.randn(60, 4, requires_grad=True), torch.randn(60, 6)
    counts = torch.randint(1, 4, (60,)) * 100 + torch.randperm(60)  # without ties, so that both choose the same
    coors = torch.stack((torch.arange(60) // 20, *[0 * torch.arange(60)] * 2, torch.arange(60)), dim=1)
    adapters = [their_adapter(e[0]) for e in (distiller.student_encoders, distiller.teacher_encoders)]
    reference["self"].student_gcn_adapt, reference["self"].teacher_gcn_adapt = adapters
    expected = reference["get_voxel_knn"](teacher, student, counts, num_voxels=12, **authors_options(options))
    sides = taps(feature=student, coors=coors), taps(feature=teacher, coors=coors, num_points=counts)
    check(distiller, sides, student, expected, adapters[0])


def test_golden_voxels_tied_for_the_most_points_share_all_weight(reference: dict) -> None:
    distiller = build("voxels", student_channels=4, teacher_channels=6)
    student, teacher = torch.randn(60, 4, requires_grad=True), torch.randn(60, 6)
    counts = torch.tensor([32] * 5 + [31] * 7 + [3] * 48)  # the 12 centres are certain, their order is not
    coors = torch.stack([0 * torch.arange(60)] * 3 + [torch.arange(60)], dim=1)
    adapters = [their_adapter(e[0]) for e in (distiller.student_encoders, distiller.teacher_encoders)]
    reference["self"].student_gcn_adapt, reference["self"].teacher_gcn_adapt = adapters
    expected = reference["get_voxel_knn"](teacher, student, counts, num_voxels=12, kneighbours=5, reweight=True)
    sides = taps(feature=student, coors=coors), taps(feature=teacher, coors=coors, num_points=counts)
    check(distiller, sides, student, expected, adapters[0])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_golden_maps(reference: dict, options: dict, batch_size: int) -> None:
    distiller = build("maps", student_channels=4, teacher_channels=6, **options)
    student = torch.randn(batch_size, 4, 5, 7, requires_grad=True)
    teacher = torch.randn(batch_size, 6, 5, 7)
    adapters = [their_adapter(e[0]) for e in (distiller.student_encoders, distiller.teacher_encoders)]
    reference["self"].student_gcn_adapt, reference["self"].teacher_gcn_adapt = ([each] for each in adapters)
    expected = reference["get_knn_voxel_backbone"]([teacher], [student], 0, num_voxels=12, **authors_options(options))
    check(distiller, (taps(feature=student), taps(feature=teacher)), student, expected, adapters[0])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pool", ["none", "max"])
def test_golden_points(reference: dict, options: dict, pool: str) -> None:
    distiller = build("points", student_channels=4, teacher_channels=6, pool=pool, **options)
    student, teacher = torch.randn(2, 4, 50, requires_grad=True), torch.randn(2, 6, 50)
    xyz = torch.rand(2, 50, 3)
    adapters = [their_adapter(e[0]) for e in (distiller.student_encoders, distiller.teacher_encoders)]
    reference["self"].student_gcn_adapt, reference["self"].teacher_gcn_adapt = adapters
    expected = reference["get_knn_point_backbone"](
        teacher, student, num_points=12, pool_mode=pool, **authors_options(options)
    )
    sides = taps(feature=student, xyz=xyz), taps(feature=teacher, xyz=xyz)
    check(distiller, sides, student, expected, adapters[0])
