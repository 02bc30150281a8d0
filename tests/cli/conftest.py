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
