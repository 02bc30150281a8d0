"""Contract 6: adapters are inferred from one dry pass, printed, and a config overrides them."""

from typing import Any

import pytest
import torch
from torch import nn

from perceptkd.core.align import AdapterConfig, AlignError, PairAdapter, build_pair_adapter, pair_levels
from perceptkd.core.batch import RawBatch
from perceptkd.core.errors import InputError
from perceptkd.core.tap import Tap, TapSpec
from perceptkd.ops.sparse import SparseTensor

DEFAULT = AdapterConfig()


def adapter_of(model: Any) -> PairAdapter:
    return model.distillers["toydistiller"].adapters["feature"]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the distillation prints."""
    lines: list[str] = []
    monkeypatch.setattr("perceptkd.core.distillation.print_log", lambda message, *args, **kwargs: lines.append(message))
    return lines


def test_contract_06_adapters_are_inferred_from_a_dry_pass_and_printed(
    distill_model: Any, batch: Any, logged: list[str]
) -> None:
    model = distill_model(student={"channels": 4}, teacher={"channels": 6}, dry_batch=batch)
    (layer,) = adapter_of(model).layers
    assert isinstance(layer, nn.Conv2d)
    assert (layer.in_channels, layer.out_channels, layer.kernel_size) == (4, 6, (1, 1))
    header, row = logged[0].splitlines()[1:]
    assert header.split() == ["tap", "student", "teacher", "adapter", "parameters"]
    assert row.split() == ["toydistiller.feature", "2x4x4x4", "2x6x4x4", "student:", "conv2d1x1", "30"]
    model(RawBatch(batch, True), mode="loss")["loss_kd/toydistiller/feature"].backward()
    assert layer.weight.grad.abs().sum() > 0
    assert model.student.neck.reduce.weight.grad.abs().sum() > 0
    assert any(key.startswith("distillers.toydistiller.adapters.feature.") for key in model.state_dict())


def test_contract_06_equal_shapes_need_no_adapter(distill_model: Any, batch: Any, logged: list[str]) -> None:
    model = distill_model(dry_batch=lambda: batch)
    assert len(adapter_of(model).layers) == 0
    assert logged[0].splitlines()[2].split() == ["toydistiller.feature", "2x4x4x4", "2x4x4x4", "-", "0"]


def test_contract_06_the_dry_pass_leaves_the_student_as_it_was(distill_model: Any, batch: Any) -> None:
    models = []
    for dry_batch in (None, batch):
        torch.manual_seed(0)
        models.append(distill_model(dry_batch=dry_batch))
        models[-1].after = torch.rand(1)
    first, second = (model.student.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert models[0].after == models[1].after
    assert models[1].student.training


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"type": "conv", "kernel": 3, "norm": True, "in_channels": 4, "out_channels": 6},
            "Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False) BatchNorm2d ReLU",
        ),
        (
            {"type": "conv", "side": "teacher", "in_channels": 6, "out_channels": 4},
            "Conv2d(6, 4, kernel_size=(1, 1), stride=(1, 1))",
        ),
    ],
)
def test_contract_06_a_config_overrides_the_inference(
    distill_model: Any, batch: Any, config: dict, expected: str
) -> None:
    model = distill_model(student={"channels": 4}, teacher={"channels": 6}, distiller={"adapters": {"feature": config}})
    (layer,) = adapter_of(model).layers
    parts = list(layer) if isinstance(layer, nn.Sequential) else [layer]
    assert " ".join([str(parts[0]), *(type(part).__name__ for part in parts[1:])]) == expected
    model(RawBatch(batch, True), mode="loss")["loss_kd/toydistiller/feature"].backward()
    assert parts[0].weight.grad is not None


def test_contract_06_an_override_may_leave_the_channels_to_the_dry_pass(distill_model: Any, batch: Any) -> None:
    config = {"adapters": {"feature": {"type": "conv", "kernel": 3}}}
    model = distill_model(student={"channels": 4}, teacher={"channels": 6}, distiller=config, dry_batch=batch)
    assert adapter_of(model).layers[0].kernel_size == (3, 3)
    with pytest.raises(AlignError, match=r"'feature' has no channels\. Give the model dry_batch="):
        distill_model(student={"channels": 4}, teacher={"channels": 6}, distiller=config)


def test_contract_06_without_dry_pass_and_override_other_channels_raise_and_say_how(
    distill_model: Any, batch: Any
) -> None:
    model = distill_model(student={"channels": 4}, teacher={"channels": 6})
    with pytest.raises(
        AlignError, match=r"student has \(2, 4, 4, 4\), the teacher \(2, 6, 4, 4\).*dry_batch=.*adapters="
    ):
        model(RawBatch(batch, True), mode="loss")


def test_contract_06_none_hands_both_on_as_they_are(distill_model: Any) -> None:
    model = distill_model(student={"channels": 4}, teacher={"channels": 6}, distiller={"adapters": {"feature": None}})
    assert "feature" not in model.distillers["toydistiller"].adapters


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapters": {"featur": None}}, r"adapters for \['featur'\], but the pairs are \['feature'\]"),
        ({"adapters": {"feature": {"type": "conv2"}}}, r"type=auto \| conv \| linear \| identity"),
        ({"adapters": {"feature": {"typ": "conv"}}}, "typ"),
    ],
)
def test_contract_06_a_wrong_override_says_what_fits(distill_model: Any, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distill_model(distiller=options)


def tap_of(value: Any, stride: Any = None, input_size: Any = None) -> Tap:
    return Tap(TapSpec("neck", stride=stride), [value], "model", input_size)


def levels(*sizes: int, channels: int = 2) -> tuple[torch.Tensor, ...]:
    return tuple(torch.full((1, channels, size, size), float(size)) for size in sizes)


@pytest.mark.parametrize("declared", [True, False])
def test_contract_06_levels_pair_by_stride(declared: bool) -> None:
    student, teacher = levels(8, 4, 2), levels(16, 8, 4, channels=3)
    if declared:
        taps = tap_of(student, stride=(8.0, 16.0, 32.0)), tap_of(teacher, stride=(4.0, 8.0, 16.0))
    else:
        taps = tap_of(student, input_size=(64, 64)), tap_of(teacher, input_size=(64, 64))
    adapter = PairAdapter("fpn", [nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)])
    first, second = adapter(*taps)
    assert [level.shape[-1] for level in first.value] == [8, 4]
    assert [float(level.mean()) for level in second.value] == [8, 4]


def test_contract_06_levels_that_cannot_be_paired_ask_for_strides() -> None:
    with pytest.raises(AlignError, match="declare stride="):
        PairAdapter("fpn")(tap_of(levels(8, 4)), tap_of(levels(16, 8)))
    with pytest.raises(AlignError, match="no level of the student"):
        pair_levels([64.0], [4.0, 8.0])
    first, _ = PairAdapter("fpn")(tap_of(levels(8, 4)), tap_of(levels(8, 4)))  # equal sizes need no strides
    assert len(first.value) == 2


def test_contract_06_other_sizes_are_resized_to_the_teachers() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    first, second = PairAdapter("map")(tap_of(ramp), tap_of(torch.zeros(1, 1, 8, 8)))
    assert first.value.shape == second.value.shape
    assert torch.allclose(first.value[0, 0, 0, 1:3], torch.tensor([0.25, 0.75]))


@pytest.mark.parametrize(("layout", "resized"), [("yx", (8, 6)), ("xy", (6, 8))])
def test_contract_06_a_bev_map_is_resized_along_its_own_axes(layout: str, resized: tuple[int, int]) -> None:
    student, teacher = (
        Tap(TapSpec("neck", layout=name), [torch.zeros(1, 1, *size)])
        for name, size in (("yx", (3, 4)), (layout, (8, 6)))
    )
    first, second = PairAdapter("map")(student, teacher)
    assert first.value.shape[2:] == resized
    assert second.value.shape[2:] == (8, 6)


def test_contract_06_rows_of_features_get_a_linear_layer_and_sparse_ones_keep_their_coordinates() -> None:
    for student, teacher in (
        (torch.zeros(5, 2), torch.zeros(5, 3)),
        (torch.zeros(1, 5, 2), torch.zeros(1, 5, 3)),
        (sparse(*range(5)), sparse(*range(7), channels=3)),
    ):
        taps = tap_of(student), tap_of(teacher)
        adapter = build_pair_adapter("rows", DEFAULT, *taps)
        assert isinstance(adapter.layers[0], nn.Linear)
        value = adapter(*taps)[0].value
        assert getattr(value, "features", value).shape[-1] == 3


def sparse(*columns: int, channels: int = 2, width: int = 8) -> SparseTensor:
    """Voxels in one row of a grid, in the order given; the features of each are its column."""
    x = torch.tensor(columns, dtype=torch.int32)
    coordinates = torch.stack([torch.zeros_like(x), torch.zeros_like(x), x], dim=1)
    return SparseTensor(x[:, None].repeat(1, channels).float(), coordinates, (1, width), 1)


@pytest.mark.parametrize("adapters", [[], [nn.Identity()]])
def test_contract_07_sparse_pairs_are_the_same_voxels_row_by_row(adapters: list[nn.Module]) -> None:
    mine, theirs = sparse(3, 0, 5, 1), sparse(1, 2, 3, 5)
    first, second = PairAdapter("voxels", adapters)(tap_of(mine), tap_of(theirs))
    assert first.value.coordinates[:, 2].tolist() == [3, 5, 1]
    assert torch.equal(first.value.coordinates, second.value.coordinates)
    assert torch.equal(first.value.features, second.value.features)  # what a method may now subtract
    assert (len(mine), len(theirs)) == (4, 4)


def test_contract_07_sparse_pairs_without_common_rows_are_refused() -> None:
    with pytest.raises(InputError, match=r"grids \(1, 8\) and \(1, 4\).*tap equal strides"):
        PairAdapter("voxels")(tap_of(sparse(0)), tap_of(sparse(0, width=4)))
    for pair in ((sparse(0, 1), torch.zeros(2, 2)), (torch.zeros(2, 2), sparse(0, 1))):
        with pytest.raises(AlignError, match="one side is sparse and the other is not"):
            PairAdapter("voxels")(*map(tap_of, pair))


def test_contract_06_predictions_and_several_calls_pass_unchanged() -> None:
    heads = ([{"heatmap": torch.zeros(1, 2, 4, 4)}],)
    student, teacher = tap_of(heads), tap_of(heads)
    assert PairAdapter("heads")(student, teacher) == (student, teacher)
    twice = Tap(TapSpec("head"), [torch.zeros(1, 2, 4, 4)] * 2)
    assert len(build_pair_adapter("calls", DEFAULT, twice, twice).layers) == 0
