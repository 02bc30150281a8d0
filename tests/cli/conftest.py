"""One training of the tiny distillation job, shared by the tests of the commands."""

import runpy
from pathlib import Path

import pytest

import perceptkd.registry  # noqa: F401
from perceptkd.cli.train import train


@pytest.fixture(scope="session")
def tiny_folder(repository: Path) -> Path:
    """Folder of the tiny configs and their data; registers the distiller they use."""
    folder = repository / "tests/assets/tiny_coco"
    runpy.run_path(str(folder / "mimic.py"))
    return folder


@pytest.fixture(scope="session")
def teacher_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work directory of a trained and evaluated teacher."""
    work_dir = tmp_path_factory.mktemp("teacher")
    train(tiny_folder / "retinanet.py", work_dir=str(work_dir), options={"train_cfg.max_epochs": 1})
    return work_dir


@pytest.fixture(scope="session")
def distilled_run(tiny_folder: Path, teacher_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work directory of a student of that teacher."""
    work_dir = tmp_path_factory.mktemp("distilled")
    options = {"train_cfg.max_epochs": 1, "model.teachers.big.checkpoint": str(teacher_run / "epoch_1.pth")}
    train(tiny_folder / "distill.py", work_dir=str(work_dir), options=options)
    return work_dir


@pytest.fixture
def tiny_comparison(tiny_world: Path, tmp_path: Path, repository: Path) -> Path:
    """The configuration of the demo on the tiny world, a pillar detector as its teacher: two steps of each."""
    shared = (
        f"data_root = {str(tiny_world)!r}\n"
        "held_out = dict(data_root=data_root, ann_file='nuscenes_infos_mini_val.pkl')\n"
        "train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False,\n"
        "    dataset=dict(dataset=dict(data_root=data_root, ann_file='nuscenes_infos_mini_train.pkl')))\n"
        "val_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=held_out)\n"
        "val_evaluator = held_out\n"
        "train_cfg = dict(max_epochs=1)\n"
    )
    teacher = tmp_path / "teacher.py"
    teacher.write_text(f"_base_ = [{str(repository / 'configs/bev/lidar_pillar_sim.py')!r}]\n{shared}")
    checkpoint = tmp_path / "teachers/teacher/epoch_1.pth"
    config = tmp_path / "distill.py"
    config.write_text(
        f"_base_ = [{str(repository / 'configs/unidistill/unidistill_lidar2camera_demo.py')!r}]\n{shared}"
        f"model = dict(teachers=dict(lidar=dict(config={str(teacher)!r}, checkpoint={str(checkpoint)!r})))\n"
    )
    return config
