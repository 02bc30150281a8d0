"""Contracts 4 and 5 on taps of what a module is called with."""

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceptkd.core.tap import ForwardStopped, Tap, TapCollector, TapError, parse_tap


class VoxelEncoder(nn.Module):
    """Called as mmdet3d's voxel encoders are, and writes into its first argument as ``PillarFeatureNet`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.runs = 0

    def forward(self, features: Tensor, num_points: Tensor, coors: Tensor, scale: float = 1.0) -> Tensor:
        self.runs += 1
        mean = features.sum(dim=1) / num_points[:, None]
        features -= coors[:, None]
        return self.layer(mean) * scale


class Detector(nn.Module):
    """Hands some arguments on by position and some by name."""

    def __init__(self) -> None:
        super().__init__()
        self.voxel_encoder = VoxelEncoder()
        self.backbone = nn.Linear(3, 2)

    def forward(self, voxels: dict[str, Tensor]) -> Tensor:
        features = voxels["features"] + 0.0  # for the encoder to write into
        return self.backbone(self.voxel_encoder(features, voxels["num_points"], coors=voxels["coors"]))


@pytest.fixture
def voxels() -> dict[str, Tensor]:
    return {"features": torch.rand(4, 2, 3), "num_points": torch.tensor([1.0, 2, 2, 1]), "coors": torch.rand(4, 3)}


def collect(model: nn.Module, voxels: dict[str, Tensor], **taps: Any) -> dict[str, Tap]:
    collector = TapCollector.attach(model, taps)
    with collector.recording():
        model(voxels)
    return collector.taps()


@pytest.mark.parametrize(
    ("text", "path", "argument", "index"),
    [
        ("voxel_encoder(coors)", "voxel_encoder", "coors", ()),
        ("pts.encoder(2)['a'][0]", "pts.encoder", "2", ("a", 0)),
    ],
)
def test_an_argument_stands_in_parentheses(text: str, path: str, argument: str, index: tuple) -> None:
    spec = parse_tap(text)
    assert (spec.path, spec.argument, spec.index) == (path, argument, index)
    assert parse_tap(str(spec)) == spec == parse_tap({"path": text})
    assert spec.place == f"{path}()" != parse_tap(path).place


@pytest.mark.parametrize("text", ["encoder()", "encoder(a b)", "encoder(a)(b)", "(a)", "encoder[0](a)"])
def test_a_malformed_argument_says_what_it_should_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"write 'module\.path', or 'module\.path\(argument\)'"):
        parse_tap(text)
    with pytest.raises(ValueError, match="A tap is"):
        parse_tap({"path": "encoder", "argument": "a"})


def test_arguments_are_read_by_name_and_position_whatever_way_they_were_given(voxels: dict) -> None:
    taps = collect(
        Detector(), voxels, counts="voxel_encoder(num_points)", second="voxel_encoder(1)", place="voxel_encoder(coors)"
    )
    assert torch.equal(taps["counts"].value, voxels["num_points"])
    assert torch.equal(taps["second"].value, voxels["num_points"])
    assert torch.equal(taps["place"].value, voxels["coors"])


def test_contract_05_an_argument_is_what_it_was_before_the_module_wrote_into_it(voxels: dict) -> None:
    taps = collect(Detector(), voxels, before="voxel_encoder(features)", after="voxel_encoder")
    assert torch.equal(taps["before"].value, voxels["features"])
    assert len(taps["after"].calls) == 1
    with pytest.raises(TapError, match=r"'voxel_encoder\(features\)' of the model was overwritten in place"):
        collect(Detector(), voxels, before={"path": "voxel_encoder(features)", "clone": False})


def test_an_argument_carries_the_gradient_to_where_it_comes_from(voxels: dict) -> None:
    model = Detector()
    collect(model, voxels, hidden="backbone(0)")["hidden"].value.square().sum().backward()
    assert model.voxel_encoder.layer.weight.grad.abs().sum() > 0
    assert model.backbone.weight.grad is None


def test_contract_02_a_forward_that_is_only_asked_for_arguments_ends_before_the_module(voxels: dict) -> None:
    model = Detector()
    collector = TapCollector.attach(model, {"a": "voxel_encoder(num_points)", "b": "voxel_encoder(coors)"})
    with collector.recording():
        model(voxels)
    assert collector.counts == {"voxel_encoder()": 1}
    with collector.recording(stop_at=collector.counts), suppress(ForwardStopped):
        model(voxels)
        pytest.fail("the forward should have ended")
    assert model.voxel_encoder.runs == 1
    assert torch.equal(collector.taps()["b"].value, voxels["coors"])


def test_contract_04_an_argument_that_a_module_does_not_take_names_those_it_takes() -> None:
    with pytest.raises(TapError, match="'voxel_encoder' of the student takes no 'coord', but features, num_points, c"):
        TapCollector.attach(Detector(), {"a": "voxel_encoder(coord)"}, owner="student")
    with pytest.raises(TapError, match="has no module 'encoder'"):
        TapCollector.attach(Detector(), {"a": "encoder(coors)"})


@pytest.mark.parametrize("argument", ["scale", "3"])
def test_contract_04_an_argument_that_was_not_given_raises_with_those_that_were(voxels: dict, argument: str) -> None:
    with pytest.raises(TapError, match=rf"called without '{argument}': .*'features', 'num_points', 'coors'"):
        collect(Detector(), voxels, a=f"voxel_encoder({argument})")


def test_a_copied_model_keeps_its_arguments_to_itself(voxels: dict) -> None:
    model = Detector()
    collector = TapCollector.attach(model, {"a": "voxel_encoder(coors)"})
    twin, twin_collector = copy.deepcopy((model, collector))
    with collector.recording(), twin_collector.recording():
        twin(voxels)
    with pytest.raises(TapError, match="did not fire"):
        collector.taps()
    assert len(twin_collector.taps()["a"].calls) == 1
    collector.detach()
    assert not model.voxel_encoder._forward_pre_hooks


def test_contract_04_arguments_are_read_under_torch_compile(voxels: dict) -> None:
    torch._dynamo.reset()
    model = Detector()
    collector = TapCollector.attach(model, {"place": "voxel_encoder(coors)", "hidden": "backbone(0)"})
    graphs: list[Callable] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model.compile(backend=backend)
    for _ in range(2):
        with collector.recording():
            model(voxels)
        taps = collector.taps()
        assert torch.equal(taps["place"].value, voxels["coors"])
        assert taps["hidden"].value.requires_grad
        assert [len(tap.calls) for tap in taps.values()] == [1, 1]
    assert graphs
