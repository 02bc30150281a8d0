"""Contracts 4 and 5: taps."""

import copy
from collections import namedtuple
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perceptkd.core.tap import ForwardStopped, Tap, TapCollector, TapError, TapSpec, map_tensors, parse_tap


def collect(model: nn.Module, image: Tensor, **taps: Any) -> dict[str, Tap]:
    collector = TapCollector.attach(model, taps)
    with collector.recording():
        model(image)
    return collector.taps()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("text", "path", "index"),
    [
        ("neck", "neck", ()),
        ("neck[0]", "neck", (0,)),
        ("backbone.layers.0[-1]", "backbone.layers.0", (-1,)),
        ("bbox_head[0][0]['heatmap']", "bbox_head", (0, 0, "heatmap")),
        ('head["a b"][3]', "head", ("a b", 3)),
    ],
)
def test_a_tap_is_a_module_path_and_an_index_into_its_output(text: str, path: str, index: tuple) -> None:
    spec = parse_tap(text)
    assert (spec.path, spec.index) == (path, index)
    assert parse_tap(str(spec)) == spec == parse_tap({"path": text}) == parse_tap(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("neck[", "Cannot read the tap"),
        ("neck[i]", "Cannot read the tap"),
        ("", "Cannot read the tap"),
        ({"path": "neck", "layout": "zyx"}, "must be 'yx', 'xy' or 'image'"),
        ({"path": "neck", "extent": (0, 1)}, "must be .x0, y0, x1, y1. in metres"),
        ({"path": "neck", "strid": 8}, "path, layout, extent, stride, clone"),
        ({"layout": "yx"}, "path, layout, extent, stride, clone"),
    ],
)
def test_a_malformed_tap_says_what_it_should_be(spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_tap(spec)


def test_contract_04_unknown_tap_prints_the_five_nearest_names(toy: Any) -> None:
    with pytest.raises(TapError, match=r"has no module 'neck\.redcue'") as caught:
        TapCollector.attach(toy(), {"a": "neck.redcue"})
    nearest = str(caught.value).split("Nearest: ")[1].split(", ")
    assert len(nearest) == 5
    assert nearest[0] == "neck.reduce"
    assert set(nearest) <= set(dict(toy().named_modules()))


def test_contract_04_a_container_that_is_never_called_is_refused_at_build() -> None:
    model = nn.Sequential(nn.ModuleList([nn.Conv2d(3, 3, 1)]))
    with pytest.raises(TapError, match=r"ModuleList, which is never called: tap '0\.0'"):
        TapCollector(model, {"a": TapSpec("0")})


def test_contract_04_a_tap_that_did_not_fire_raises_with_its_path(toy: Any, image: Tensor) -> None:
    model = toy()
    model.unused = nn.Conv2d(3, 3, 1)
    with pytest.raises(TapError, match=r"did not fire in this forward: unused\[0\]"):
        collect(model, image, a="unused[0]", b="neck")


def test_contract_04_an_index_the_output_lacks_raises_with_the_tap(toy: Any, image: Tensor) -> None:
    with pytest.raises(TapError, match=r"'neck\[5\]'.*no \[5\] in 'neck'"):
        collect(toy(), image, a="neck[5]")


def test_contract_04_every_call_is_kept_in_order_and_value_refuses_several(toy: Any, image: Tensor) -> None:
    model = toy()
    taps = collect(model, image, score="bbox_head.score", levels="neck")
    expected = [model.bbox_head.score(level) for level in taps["levels"].value]
    assert [call.shape for call in taps["score"].calls] == [(2, 1, 8, 8), (2, 1, 4, 4)]
    assert all(torch.equal(a, b) for a, b in zip(taps["score"].calls, expected))
    with pytest.raises(TapError, match=r"'bbox_head\.score' of the model fired 2 times; read tap\.calls"):
        _ = taps["score"].value


def test_contract_04_the_store_is_cleared_each_step(toy: Any, image: Tensor) -> None:
    model = toy()
    collector = TapCollector.attach(model, {"a": "backbone"})
    for _ in range(3):
        with collector.recording():
            model(image)
        assert len(collector.taps()["a"].calls) == 1
    model(image)  # nothing is recorded outside of a step
    assert len(collector.taps()["a"].calls) == 1
    collector.clear()
    with pytest.raises(TapError, match="did not fire"):
        collector.taps()


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.inner = nn.Conv2d(4, 4, 1)
        self.runs = 0
        self.reentrant = reentrant

    def _inside(self, value: Tensor) -> Tensor:
        self.runs += 1
        return self.inner(value).relu()

    def forward(self, image: Tensor) -> Tensor:
        return checkpoint(self._inside, self.first(image), use_reentrant=self.reentrant)


def test_contract_04_recomputation_during_backward_is_ignored(image: Tensor) -> None:
    model = Checkpointed(reentrant=False)
    collector = TapCollector.attach(model, {"a": "inner"})
    with collector.recording():
        output = model(image)
    tap = collector.taps()["a"]
    (output.sum() + tap.value.square().sum()).backward()
    assert model.runs == 2  # it was recomputed
    assert len(tap.calls) == len(collector.taps()["a"].calls) == 1
    assert model.inner.weight.grad.abs().sum() > 0


def test_contract_04_a_tap_inside_reentrant_checkpointing_is_refused_because_nothing_would_train(image: Tensor) -> None:
    with pytest.raises(TapError, match=r"fired with gradients disabled.*use_reentrant=False"):
        collect(Checkpointed(reentrant=True), image, a="inner")


@pytest.mark.parametrize("attach_first", [True, False])
def test_contract_04_taps_fire_under_torch_compile(toy: Any, image: Tensor, attach_first: bool) -> None:
    torch._dynamo.reset()
    model = toy().eval()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    names = {"feature": "backbone.0", "levels": "neck", "score": "bbox_head.score"}
    expected = collect(copy.deepcopy(model), image, **names)
    collector = TapCollector.attach(model if attach_first else toy(), names)
    model.compile(backend=backend)
    if not attach_first:  # the flag that TapCollector sets makes dynamo notice hooks that come later
        model(image)
        collector = TapCollector.attach(model, names)
    for _ in range(2):
        with collector.recording():
            model(image)
        found = collector.taps()
        assert torch.equal(found["feature"].value, expected["feature"].value)
        assert [len(found[name].calls) for name in names] == [1, 1, 2]
    assert found["feature"].value.requires_grad
    assert graphs


def test_contract_04_the_hook_guard_flag_is_set(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "skip_nnmodule_hook_guards", True)
    TapCollector.attach(toy(), {"a": "neck"})
    assert torch._dynamo.config.skip_nnmodule_hook_guards is False


def test_contract_05_an_in_place_operation_behind_a_tap_does_not_change_it(toy: Any, image: Tensor) -> None:
    model = toy().eval()
    raw = collect(model, image, a="backbone.1")["a"].value  # the next module is ReLU(inplace=True)
    assert torch.equal(raw, model.backbone[1](model.backbone[0](image)))
    assert raw.min() < 0
    raw.square().sum().backward()  # and autograd is content with it
    assert model.backbone[0].weight.grad.abs().sum() > 0


def test_contract_05_without_clone_an_overwrite_raises_and_a_safe_tap_costs_no_copy(toy: Any, image: Tensor) -> None:
    model = toy()
    with pytest.raises(TapError, match=r"'backbone\.1' of the model was overwritten in place.*remove clone=False"):
        collect(model, image, a={"path": "backbone.1", "clone": False})
    kept = []
    model.backbone[2].register_forward_hook(lambda module, inputs, output: kept.append(output.data_ptr()))
    tap = collect(model, image, a={"path": "backbone.2", "clone": False})["a"]
    assert tap.value.data_ptr() == kept[0]


def test_contract_05_nested_predictions_are_cloned_to_the_last_tensor() -> None:
    Pair = namedtuple("Pair", "first second")
    output = ([{"heatmap": torch.zeros(1)}], Pair(torch.zeros(1), "text"), None)
    copied = map_tensors(torch.clone, output)
    output[0][0]["heatmap"].sigmoid_()
    output[1].first.add_(1)
    assert copied[0][0]["heatmap"] == 0
    assert copied[1] == Pair(torch.zeros(1), "text")
    assert copied[2] is None


def test_a_forward_ends_at_the_requested_call_and_no_except_clause_swallows_that(toy: Any, image: Tensor) -> None:
    assert not issubclass(ForwardStopped, Exception)
    model = toy()
    collector = TapCollector.attach(model, {"a": "bbox_head.score"})
    with collector.recording(stop_at={"bbox_head.score": 2}), suppress(ForwardStopped):
        model(image)
        pytest.fail("the forward should have ended")
    assert len(collector.taps()["a"].calls) == 2
    assert model.calls == []


def test_geometry_left_out_is_filled_from_the_model_and_image_taps_keep_none(toy: Any) -> None:
    model = toy(bev_geometry={"layout": "xy", "extent": (-1, -2, 1, 2)})
    taps = {
        "bare": "neck[0]",
        "own": {"path": "neck[0]", "layout": "yx"},
        "image": {"path": "neck[0]", "layout": "image"},
    }
    specs = TapCollector.attach(model, taps).specs
    assert (specs["bare"].layout, specs["bare"].extent) == ("xy", (-1.0, -2.0, 1.0, 2.0))
    assert specs["own"].layout == "yx"
    assert (specs["image"].layout, specs["image"].extent) == ("image", None)


def test_a_copied_model_has_taps_of_its_own(toy: Any, image: Tensor) -> None:
    model = toy()
    collector = TapCollector.attach(model, {"a": "neck"})
    with collector.recording():
        model(image)
        twin, twin_collector = copy.deepcopy((model, collector))  # while features of a step are held
        twin(image)
    assert len(collector.taps()["a"].calls) == 1
    with twin_collector.recording():
        twin(image)
    assert len(twin_collector.taps()["a"].calls) == len(collector.taps()["a"].calls) == 1


def test_detached_hooks_are_gone(toy: Any, image: Tensor) -> None:
    model = toy()
    collector = TapCollector.attach(model, {"a": "neck"})
    collector.detach()
    with collector.recording():
        model(image)
    assert not model.neck._forward_hooks
    with pytest.raises(TapError):
        collector.taps()
