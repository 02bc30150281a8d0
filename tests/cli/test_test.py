"""The test command takes full checkpoints and student files, needs no teacher, and refuses weights that do not fit."""

import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch

from perceptkd.cli.test import _overall_last, evaluate, main
from perceptkd.core.source import build_model, read_model_source
from perceptkd.engine.checkpoints import recorded_metrics

BEV_HOOK = "perceptkd.BEVVisualizationHook"


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
    printed = capsys.readouterr().out
    assert "coco/bbox_mAP_50: " in printed
    assert "System environment" not in printed
    (log,) = tmp_path.glob("*/*.log")
    assert f"Machine, config and tables are in {log}" in printed
    assert "System environment" in log.read_text()


def test_metrics_of_all_classes_stand_at_the_end() -> None:
    metrics = {"nuscenes/mAP": 0.4, "nuscenes/car_AP": 0.5, "nuscenes/NDS": 0.3, "nuscenes/bus_AP": 0.3}
    ordered = _overall_last(metrics, SimpleNamespace(metainfo={"classes": ("car", "bus")}))
    assert list(ordered) == ["nuscenes/car_AP", "nuscenes/bus_AP", "nuscenes/mAP", "nuscenes/NDS"]
    assert _overall_last(metrics, object()) == metrics


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
        (["--show"], "write the pictures into a folder with --show-dir"),
        (["--wait-time", "2"], "write the pictures into a folder with --show-dir"),
        (
            ["--show-dir", "drawn", "--cfg-options", f"default_hooks.visualization.type={BEV_HOOK}"],
            "use default_hooks.visualization.type=mmdet.DetVisualizationHook",
        ),
        (["--tta"], "tta_model and tta_pipeline"),
        (["--cfg-options", "test_evaluator=None"], "no test_dataloader and test_evaluator"),
    ],
)
def test_options_that_the_config_cannot_serve(
    tiny_folder: Path,
    distilled_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    extra: list[str],
    sentence: str,
) -> None:
    arguments = [str(tiny_folder / "distill.py"), str(distilled_run / "epoch_1.pth"), "--work-dir", str(tmp_path)]
    assert main([*arguments, *extra]) == 2
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


@pytest.fixture
def bev_run(tiny_world: Path, tmp_path: Path, repository: Path) -> Callable[[str], list[str]]:
    """bev_run('bev/camera_sim.py') -> CONFIG, CHECKPOINT and --work-dir: an untrained detector on the tiny world."""

    def make(name: str) -> list[str]:
        config, checkpoint = tmp_path / Path(name).name, tmp_path / "epoch_1.pth"
        config.write_text(
            f"_base_ = [{str(repository / 'configs' / name)!r}]\n"
            f"held_out = dict(data_root={str(tiny_world)!r}, ann_file='nuscenes_infos_mini_val.pkl')\n"
            "test_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=held_out)\n"
            "test_evaluator = held_out\n"
            "default_hooks = dict(visualization=dict(score_thr=0.05))\n"
        )
        model = build_model(read_model_source(config))
        torch.save({"state_dict": model.state_dict()}, checkpoint)
        return [str(config), str(checkpoint), "--work-dir", str(tmp_path)]

    return make


@pytest.mark.parametrize(
    "name", ["bev/camera_sim.py", "bev/lidar_pillar_sim.py", "unidistill/unidistill_lidar2camera_demo.py"]
)
def test_bev_detectors_are_drawn_with_all_sensors(
    bev_run: Callable[[str], list[str]], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "pictures"
    assert main([*bev_run(name), "--show-dir", str(folder)]) == 0
    assert len(list(folder.iterdir())) == 6
    for kind in ("bev", "cameras"):
        images = [cv2.imread(str(folder / f"{index:06d}_{kind}.png")) for index in range(3)]
        assert all(image.std() > 10 for image in images)
        assert all((one != other).mean() > 0.01 for one, other in pairwise(images))


def test_every_nth_batch_is_drawn_under_the_log(bev_run: Callable[[str], list[str]], tmp_path: Path) -> None:
    options = ["--cfg-options", "default_hooks.visualization.interval=2"]
    assert main([*bev_run("bev/lidar_pillar_sim.py"), "--show-dir", "pictures", *options]) == 0
    names = sorted(path.name for path in tmp_path.glob("*/pictures/*.png"))
    assert names == [f"{index:06d}_{kind}.png" for index in (0, 2) for kind in ("bev", "cameras")]


def test_the_view_from_above_ends_where_the_model_sees_no_farther(
    bev_run: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    areas = []
    monkeypatch.setattr("perceptkd.visualization.draw_bev", lambda *_, area_m, **__: areas.append(area_m))
    monkeypatch.setattr("perceptkd.visualization.draw_cameras", lambda *_, **__: None)
    assert main([*bev_run("unidistill/unidistill_lidar2camera_demo.py"), "--show-dir", "pictures"]) == 0
    assert areas == [(-28.8, -28.8, 28.8, 28.8)] * 3


def test_a_file_that_is_no_checkpoint(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    assert main([str(tiny_folder / "retinanet.py"), str(tmp_path / "list.pth"), "--work-dir", str(tmp_path)]) == 2
    assert "holds a list, not a checkpoint" in capsys.readouterr().err
