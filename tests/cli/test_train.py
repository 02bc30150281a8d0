"""The train command: what it writes, what its flags change, and how it fails."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from perceptkd.cli.arguments import UserError
from perceptkd.cli.train import build_runner, main, read_config, train
from perceptkd.visualization.curves import load_scalars


def test_distilled_run_writes_what_the_readme_says(distilled_run: Path) -> None:
    assert {path.name for path in distilled_run.glob("*.p*")} >= {"epoch_1.pth", "epoch_1_student.pth", "student.py"}
    assert (distilled_run / "metrics.json").exists()
    scalars = next(distilled_run.glob("*/vis_data/scalars.json")).read_text()
    assert '"loss_kd/tinymimic/feature"' in scalars
    log = next(distilled_run.glob("*/*.log")).read_text()
    assert "eta:" in log
    assert "kd/tinymimic/feature" in log


def test_distill_false_trains_the_student_alone(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_folder / "distill.py"), "--work-dir", str(tmp_path), "--cfg-options"]
    assert main([*arguments, "model.distill=False", "train_cfg.max_epochs=1"]) == 0
    assert "loss_kd" not in next(tmp_path.glob("*/vis_data/scalars.json")).read_text()
    student = torch.load(tmp_path / "epoch_1_student.pth", weights_only=True)["state_dict"]
    assert "bbox_head.retina_cls.weight" in student


def test_resume_goes_on_from_the_latest(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_folder / "retinanet.py"), "--work-dir", str(tmp_path)]
    assert main([*arguments, "--cfg-options", "train_cfg.max_epochs=1"]) == 0
    first = (tmp_path / "epoch_1.pth").stat().st_mtime_ns
    assert main([*arguments, "--resume", "--cfg-options", "train_cfg.max_epochs=2"]) == 0
    assert (tmp_path / "epoch_1.pth").stat().st_mtime_ns == first
    assert Path((tmp_path / "last_checkpoint").read_text()).name == "epoch_2.pth"


@pytest.mark.parametrize(
    ("loop", "steps"),
    [
        ({"type": "EpochBasedTrainLoop", "max_epochs": 2, "val_interval": 1}, [1, 2]),
        ({"type": "IterBasedTrainLoop", "max_iters": 4, "val_interval": 2}, [2, 4]),
    ],
)
def test_validations_are_logged_with_the_epoch_or_step_they_were_made_at(
    tiny_folder: Path, tmp_path: Path, loop: dict, steps: list[int]
) -> None:
    options = {"train_cfg": {"_delete_": True, **loop}, "default_hooks.checkpoint.by_epoch": "max_epochs" in loop}
    train(tiny_folder / "retinanet.py", work_dir=str(tmp_path), options=options)
    records = load_scalars(tmp_path)
    assert [record["step"] for record in records if "coco/bbox_mAP" in record] == steps


def test_flags_reach_the_runner(tiny_folder: Path, tmp_path: Path) -> None:
    runner = build_runner(
        tiny_folder / "retinanet.py", work_dir=str(tmp_path), amp=True, auto_scale_lr=True, seed=7, resume="some.pth"
    )
    assert runner.seed == 7
    assert runner.cfg.optim_wrapper.type == "perceptkd.AmpOptimWrapper"
    assert runner.cfg.auto_scale_lr.enable
    assert (runner._resume, runner._load_from) == (True, "some.pth")


def test_a_config_without_randomness_takes_a_seed(tiny_folder: Path, tmp_path: Path) -> None:
    config = Config.fromfile(tiny_folder / "retinanet.py")
    config.pop("randomness")
    runner = build_runner(config, work_dir=str(tmp_path), seed=5)
    assert runner.seed == 5


def test_runs_of_one_process_do_not_share_state(tiny_folder: Path, tmp_path: Path) -> None:
    config = tiny_folder / "retinanet.py"
    options = {
        "visualizer": {"type": "Visualizer", "name": "visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    }
    first, second = (build_runner(config, work_dir=str(tmp_path / n), options=options) for n in "ab")
    assert first.message_hub is not second.message_hub
    assert first.visualizer is not second.visualizer
    assert first.logger is not second.logger


def test_the_given_config_is_not_changed(tiny_folder: Path, tmp_path: Path) -> None:
    config = Config.fromfile(tiny_folder / "retinanet.py")
    before = config.pretty_text
    build_runner(config, work_dir=str(tmp_path), options={"train_cfg.max_epochs": 5}, amp=True, seed=9)
    assert config.pretty_text == before


def test_default_work_dir(tiny_folder: Path) -> None:
    assert read_config(tiny_folder / "retinanet.py").work_dir == "work_dirs/retinanet"
    assert read_config({"model": {"type": "X"}}).work_dir == "work_dirs/run"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing/here.py"], "config nothing/here.py does not exist"),
        (["CONFIG", "--cfg-options", "train_dataloader.dataset.dataset.ann_file=no.json"], "no.json does not exist"),
        (["CONFIG", "--cfg-options", "model.backbone.plugins.5=1"], "--cfg-options does not fit the config"),
        (["CONFIG", "--cfg-options", "model.backbone.dpeth=50"], "unexpected keyword argument 'dpeth'"),
        (["CONFIG", "--resume", "no.pth"], "checkpoint no.pth does not exist"),
        (["nolib::some/config.py"], "pip install nolib"),
        (["mmdet::retinanet/no.py"], "mmdet has no config retinanet/no.py"),
    ],
)
def test_what_the_user_can_put_right(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], sentence: str
) -> None:
    arguments = [str(tiny_folder / "retinanet.py") if word == "CONFIG" else word for word in arguments]
    assert main([*arguments, "--work-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error


def test_an_option_that_would_change_nothing_is_refused(tmp_path: Path) -> None:
    """A variable of the file has done its work when options are merged; what the Runner reads has not."""
    path = tmp_path / "config.py"
    path.write_text(
        "root = 'data/here'\nepochs = 3\nlog_level = 'INFO'\nname = 'INFO'\n"
        "data = [dict(root=root), dict(files=dict(root=root))]\ntrain_cfg = dict(epochs=epochs, interval=3)\n"
        "tag = 'none'\nlauncher = 'none'\nbounds = [0.0, -1.0, 2.0]\nmodel = dict(point_cloud_range=bounds)\n"
    )
    with pytest.raises(UserError, match=r"root is a variable, .* instead: data.0.root=..., data.1.files.root=...$"):
        read_config(path, options={"root": "data/there"})
    with pytest.raises(UserError, match=r"Set these instead: train_cfg.epochs=...$"):
        read_config(path, options={"epochs": 4})
    with pytest.raises(UserError, match=r"Set these instead: model.point_cloud_range=...$"):
        read_config(path, options={"bounds": [0.0, -2.0, 2.0]})
    options = {"data.0.root": "data/there", "log_level": "DEBUG", "root": "data/here", "new": 1, "tag": "first"}
    config = read_config(path, options=options)
    assert (config.data[0].root, config.log_level, config.new, config.tag) == ("data/there", "DEBUG", 1, "first")


def test_help_teaches(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "model.distill=False" in text
    assert "--resume" in text


def vis_options(backend: str) -> list[str]:
    return ["--cfg-options", "visualizer.type=Visualizer", f"visualizer.vis_backends=[{{'type': '{backend}'}}]"]


def test_tensorboard(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra 'tracking'")
    arguments = [str(tiny_folder / "retinanet.py"), "--work-dir", str(tmp_path), *vis_options("TensorboardVisBackend")]
    assert main([*arguments, "train_cfg.max_epochs=1"]) == 0
    assert next(tmp_path.glob("*/vis_data/events.out.tfevents.*")).stat().st_size > 0


def test_wandb_that_is_not_installed(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    arguments = [str(tiny_folder / "retinanet.py"), "--work-dir", str(tmp_path), *vis_options("WandbVisBackend")]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == 'error: Please run "pip install wandb" to install wandb'


@pytest.mark.parametrize("distill", [True, False])
def test_a_student_starts_from_the_weights_its_config_names(
    tiny_folder: Path, teacher_run: Path, tmp_path: Path, distill: bool
) -> None:
    start = teacher_run / "epoch_1.pth"
    options = {"model.distill": distill, "model.student.init_cfg": {"type": "Pretrained", "checkpoint": str(start)}}
    runner = build_runner(tiny_folder / "distill.py", work_dir=str(tmp_path), options=options)
    runner.model.init_weights()
    expected = torch.load(start, weights_only=False)["state_dict"]
    found = runner.model.student.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
