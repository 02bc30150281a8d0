"""The listed names are taps that the core accepts, with the shapes it would collect."""

from pathlib import Path

import pytest

from perceptkd.cli.list_taps import main
from perceptkd.core.source import build_model, read_model_source
from perceptkd.core.tap import TapCollector


def listed(capsys: pytest.CaptureFixture, *arguments: str) -> dict[str, list[str]]:
    """Tap -> the other words of its line."""
    assert main(list(arguments)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if not line.startswith(("loading", "Done"))]
    return {words[0]: words[1:] for words in lines if len(words) > 1}


def test_names_are_accepted_by_the_core(tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    taps = listed(capsys, str(tiny_folder / "retinanet.py"), "--filter", r"^(backbone|neck|bbox_head)\b")
    assert {"backbone", "neck", "neck.fpn_convs.0", "bbox_head.retina_cls"} <= taps.keys()
    assert "neck.fpn_convs" not in taps
    model = build_model(read_model_source(str(tiny_folder / "retinanet.py")))
    TapCollector.attach(model, {name: name for name in taps})


def test_shapes_of_one_sample(tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    taps = listed(capsys, str(tiny_folder / "retinanet.py"), "--shapes", "--filter", "^(neck|bbox_head)")
    assert taps["neck[0]"] == ["FPN", "1x8x8x8"]
    assert taps["bbox_head[1][2]"] == ["RetinaHead", "1x4x2x2"]
    assert taps["bbox_head.retina_cls"] == ["Conv2d", "1x2x8x8", "(3", "calls)"]
    assert taps["bbox_head.relu"] == ["ReLU", "does", "not", "fire"]


def test_student_and_teacher_of_a_distillation_config(tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    config = str(tiny_folder / "distill.py")
    narrow = "model.student.neck.out_channels=4"
    options = ("--shapes", "--filter", "^neck$", "--cfg-options", narrow, "model.student.bbox_head.in_channels=4")
    assert listed(capsys, config, *options)["neck[0]"] == ["FPN", "1x4x8x8"]
    assert listed(capsys, config, "--teacher", "big", *options)["neck[0]"] == ["FPN", "1x8x8x8"]
    assert main([config, "--teacher", "small"]) == 2
    assert "no teacher 'small'; it has: big" in capsys.readouterr().err


def test_an_ema_teacher_has_the_modules_of_the_student(tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    ema = ("--filter", "^neck", "--cfg-options", "model.teachers.mean.role=ema")
    config = str(tiny_folder / "distill.py")
    taps = listed(capsys, config, "--teacher", "mean", *ema)
    assert "neck.fpn_convs.0" in taps
    assert taps == listed(capsys, config, *ema)


def test_a_random_image_where_there_are_no_data(tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    gone = [f"{stage}_dataloader.dataset={{'ann_file': 'gone.json'}}" for stage in ("train", "val")]
    options = ("--shapes", "--filter", "^neck$", "--cfg-options", *gone)
    assert listed(capsys, str(tiny_folder / "retinanet.py"), *options)["neck[0]"] == ["FPN", "1x8x32x32"]


def test_a_filter_that_is_no_expression(tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tiny_folder / "retinanet.py"), "--filter", "("]) == 2
    assert "not a regular expression" in capsys.readouterr().err
