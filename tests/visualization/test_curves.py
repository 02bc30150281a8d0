"""Training curves: records are read and joined, quantities chosen, lines drawn."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from perceptkd.core.errors import InputError
from perceptkd.visualization import curves, draw_curves
from perceptkd.visualization.curves import DEFAULT_KEYS, load_scalars, read_scalars, select_keys, series
from perceptkd.visualization.figure import as_bgr, set_colours


def record(step: int, **values: float) -> dict:
    return {"step": step, **values}


def write_scalars(folder: Path, records: list[dict]) -> Path:
    path = folder / "vis_data" / "scalars.json"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in records))
    return path


def count(path: Path, colour: str) -> int:
    return int((cv2.imread(str(path)) == as_bgr(colour)).all(axis=2).sum())


def test_a_resumed_run_is_joined_and_repeated_steps_count_once(tmp_path: Path) -> None:
    write_scalars(tmp_path / "20240101", [record(1, loss=5.0), record(2, loss=4.0), record(3, loss=9.0)])
    write_scalars(tmp_path / "20240102", [record(3, loss=3.0), record(4, loss=2.0)])
    steps, values = series(load_scalars(tmp_path), "loss")
    assert steps.tolist() == [1, 2, 3, 4]
    assert values.tolist() == [5, 4, 3, 2]


def test_unreadable_runs_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the work directory"):
        load_scalars(tmp_path)


def test_the_line_a_killed_run_left_unfinished_is_skipped(tmp_path: Path) -> None:
    path = write_scalars(tmp_path, [record(1, loss=1.0), record(2, loss=0.5)])
    whole = path.read_text()
    for kept in range(1, len('{"step": 2, "loss": 0.5}')):
        path.write_text(whole[: -kept - 1])
        assert read_scalars(path) == [record(1, loss=1.0)]
    path.write_text(whole.rstrip())  # the record is whole, its end of line alone is missing
    assert read_scalars(path) == load_scalars(tmp_path) == [record(1, loss=1.0), record(2, loss=0.5)]
    path.write_text("")
    assert read_scalars(path) == []


@pytest.mark.parametrize("broken", ['{"step": 2, "lo', "2.5", "\0\0", "\xff"])
def test_any_other_line_that_is_no_record_is_named(tmp_path: Path, broken: str) -> None:
    path = write_scalars(tmp_path, [record(1, loss=1.0)])
    line = json.dumps(record(3, loss=3.0)) + "\n"
    for rest in ("\n", f"\n{line}"):
        path.write_bytes(f"{line}{broken}{rest}".encode("latin-1"))
        with pytest.raises(InputError, match=rf"line 2 of {re.escape(str(path))} is no record.*remove that line"):
            read_scalars(path)


def test_keys_are_names_or_patterns_and_weights_only_by_name() -> None:
    runs = {"a": [{"loss": 1.0, "kd/x/term": 1.0, "kd/x/term_weight": 5.0, "lr": 1.0}], "b": [{"nuscenes/mAP": 0.3}]}
    assert select_keys(runs, ["nuscenes/mAP", "kd/*", "loss"]) == ["nuscenes/mAP", "kd/x/term", "loss"]
    assert select_keys(runs, ["kd/x/term_weight"]) == ["kd/x/term_weight"]
    with pytest.raises(ValueError, match="no quantity matches"):
        select_keys(runs, ["acc"])


@pytest.mark.parametrize("names", [("near_mAP", "mAP", "NDS"), ("mAP", "NDS")])
def test_the_metrics_of_nuscenes_are_drawn_by_default_where_they_are(names: tuple[str, ...]) -> None:
    scores = {f"nuscenes/{name}": 0.1 for name in (*names, "near_NDS", "near_mAP_dist_0.5")}
    drawn = select_keys({"a": [record(1, loss=1.0), record(1, **scores)]}, DEFAULT_KEYS)
    assert drawn == ["loss", *(f"nuscenes/{name}" for name in names)]


def test_lines_of_all_runs_are_drawn(tmp_path: Path) -> None:
    falling = [record(step, loss=10 / step, **{"kd/x/feature": 1 / step}) for step in range(1, 101)]
    control = [record(step, loss=12 / step) for step in range(1, 101)]
    path = draw_curves(tmp_path / "curves.png", {"control": control, "distilled": falling}, title="A run")
    colours = set_colours(["control", "distilled"])
    assert count(path, colours["control"]) > 300
    assert count(path, colours["distilled"]) > 500
    only = draw_curves(tmp_path / "only.png", {"control": control})
    assert count(only, colours["distilled"]) == 0


@pytest.mark.parametrize("keys", [["loss"], ["loss", "kd/*"]])
def test_a_loss_that_contains_kd_terms_says_so(monkeypatch: pytest.MonkeyPatch, keys: list[str]) -> None:
    titles: list[str] = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: titles.extend(a.get_title() for a in figure.axes))
    plain, distilled = [record(1, loss=1.0)], [record(1, loss=2.0, **{"kd/x/term": 1.0})]
    draw_curves("x.png", {"mine": plain}, ["loss"])
    draw_curves("x.png", {"mine": plain, "ours": distilled}, keys)
    assert [title for title in titles if title.startswith("loss")] == [
        "loss",
        "loss, with the kd terms of runs that distil",
    ]


def test_a_falling_series_falls_in_the_picture(tmp_path: Path) -> None:
    path = draw_curves(tmp_path / "x.png", {"control": [record(s, loss=float(150 - s)) for s in range(100)]}, ["loss"])
    image = cv2.imread(str(path))
    panel = image[: int(image.shape[0] * 0.85)]
    row, column = np.nonzero((panel == as_bgr(set_colours(["control"])["control"])).all(axis=2))
    assert len(row) > 300
    assert np.corrcoef(column, row)[0, 1] > 0.99


def test_steps_are_counted_from_0_even_where_there_is_one(tmp_path: Path) -> None:
    image = cv2.imread(str(draw_curves(tmp_path / "x.png", {"control": [record(4, loss=1.0)]}, ["loss"])))
    panel = image[: int(image.shape[0] * 0.8)]
    column = np.nonzero((panel == as_bgr(set_colours(["control"])["control"])).all(axis=2))[1]
    assert column.mean() > 0.85 * image.shape[1]
