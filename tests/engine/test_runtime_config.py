"""``configs/_base_/runtime/default.py`` under a model of another family."""

from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from perceptkd.engine.hooks import DistillLogHook, SeedEpochHook, StudentCheckpointHook


def test_a_config_that_inherits_it_trains(repository: Path, tmp_path: Path) -> None:
    tiny = repository / "tests/assets/tiny_coco/retinanet.py"
    runtime = repository / "configs/_base_/runtime/default.py"
    config = Config.fromfile(tiny)
    config.merge_from_dict(Config.fromfile(runtime).to_dict())
    config.update(work_dir=str(tmp_path), default_scope="mmdet", log_level="ERROR")
    config.train_cfg.update(max_epochs=1, val_interval=10)
    runner = Runner.from_cfg(config)
    kinds = [type(hook) for hook in runner.hooks]
    assert {SeedEpochHook, StudentCheckpointHook, DistillLogHook} <= set(kinds)
    assert kinds.index(SeedEpochHook) < kinds.index(StudentCheckpointHook)
    assert runner.seed == 0
    runner.train()
    assert (tmp_path / "epoch_1.pth").exists()


def test_it_leaves_the_scope_to_the_model(repository: Path) -> None:
    assert "default_scope" not in Config.fromfile(repository / "configs/_base_/runtime/default.py")
