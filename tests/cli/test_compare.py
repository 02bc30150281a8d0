"""The comparison: its arithmetic on made-up runs, and one whole run on the tiny world."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from perceptkd.cli import compare as compare_module
from perceptkd.cli.arguments import UserError
from perceptkd.cli.compare import (
    compare,
    control_options,
    main,
    settled,
    summarise,
)
from perceptkd.cli.comparison_text import official_scores, table, verdict

METRIC = "nuscenes/mAP"
CONTROL, DISTILLED = {0: 0.30, 1: 0.32}, {0: 0.33, 1: 0.33}


def run(value: float, *, before: float | None = None) -> dict[str, Any]:
    """What a job returns."""
    history = [{METRIC: value if before is None else before, "step": 2}, {METRIC: value, "step": 3}]
    return {
        "val": {METRIC: value, "nuscenes/NDS": value / 2},
        "history": history,
        "train_s": 10.0,
        "step_ms": 100 * value,
        "peak_mib": 1000 + value,
        "backends": {"sparse": "torch"},
        "shares": 1,
    }


def teacher_scoring(metrics: dict[str, float]) -> dict[str, Any]:
    """What the job of a teacher that this comparison trained returns."""
    cost = {"step_ms": 70.0, "peak_mib": 3000, "shares": 1}
    return {"val": metrics, "checkpoint": "epoch_8.pth", "sha256": "ab", "given": False, **cost}


def runs(control: dict[int, float], distilled: dict[int, float]) -> dict[str, dict[int, Any]]:
    groups = {"control": control, "distilled": distilled}
    return {name: {seed: run(value) for seed, value in group.items()} for name, group in groups.items()}


def summary(control: dict[int, float], distilled: dict[int, float], teacher: float, **other: Any) -> dict[str, Any]:
    groups = {**runs(control, distilled), **other}
    return summarise("c.py", "detection", METRIC, "val", {"lidar": teacher_scoring({METRIC: teacher})}, groups)


def test_gains_are_in_points_by_seed_and_the_gap_is_the_mean_controls() -> None:
    result = summary(CONTROL, DISTILLED, 0.71)
    assert result["teacher"] == pytest.approx(71)
    assert result["control"] == pytest.approx({0: 30, 1: 32})
    assert result["gain"]["by_seed"] == pytest.approx({0: 3, 1: 1})
    assert result["gain"]["mean"] == pytest.approx(2)
    assert result["gain"]["std"] == pytest.approx(2**0.5)
    assert result["gap_closed"] == pytest.approx(2 / 40)
    assert result["shown"] is True
    assert result["control_settled"] == {0: True, 1: True}
    assert result["step_ms"] == pytest.approx({"student": 31, "distilled": 33, "teacher": 70})
    assert result["peak_mib"] == pytest.approx({"student": 1000.32, "distilled": 1000.33, "teacher": 3000})
    assert result["metrics"]["distilled"][1]["nuscenes/NDS"] == pytest.approx(0.165)
    assert result["backends"] == {"sparse": "torch"}
    assert "student 31 ms, 1.0 GiB; distilled 33 ms, 1.0 GiB; teacher 70 ms, 2.9 GiB" in table(result)
    json.dumps(result)


@pytest.mark.parametrize(("metric", "scale"), [("seg/mIoU", 100), ("coco/bbox_mAP_50", 100), ("other/count", 1)])
def test_fractions_count_in_points(metric: str, scale: int) -> None:
    groups = runs(CONTROL, DISTILLED)
    for group in groups.values():
        for each in group.values():
            each["val"][metric] = each["val"][METRIC]
            each["history"] = []
    result = summarise("c.py", "segmentation", metric, "val", {"t": teacher_scoring({metric: 0.7})}, groups)
    assert result["control"] == pytest.approx({seed: scale * value for seed, value in CONTROL.items()})


@pytest.mark.parametrize(("teacher", "closed"), [(0.305, None), (0.319, None), (0.321, 2 / 1.1), (0.1, None)])
def test_a_gap_below_one_point_is_no_measure(teacher: float, closed: float | None) -> None:
    assert summary(CONTROL, DISTILLED, teacher)["gap_closed"] == (None if closed is None else pytest.approx(closed))


def test_a_gain_is_shown_only_if_every_seed_gains() -> None:
    result = summary(CONTROL, {0: 0.40, 1: 0.32}, 0.8)
    assert result["gain"]["mean"] > 0
    assert result["shown"] is False


def test_step_times_of_trainings_with_other_shares_of_the_cores_are_not_pooled() -> None:
    groups = runs(CONTROL, DISTILLED)
    groups["distilled"][1]["shares"] = 2
    result = summarise("c.py", "detection", METRIC, "val", {"lidar": teacher_scoring({METRIC: 0.7})}, groups)
    assert (result["step_ms"], result["parallel"]) == ({}, 2)
    assert "a training step: not measured" in table(result)
    assert result["gain"]["mean"] == pytest.approx(2)


def test_the_step_of_a_teacher_that_was_not_trained_so_is_left_out() -> None:
    groups, scores = runs(CONTROL, DISTILLED), {METRIC: 0.7}
    given = {"val": scores, "checkpoint": "t.pth", "sha256": "ab", "given": True}
    result = summarise("c.py", "detection", METRIC, "val", {"lidar": given}, groups)
    assert set(result["step_ms"]) == set(result["peak_mib"]) == {"student", "distilled"}
    shared = {**teacher_scoring(scores), "shares": 2}
    result = summarise("c.py", "detection", METRIC, "val", {"lidar": shared}, groups)
    assert set(result["step_ms"]) == {"student", "distilled"}
    assert result["peak_mib"]["teacher"] == 3000


def test_one_seed_has_no_deviation_and_shows_nothing() -> None:
    result = summary({0: 0.3}, {0: 0.4}, 0.8)
    assert result["gain"]["std"] is None
    assert result["shown"] is False


def test_weights_that_were_found_are_named() -> None:
    teacher = {"val": {METRIC: 0.7}, "checkpoint": str(Path.cwd() / "t.pth"), "sha256": "ab", "given": True}
    result = summarise("c.py", "detection", METRIC, "val", {"lidar": teacher}, runs(CONTROL, DISTILLED))
    assert result["sources"] == {"lidar": {"checkpoint": "t.pth", "sha256": "ab", "given": True}}
    assert "The weights of lidar were used as they were found." in verdict(result)
    assert "found" not in verdict(summary(CONTROL, DISTILLED, 0.7))


def test_other_metrics_are_not_scaled() -> None:
    groups = {name: {0: {**run(0.3), "val": {"miou": 30.0}, "history": []}} for name in ("control", "distilled")}
    result = summarise("c.py", "segmentation", "miou", "val", {"t": teacher_scoring({"miou": 50.0})}, groups)
    assert (result["teacher"], result["control"]) == (50.0, {0: 30.0})
    assert result["control_settled"] == {0: None}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({10: 0.3}, None),
        ({9: 0.3, 10: 0.3}, None),  # what the last fifth did is not known
        ({4: 0.1, 8: 0.29, 10: 0.3}, True),
        ({8: 0.28, 9: 0.3, 10: 0.3}, False),
        ({4: 0.28, 8: 0.3, 10: 0.28}, False),
    ],
)
def test_settled_asks_what_the_last_fifth_of_the_training_did(values: dict[int, float], expected: bool | None) -> None:
    assert settled([{METRIC: value, "step": step} for step, value in values.items()], METRIC) is expected


@pytest.mark.parametrize("history", [[{METRIC: 0.1, "step": 0}, {METRIC: 0.3, "step": 0}], [{"other": 0.3, "step": 8}]])
def test_settled_says_nothing_of_validations_without_a_step_or_the_metric(history: list[dict[str, float]]) -> None:
    assert settled(history, METRIC) is None


def test_the_table_has_a_column_per_seed_and_the_verdict() -> None:
    longer = {"control_equal_time": {seed: run(0.31) for seed in CONTROL}}
    lines = table(summary(CONTROL, DISTILLED, 0.71, **longer)).splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines[2:-2]}
    assert lines[0] == "nuscenes/mAP on val"
    assert lines[1].split() == ["seed", "0", "seed", "1", "mean"]
    assert cells == {
        "teacher": ["71.00"],
        "control": ["30.00", "32.00", "31.00"],
        "control_equal_time": ["31.00", "31.00", "31.00"],
        "distilled": ["33.00", "33.00", "33.00"],
        "gain": ["+3.00", "+1.00", "+2.00"],
    }
    assert lines[-2].startswith("a training step and the most memory: student ")
    assert lines[-1] == "Shown: all 2 seeds gain, 2.00 points on average. 5.0 % of the gap to the teacher is closed."


def test_the_gain_is_told_by_matching_distance() -> None:
    near, far = f"{METRIC}_dist_0.5", f"{METRIC}_dist_4.0"
    control = {seed: {near: value, far: 0.5} for seed, value in {0: 0.10, 1: 0.20}.items()}
    distilled = {seed: {near: value, far: 0.4} for seed, value in {0: 0.20, 1: 0.30}.items()}
    groups = runs(CONTROL, DISTILLED)
    for kind, extra in {"control": control, "distilled": distilled}.items():
        for seed, values in extra.items():
            groups[kind][seed]["val"] |= values
    result = summarise("c.py", "detection", METRIC, "val", {"t": teacher_scoring({METRIC: 0.7})}, groups)
    assert result["by_distance"]["0.5 m"] == pytest.approx({"control": 15, "distilled": 25, "gain": 10})
    assert result["by_distance"]["4.0 m"] == pytest.approx({"control": 50, "distilled": 40, "gain": -10})
    assert "matched within 4.0 m: control 50.00, distilled 40.00, -10.00" in table(result)


def test_the_official_scores_stand_beside_another_metric() -> None:
    groups = runs(CONTROL, DISTILLED)
    for group in groups.values():
        for each in group.values():
            each["val"] |= {"nuscenes/near_mAP": 0.5}
            each["history"] = []
    teacher = teacher_scoring({"nuscenes/near_mAP": 0.9, METRIC: 0.7, "nuscenes/NDS": 0.6})
    result = summarise("c.py", "detection", "nuscenes/near_mAP", "val", {"t": teacher}, groups)
    assert official_scores(result)[METRIC] == pytest.approx({"teacher": 70, "control": 31, "distilled": 33})
    assert "nuscenes/NDS: teacher 60.00, control 15.50, distilled 16.50" in table(result)
    assert official_scores(summary(CONTROL, DISTILLED, 0.7)) == {}  # this teacher has no NDS


@pytest.mark.parametrize(
    ("distilled", "said"),
    [
        (
            {0: 0.33, 1: 0.33},
            "Shown: all 2 seeds gain, 2.00 points on average. 5.0 % of the gap to the teacher is closed.",
        ),
        ({0: 0.27, 1: 0.31}, "Distillation loses: all 2 seeds lose, 2.00 points on average."),
        ({0: 0.31, 1: 0.25}, "Not shown: 1 of 2 seeds gains, the average is a loss of 3.00 points."),
        (
            {0: 0.40, 1: 0.32},
            "Not shown: 1 of 2 seeds gains, the average is a gain of 5.00 points. "
            "12.5 % of the gap to the teacher is closed.",
        ),
        ({0: 0.30, 1: 0.32}, "Not shown: 0 of 2 seeds gain, the average is a gain of 0.00 points."),
    ],
)
def test_the_verdict_says_plainly_what_came_out(distilled: dict[int, float], said: str) -> None:
    assert verdict(summary(CONTROL, distilled, 0.71)) == said


@pytest.mark.parametrize(
    ("distilled", "said"),
    [
        (0.4, "One seed is no evidence: it gains 10.00 points. 20.0 % of the gap to the teacher is closed."),
        (0.2, "One seed is no evidence: it loses 10.00 points."),
    ],
)
def test_the_verdict_of_one_seed(distilled: float, said: str) -> None:
    assert verdict(summary({0: 0.3}, {0: distilled}, 0.8)) == said


def test_the_verdict_names_what_stands_against_it() -> None:
    weak = {"control": {0: run(0.03), 1: run(0.04, before=0.02)}, "distilled": {0: run(0.02), 1: run(0.01)}}
    weak["control"][0]["history"] = []
    result = summarise("c.py", "detection", METRIC, "val", {"t": teacher_scoring({METRIC: 0.5})}, weak)
    assert verdict(result) == (
        "Distillation loses: all 2 seeds lose, 2.00 points on average. "
        "The control was still changing at its end (seed 1). Whether the control had settled is not known. "
        "The control is below 10 nuscenes/mAP: this tests the plumbing alone."
    )


def test_the_official_score_of_a_control_is_held_against_another_metric() -> None:
    near = "nuscenes/near_mAP"
    groups = runs({0: 0.05, 1: 0.06}, {0: 0.07, 1: 0.08})
    for by_seed in groups.values():
        for each in by_seed.values():
            each["val"] = {near: 3 * each["val"][METRIC], **each["val"]}
            each["history"] = []
    teacher = teacher_scoring({near: 0.7, METRIC: 0.5})
    result = summarise("c.py", "detection", near, "val", {"lidar": teacher}, groups)
    assert result["control"] == pytest.approx({0: 15, 1: 18})
    assert "The control is below 10 nuscenes/mAP: " in verdict(result)


@pytest.mark.parametrize(
    ("save_best", "expected"), [(None, METRIC), ("auto", METRIC), ("loss", "loss"), (["loss", METRIC], "loss")]
)
def test_the_comparison_goes_by_what_the_best_checkpoint_is_chosen_by(save_best: Any, expected: str) -> None:
    config = {"default_hooks": {"checkpoint": {"save_best": save_best}}}
    teachers = {"lidar": {"val": {METRIC: 0.5, "loss": 1.0}}}
    assert compare_module._metric(config, teachers, "val") == expected


def test_the_control_keeps_the_options_that_are_not_about_distillation() -> None:
    options = {"model.distillers.0.weights.feature": 3, "model.teachers.lidar.norm": "train", "train_cfg.max_epochs": 2}
    assert control_options(options) == {"train_cfg.max_epochs": 2, "model.distill": False}
    assert "model.distill" not in options


def test_results_lie_beside_the_runs_unless_a_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(compare_module, "compare", lambda *_, **__: {**summary(CONTROL, DISTILLED, 0.71), "runs": {}})
    arguments = ["configs/c.py", "--work-dir", str(tmp_path / "runs"), "--variant", "tuned"]
    assert main(arguments) == 0
    written = json.loads((tmp_path / "runs/results/c.tuned.json").read_text())
    assert written["control"] == pytest.approx({"0": 30, "1": 32})
    assert {"machine", "revision", "command"} < written.keys()
    assert main([*arguments, "--results", str(tmp_path / "records")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "records/c.tuned.json")
    assert (tmp_path / "records/c.tuned.json").is_file()


def test_what_cannot_be_compared_ends_with_a_sentence(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([str(tiny_folder / "retinanet.py"), "--work-dir", str(tmp_path)]) == 2
    assert "does not distil" in capsys.readouterr().err
    assert main([str(tiny_folder / "distill.py"), "--seeds", "0"]) == 2
    assert "--seeds 0 leaves nothing to do" in capsys.readouterr().err
    assert main([str(tiny_folder / "distill.py"), "--equal-time", "0.9"]) == 2
    assert "--equal-time 0.9 is no longer control" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"teacher 'big' needs config='<path>' and checkpoint="):
        compare(str(tiny_folder / "distill.py"), seeds=[0], folder=tmp_path)


@pytest.mark.slow
def test_teacher_control_and_student_on_the_tiny_world(tiny_comparison: Path, tmp_path: Path) -> None:
    """Two steps of each, in processes of their own, evaluated with the official metric; a second call reads back."""
    config = tiny_comparison
    checkpoint = Path(Config.fromfile(config).model.teachers.lidar.checkpoint)
    result = compare(str(config), seeds=[0], folder=tmp_path / "runs")
    assert checkpoint.is_file()
    assert result["metric"] == "nuscenes/near_mAP"
    assert result["world"]["world_version"]
    assert result["backends"]["sparse"] == "torch"
    assert set(result["step_ms"]) == set(result["peak_mib"]) == {"student", "distilled", "teacher"}
    logged = next(Path(result["runs"]["distilled"]["folder"]).glob("*/vis_data/scalars.json")).read_text()
    assert "loss_kd/unidistill/feature" in logged
    assert "loss_kd" not in next(Path(result["runs"]["control"]["folder"]).glob("*/vis_data/scalars.json")).read_text()
    assert table(result)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pth")}
    assert compare(str(config), seeds=[0], folder=tmp_path / "runs") == result
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pth")} == written
