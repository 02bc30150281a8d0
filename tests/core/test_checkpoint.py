"""Contract 13: a teacher's checkpoint is the teacher's; contract 14: or the error says what to do."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from perceptkd.core.checkpoint import CheckpointError, LoadReport, load_weights
from perceptkd.core.teacher import build_teacher


@pytest.fixture
def state(toy: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return toy().state_dict()


def with_prefix(state: dict[str, Tensor], prefix: str) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + key, value) for key, value in state.items())


FORMS = {
    "bare": lambda state: state,
    "mmengine": lambda state: {"meta": {"epoch": 1}, "state_dict": state, "optimizer": {}},
    "ddp": lambda state: {"state_dict": with_prefix(state, "module.")},
    "distill model": lambda state: {
        "state_dict": {
            **with_prefix(state, "student."),
            "distillers.pkd.adapters.neck.weight": torch.zeros(3),
            "distillers._extra_state": {"random": torch.zeros(2)},
        }
    },
    "distill model in ddp": lambda state: {"state_dict": with_prefix(state, "module.student.")},
    "student alone": lambda state: {"meta": {}, "state_dict": state},
    "model_state": lambda state: {"model_state": state},
    "lightning": lambda state: {"state_dict": with_prefix(state, "model.")},
}


@pytest.mark.parametrize("form", FORMS)
def test_contract_13_checkpoints_of_every_form_load_whole(toy: Any, state: Any, tmp_path: Path, form: str) -> None:
    torch.save(FORMS[form](state), tmp_path / "teacher.pth")
    model = toy()
    report = load_weights(model, tmp_path / "teacher.pth", owner="teacher")
    assert str(report) == f"all {len(state)} keys match"
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_contract_13_too_many_missing_or_unexpected_keys_stop_and_are_named(
    toy: Any, state: Any, tmp_path: Path
) -> None:
    renamed = {key.replace("neck.reduce", "neck.lateral"): value for key, value in state.items()}
    torch.save({"state_dict": renamed}, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match=r"does not fit teacher 'lidar'") as caught:
        load_weights(toy(), tmp_path / "teacher.pth", owner="teacher 'lidar'")
    message = str(caught.value)
    assert "allow_partial=True goes on" in message
    assert "2 missing: neck.reduce.weight; neck.reduce.bias" in message
    assert "neck.lateral.weight" in message


def test_contract_13_a_teacher_of_another_width_names_both_shapes(toy: Any, state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match=r"mismatched: .*backbone\.0\.weight.*\[4, 3, 3, 3\].*\[6, 3, 3, 3\]"):
        load_weights(toy(channels=6), tmp_path / "teacher.pth", owner="teacher")


def test_contract_13_allow_partial_goes_on_and_says_what_is_random(
    toy: Any, state: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("perceptkd.core.checkpoint.print_log", lambda message, *args, **kwargs: lines.append(message))
    del state["bbox_head.score.weight"]
    torch.save(state, tmp_path / "teacher.pth")
    model = toy()
    report = load_weights(model, tmp_path / "teacher.pth", owner="teacher", allow_partial=True)
    assert report.missing == ["bbox_head.score.weight"]
    assert torch.equal(model.backbone[0].weight, state["backbone.0.weight"])
    assert "1 missing: bbox_head.score.weight" in lines[0]


@pytest.mark.parametrize(("bad", "stops"), [(1, False), (2, True)])
def test_contract_13_the_line_is_one_percent(bad: int, stops: bool, tmp_path: Path) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(50)))  # 100 keys
    state = dict(list(model.state_dict().items())[bad:])
    torch.save(state, tmp_path / "teacher.pth")
    if not stops:
        assert load_weights(model, tmp_path / "teacher.pth", owner="teacher").bad_share == 0.01
        return
    with pytest.raises(CheckpointError, match=r"2\.0% of 100 keys"):
        load_weights(model, tmp_path / "teacher.pth", owner="teacher")


def test_contract_13_one_key_of_another_shape_stops_however_many_there_are(tmp_path: Path) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(100)))
    state = {**model.state_dict(), "7.weight": torch.zeros(1, 2)}
    torch.save(state, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match=r"0\.5% of 200 keys[\s\S]*1 mismatched: .*7\.weight"):
        load_weights(model, tmp_path / "teacher.pth", owner="teacher")
    assert load_weights(model, tmp_path / "teacher.pth", owner="teacher", allow_partial=True).bad_share == 0.005


def test_contract_13_long_lists_are_cut() -> None:
    report = LoadReport(total=20, missing=[f"key{number}" for number in range(12)])
    assert str(report).endswith("key9 and 2 more")


def options(tmp_path: Path, name: str = "teacher.pth", **extra: Any) -> dict[str, Any]:
    return {"config": {"type": "perceptkd.ToyDetector"}, "checkpoint": str(tmp_path / name), **extra}


def test_contract_14_a_missing_checkpoint_says_where_to_put_it_and_what_trains_it(toy: Any, tmp_path: Path) -> None:
    config = tmp_path / "lidar_voxel.py"
    config.write_text("model = dict(type='perceptkd.ToyDetector')")
    with pytest.raises(FileNotFoundError) as caught:
        build_teacher("lidar", {**options(tmp_path), "config": str(config)}, {}, student=toy())
    message = str(caught.value)
    place = tmp_path / "teacher.pth"
    assert f"There is no checkpoint of teacher 'lidar' at {place}. Put the file there, or train it" in message
    assert f"python tools/train.py {config} --work-dir work_dirs/teachers/lidar_voxel" in message


def test_contract_14_a_truncated_checkpoint_is_called_that(toy: Any, state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "whole.pth")
    (tmp_path / "teacher.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"teacher\.pth: it is truncated or not a checkpoint"):
        build_teacher("lidar", options(tmp_path), {}, student=toy())
    torch.save({"meta": {"epoch": 3}}, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        build_teacher("lidar", options(tmp_path), {}, student=toy())


def test_a_pattern_must_mean_one_checkpoint(toy: Any, state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "best_epoch_3.pth")
    teacher = build_teacher("lidar", options(tmp_path, "best_*.pth"), {}, student=toy())
    assert torch.equal(teacher.model.backbone[0].weight, state["backbone.0.weight"])
    torch.save(state, tmp_path / "best_epoch_4.pth")
    with pytest.raises(CheckpointError, match=r"means 2 files: .*best_epoch_3\.pth, .*best_epoch_4\.pth"):
        build_teacher("lidar", options(tmp_path, "best_*.pth"), {}, student=toy())
