"""The test command takes full checkpoints and student files, needs no teacher, and refuses weights that do not fit."""

import pickle
from pathlib import Path

import pytest
import torch

from perceptkd.cli.test import evaluate, main
from perceptkd.engine.checkpoints import recorded_metrics


def test_all_ways_to_the_same_metrics(tiny_folder: Path, distilled_run: Path, tmp_path: Path) -> None:
    recorded = recorded_metrics(distilled_run / "epoch_1.pth")
    full, student = distilled_run / "epoch_1.pth", distilled_run / "epoch_1_student.pth"
    ways = [
        (tiny_folder / "distill.py", full),
        (tiny_folder / "distill.py", student),
        (tiny_folder / "retinanet.py", full),
        (distilled_run / "student.py", student),
    ]
    for config, checkpoint in ways:
        metrics = evaluate(config, checkpoint, work_dir=str(tmp_path))
        assert metrics == pytest.approx(recorded, abs=1e-6)


def test_teachers_are_not_needed(tiny_folder: Path, distilled_run: Path, tmp_path: Path) -> None:
    options = {"model.teachers.big": {"config": "gone.py", "checkpoint": "gone.pth"}}
    assert evaluate(tiny_folder / "distill.py", distilled_run / "epoch_1.pth", options=options, work_dir=str(tmp_path))


def test_averaged_weights_are_what_is_tested(tiny_folder: Path, distilled_run: Path, tmp_path: Path) -> None:
    """An EMA hook in the config swaps weights before evaluation; those of the checkpoint must be the ones it finds."""
    options = {"custom_hooks": [{"type": "perceptkd.SeedEpochHook"}, {"type": "EMAHook"}]}
    metrics = evaluate(
        tiny_folder / "distill.py", distilled_run / "epoch_1.pth", options=options, work_dir=str(tmp_path)
    )
    assert metrics == pytest.approx(recorded_metrics(distilled_run / "epoch_1.pth"), abs=1e-6)


def test_predictions_are_written(
    tiny_folder: Path, distilled_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "predictions.pkl"
    arguments = [str(tiny_folder / "distill.py"), str(distilled_run / "epoch_1_student.pth")]
    assert main([*arguments, "--work-dir", str(tmp_path), "--out", str(out)]) == 0
    assert len(pickle.loads(out.read_bytes())) == 6
    assert "coco/bbox_mAP_50: " in capsys.readouterr().out


def test_weights_of_another_width_are_refused(
    tiny_folder: Path, distilled_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [str(tiny_folder / "retinanet.py"), str(distilled_run / "epoch_1.pth"), "--work-dir", str(tmp_path)]
    assert main([*arguments, "--cfg-options", "model.bbox_head.feat_channels=12"]) == 2
    error = capsys.readouterr().err
    assert "of another shape: " in error
    assert "bbox_head.retina_cls.weight" in error


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--out", "predictions.json"], "must end in .pkl"),
        (["--show-dir", "drawn"], "default_hooks.visualization"),
        (["--tta"], "tta_model and tta_pipeline"),
        (["--cfg-options", "test_evaluator=None"], "no test_dataloader and test_evaluator"),
    ],
)
def test_options_that_the_config_cannot_serve(
    tiny_folder: Path, distilled_run: Path, capsys: pytest.CaptureFixture, extra: list[str], sentence: str
) -> None:
    assert main([str(tiny_folder / "distill.py"), str(distilled_run / "epoch_1.pth"), *extra]) == 2
    assert sentence in capsys.readouterr().err


def test_drawn_predictions(tiny_folder: Path, distilled_run: Path, tmp_path: Path) -> None:
    options = {
        "default_hooks.visualization": {"type": "DetVisualizationHook"},
        "visualizer": {"type": "DetLocalVisualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
    }
    evaluate(
        tiny_folder / "distill.py",
        distilled_run / "epoch_1.pth",
        options=options,
        work_dir=str(tmp_path),
        show_dir="drawn",
    )
    assert len(list(tmp_path.glob("*/drawn/*.png"))) == 6


def test_a_file_that_is_no_checkpoint(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    assert main([str(tiny_folder / "retinanet.py"), str(tmp_path / "list.pth"), "--work-dir", str(tmp_path)]) == 2
    assert "holds a list, not a checkpoint" in capsys.readouterr().err
