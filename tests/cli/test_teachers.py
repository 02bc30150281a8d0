"""Teachers are trained where they are missing, and scored as they are otherwise."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from perceptkd.cli import jobs as jobs_module
from perceptkd.cli.arguments import UserError
from perceptkd.cli.teachers import ensure_trained

METRIC = "nuscenes/mAP"


@pytest.fixture
def teacher_config(tmp_path: Path) -> Any:
    path = tmp_path / "teacher.py"
    path.write_text("model = dict(type='X')\n")
    teacher = {"config": str(path), "checkpoint": str(tmp_path / "teachers/teacher/epoch_1.pth")}
    return Config({"model": {"student": {}, "teachers": {"lidar": teacher}}})


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The jobs that were run; each 'trains' the same weights."""
    jobs: list[Any] = []

    def fake(job: Any, *, shares: int) -> dict[str, Any]:
        jobs.append(job)
        job.work_dir.mkdir(parents=True, exist_ok=True)
        trained = job.work_dir / "epoch_1.pth"
        trained.write_bytes(b"trained")
        result = {"test": {METRIC: 0.5}, "val": {METRIC: 0.7}, "checkpoint": job.checkpoint or str(trained)}
        (job.work_dir / "result.json").write_text(json.dumps(result))
        return result

    monkeypatch.setattr(jobs_module, "run_job", fake)
    return jobs


def test_a_missing_teacher_is_trained_and_put_where_the_student_expects_it(
    teacher_config: Any, started: list[Any], tmp_path: Path
) -> None:
    target = Path(teacher_config.model.teachers.lidar.checkpoint)
    ensure_trained(teacher_config.model.teachers, tmp_path / "runs", ("val",))
    assert target.read_bytes() == b"trained"
    assert json.loads((target.parent / "metrics.json").read_text()) == {"epoch_1.pth": {METRIC: 0.7}}
    # which check_teacher compares with, whatever split was asked for
    (target.parent / "metrics.json").unlink()
    results = ensure_trained(teacher_config.model.teachers, tmp_path / "runs", ("test", "val"))
    assert json.loads((target.parent / "metrics.json").read_text()) == {"epoch_1.pth": {METRIC: 0.7}}
    assert results["lidar"]["given"] is False
    assert results["lidar"]["sha256"] == hashlib.sha256(b"trained").hexdigest()
    # and the next time it is the trained one
    ensure_trained(teacher_config.model.teachers, tmp_path / "runs", ("val",))
    assert [job.checkpoint for job in started] == [None, None, None]


def test_a_teacher_that_is_there_is_scored_as_it_is(
    teacher_config: Any, started: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = Path(teacher_config.model.teachers.lidar.checkpoint)
    target.parent.mkdir(parents=True)
    target.write_bytes(b"published")
    results = ensure_trained(teacher_config.model.teachers, tmp_path / "runs", ("val",))
    assert [job.checkpoint for job in started] == [str(target)]
    assert results["lidar"]["checkpoint"] == str(target)
    assert results["lidar"]["given"] is True
    assert target.read_bytes() == b"published"
    assert "is used as it is; remove it to train it anew" in capsys.readouterr().out
    assert json.loads((target.parent / "metrics.json").read_text()) == {"epoch_1.pth": {METRIC: 0.7}}
    # what was recorded of removed weights is not the record of those that take their place
    (target.parent / "metrics.json").write_text(json.dumps({"epoch_1.pth": {METRIC: 0.1}}))
    target.unlink()
    ensure_trained(teacher_config.model.teachers, tmp_path / "runs", ("val",))
    assert target.read_bytes() == b"trained"
    assert json.loads((target.parent / "metrics.json").read_text()) == {"epoch_1.pth": {METRIC: 0.7}}


def test_a_teacher_named_by_a_pattern_is_the_file_that_the_student_loads(
    teacher_config: Any, started: list[Any], tmp_path: Path
) -> None:
    teacher = teacher_config.model.teachers.lidar
    target = Path(teacher.checkpoint)
    teacher.checkpoint = str(target.parent / "epoch_*.pth")
    with pytest.raises(UserError, match="name the file it shall become"):
        ensure_trained(teacher_config.model.teachers, tmp_path / "runs", ("val",))
    target.parent.mkdir(parents=True)
    target.write_bytes(b"published")
    results = ensure_trained(teacher_config.model.teachers, tmp_path / "runs", ("val",))
    assert [job.checkpoint for job in started] == [str(target)]
    assert results["lidar"]["sha256"] == hashlib.sha256(b"published").hexdigest()
    teacher.checkpoint = "https://example.org/epoch_1.pth"
    with pytest.raises(UserError, match=r"download https://example\.org/epoch_1\.pth and name the file"):
        ensure_trained(teacher_config.model.teachers, tmp_path / "runs", ("val",))
