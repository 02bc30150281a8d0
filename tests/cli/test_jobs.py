"""Jobs run once: their folder is named by all that decides the result, and by nothing else."""

import io
import json
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from perceptkd.cli import jobs
from perceptkd.cli.arguments import UserError
from perceptkd.cli.jobs import (
    Job,
    LabelledLines,
    locked,
    median_step_ms,
    run_job,
    run_jobs,
    source_digest,
    stretch_schedule,
    validation_history,
)

CONFIG = """
data_root = {root!r}
model = dict(type='perceptkd.DistillModel', student=dict(type='X', width=8),
             teachers=dict(big=dict(config={teacher!r}, checkpoint={checkpoint!r})), distillers=[dict(type='Y')])
train_dataloader = dict(dataset=dict(type='Z', data_root=data_root, ann_file='infos.pkl'))
train_cfg = dict(max_epochs=4)
param_scheduler = [dict(type='LinearLR', by_epoch=False, end=100), dict(type='CosineAnnealingLR', T_max=4, end=4)]
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job whose config, teacher and world are files in ``tmp_path``."""
    monkeypatch.setattr(jobs, "source_digest", lambda distils: "unchanged")
    (tmp_path / "world.json").write_text('{"hash": "a"}')
    (tmp_path / "teacher.pth").write_bytes(b"weights")
    config = tmp_path / "config.py"
    (tmp_path / "big.py").write_text("model = dict(type='X', width=64)")
    names = {"teacher": str(tmp_path / "big.py"), "checkpoint": str(tmp_path / "*cher.pth")}
    config.write_text(CONFIG.format(root=str(tmp_path), **names))
    return Job("distilled", str(config), 0, tmp_path / "runs")


def digest(job: Job) -> str:
    return replace(job).work_dir.name.rsplit("-", 1)[1]  # a new object: the folder is decided once per object


def test_the_folder_says_what_ran(job: Job, tmp_path: Path) -> None:
    assert job.work_dir.parent == tmp_path / "runs"
    assert job.work_dir.name.startswith("distilled-seed0-")
    assert digest(job) == digest(job)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"options": {"model.student.width": 16}},
        {"options": {"model.distill": False}},
        {"schedule_factor": 2.0},
    ],
)
def test_the_hash_changes_with_what_decides_the_result(job: Job, change: dict[str, Any]) -> None:
    assert digest(replace(job, **change)) != digest(job)


@pytest.mark.parametrize("change", [{"folder": Path("elsewhere")}, {"splits": ("val", "test")}, {"name": "other"}])
def test_the_hash_does_not_change_with_what_does_not(job: Job, change: dict[str, Any]) -> None:
    assert digest(replace(job, **change)) == digest(job)


@pytest.mark.parametrize("name", ["teacher.pth", "world.json", "infos.pkl", "big.py"])
def test_the_hash_covers_the_teacher_and_the_data(job: Job, tmp_path: Path, name: str) -> None:
    (tmp_path / "infos.pkl").touch()
    before = digest(job)
    (tmp_path / name).write_bytes(b"model = dict(type='Y')")
    assert digest(job) != before


@pytest.mark.parametrize("name", ["manifest.json", "shard-00000.npy"])
def test_the_hash_covers_what_a_teacher_cache_holds(job: Job, tmp_path: Path, name: str) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / name).write_text("one")
    job = replace(job, options={"model.teachers.big.role": "cached", "model.teachers.big.cache": str(store)})
    before = digest(job)
    (store / "lock").touch()
    assert digest(job) == before
    (store / name).write_text("two")
    assert digest(job) != before


def test_the_hash_covers_a_student_given_by_its_path(job: Job, tmp_path: Path) -> None:
    small = tmp_path / "small.py"
    digests = set()
    for width in (8, 16):
        small.write_text(f"model = dict(type='X', width={width})")
        digests.add(digest(replace(job, options={"model.student": str(small)})))
    assert len(digests) == 2


def test_the_hash_covers_the_machine_and_the_choice_of_ops(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(job)
    monkeypatch.setenv("PERCEPTKD_SPARSE", "torch")
    chosen = digest(job)
    monkeypatch.setattr(jobs, "environment", lambda: {"device": "NVIDIA H100"})
    assert len({before, chosen, digest(job)}) == 3


@pytest.mark.parametrize("place", ["config", "student", "student's checkpoint"])
def test_the_hash_covers_weights_that_a_run_starts_from(job: Job, tmp_path: Path, place: str) -> None:
    weights = tmp_path / "pretrained.pth"
    student = tmp_path / "student.py"
    named = f"init_cfg=dict(type='Pretrained', checkpoint={str(weights)!r})" if place == "student" else ""
    student.write_text(f"model = dict(type='X', {named})")
    options = {
        "config": {"load_from": str(weights)},
        "student": {"model.student": str(student)},
        "student's checkpoint": {"model.student": {"config": str(student), "checkpoint": str(weights)}},
    }[place]
    job = replace(job, options=options)
    digests = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        digests.append(digest(job))
    assert digests[0] != digests[1]


def test_the_hash_covers_the_weights_that_are_evaluated_as_they_are(job: Job, tmp_path: Path) -> None:
    given = replace(job, checkpoint=str(tmp_path / "given.pth"))
    digests = {digest(job)}
    for content in (b"one", b"two"):
        (tmp_path / "given.pth").write_bytes(content)
        digests.add(digest(given))
    assert len(digests) == 3


def test_a_control_does_not_depend_on_teachers_and_distillers(job: Job, tmp_path: Path) -> None:
    control = replace(job, options={"model.distill": False})
    before = digest(control)
    (tmp_path / "teacher.pth").write_bytes(b"other")
    options = {**control.options, "model.distillers.0.weight": 3, "model.teachers.big.norm": "train"}
    assert digest(replace(control, options=options)) == before


def test_methods_with_the_same_student_share_their_controls(job: Job, tmp_path: Path) -> None:
    other = tmp_path / "other_method.py"
    other.write_text(Path(job.config).read_text().replace("dict(type='Y')", "dict(type='Z', weight=2)"))
    pair = (job, replace(job, config=str(other)))
    controls = [replace(each, name="control", options={"model.distill": False}) for each in pair]
    assert controls[0].work_dir == controls[1].work_dir
    assert pair[0].work_dir != replace(pair[1]).work_dir


def test_the_hash_covers_the_source_of_what_computes_but_not_of_what_wrote_the_world(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(job)
    monkeypatch.setattr(jobs, "source_digest", lambda distils: "changed")
    assert digest(job) != before
    monkeypatch.setattr(jobs, "PACKAGE", tmp_path)
    digests = []
    for part in ("core/a.py", "evaluation/b.py", "datasets/simworld/c.py"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_text("pass")
        digests.append(source_digest(distils=False))
    assert digests[0] != digests[1] == digests[2]


def test_only_what_distils_depends_on_the_distillers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PACKAGE", tmp_path)
    (tmp_path / "distillers").mkdir()
    before = [source_digest(distils=distils) for distils in (False, True)]
    (tmp_path / "distillers/method.py").write_text("pass")
    after = [source_digest(distils=distils) for distils in (False, True)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]


def test_the_folder_is_decided_once_and_travels_to_the_process(job: Job, tmp_path: Path) -> None:
    before = job.work_dir
    (tmp_path / "teacher.pth").write_bytes(b"other")
    assert pickle.loads(pickle.dumps(job)).work_dir == job.work_dir == before


def test_a_stretched_schedule_stretches_its_phases_and_not_the_warm_up(job: Job) -> None:
    config = replace(job, schedule_factor=1.5).build_config()
    assert config.train_cfg.max_epochs == 6
    warm_up, annealing = config.param_scheduler
    assert warm_up.end == 100
    assert (annealing.T_max, annealing.end) == (6, 6)


def schedule(length: dict[str, int], *phases: dict[str, Any]) -> Config:
    return Config({"train_cfg": length, "param_scheduler": list(phases)})


def test_the_last_phase_is_stretched_whatever_it_is() -> None:
    warm_up = {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 4}
    cosine = {"type": "CosineAnnealingLR", "by_epoch": False, "begin": 4, "end": 20, "T_max": 16}
    by_iteration = schedule({"max_iters": 20}, warm_up, cosine)
    stretch_schedule(by_iteration, 1.25)
    assert by_iteration.train_cfg.max_iters == 25
    assert by_iteration.param_scheduler == [warm_up, {**cosine, "end": 25, "T_max": 21}]

    steps = {"type": "MultiStepLR", "milestones": [10, 15], "gamma": 0.1}
    by_epoch = schedule({"max_epochs": 20}, {**steps, "end": 20}, {"type": "StepLR", "step_size": 4})
    stretch_schedule(by_epoch, 1.3)
    assert by_epoch.param_scheduler[0] == {**steps, "milestones": [13, 20], "end": 26}
    assert by_epoch.param_scheduler[1].step_size == 5


@pytest.mark.parametrize(
    "phase",
    [
        {"type": "OneCycleLR", "total_steps": 10},
        {"type": "CosineAnnealingLR", "begin": 2, "end": 5, "T_max": 3},
        {"type": "CosineAnnealingLR", "by_epoch": False, "begin": 2, "end": 10, "T_max": 8},
        {"type": "CosineAnnealingLR", "by_epoch": False, "end": 10, "T_max": 10},
        {"type": "LinearLR", "by_epoch": False},
        {"type": "LinearLR", "by_epoch": False, "start_factor": 1.0, "end_factor": 0.0, "end": 500},
        {"type": "PolyLR", "end": 5},
    ],
)
def test_a_schedule_that_cannot_be_stretched_is_refused(phase: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{phase['type']} cannot be stretched"):
        stretch_schedule(schedule({"max_epochs": 10}, phase), 2)


def test_a_stretch_that_changes_nothing_is_refused(job: Job) -> None:
    with pytest.raises(UserError, match=r"1\.1 times as long has no more than its max_epochs=4"):
        replace(job, schedule_factor=1.1).build_config()


def test_a_finished_job_is_read_back(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.work_dir.mkdir(parents=True)
    (job.work_dir / "result.json").write_text(json.dumps({"val": {"mAP": 0.5}, "checkpoint": "a.pth"}))
    monkeypatch.setattr(jobs.multiprocessing, "get_context", lambda method: pytest.fail("it ran again"))
    result = run_job(job)
    assert result["val"] == {"mAP": 0.5}
    assert result["folder"] == str(job.work_dir)


def test_a_failing_job_says_which_and_where_its_log_is(job: Job, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError) as caught:
        run_job(job)  # there is no model of type X
    message = str(caught.value)
    assert "the run 'distilled' with seed 0 ended with status 1" in message
    assert str(job.work_dir) in message
    assert "Traceback" in capfd.readouterr().err
    assert not (job.work_dir / "result.json").exists()


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    import fcntl

    with locked(tmp_path / "job"), (tmp_path / "job/lock").open("w") as second, pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "job/lock").open("w") as second:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_history_and_step_time_are_read_over_all_parts_of_a_resumed_run(tmp_path: Path) -> None:
    parts = {
        "20240101_000000": [
            {"loss": 2.0, "time": 0.5, "step": 1},
            {"nuscenes/mAP": 0.1, "time": 7.0, "step": 1},
            {"loss": 2.0, "time": 9.0, "step": 2},  # done again after the resume
        ],
        "20240102_000000": [
            {"loss": 1.0, "time": 0.1, "step": 2},
            {"loss": 1.0, "time": 0.2, "step": 3},
            {"nuscenes/mAP": 0.2, "step": 3},
        ],
    }
    for name, records in parts.items():
        path = tmp_path / name / "vis_data" / "scalars.json"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [record["nuscenes/mAP"] for record in validation_history(tmp_path)] == [0.1, 0.2]
    assert median_step_ms(tmp_path) == 200.0
    assert median_step_ms(tmp_path / "20240101_000000") is None


@pytest.mark.parametrize("metric", ["seg/mIoU", "coco/bbox_mAP_50", "kitti/moderate"])
def test_history_keeps_validations_by_any_metric(tmp_path: Path, metric: str) -> None:
    path = tmp_path / "20240101_000000" / "vis_data" / "scalars.json"
    path.parent.mkdir(parents=True)
    validation = {metric: 0.1, "time": 7.0, "step": 1}
    path.write_text("".join(json.dumps(record) + "\n" for record in ({"loss": 2.0, "lr": 0.1, "step": 1}, validation)))
    assert validation_history(tmp_path) == [validation]


def test_jobs_at_a_time_share_the_cores_and_answer_in_order(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = threading.Barrier(2, timeout=10)  # breaks unless two run at a time

    def fake(job: Job, *, shares: int) -> dict[str, Any]:
        meeting.wait()
        return {"seed": job.seed, "shares": shares}

    monkeypatch.setattr(jobs, "run_job", fake)
    results = run_jobs([replace(job, seed=seed) for seed in range(4)], parallel=2)
    assert results == [{"seed": seed, "shares": 2} for seed in range(4)]


def test_a_single_job_gets_all_cores(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "run_job", lambda job, *, shares: shares)
    assert run_jobs([job], parallel=2) == [1]
    assert run_jobs([], parallel=2) == []


def test_a_failed_job_ends_the_others_that_wait(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    started, closing = [], threading.Event()

    class Pool(jobs.ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            closing.set()
            super().shutdown(wait=wait)

    def fake(job: Job, *, shares: int) -> dict[str, Any]:
        started.append(job.seed)
        if job.seed == 0:
            raise UserError("no")
        assert closing.wait(timeout=10)  # the second may have begun before the first's end was noticed
        return {}

    monkeypatch.setattr(jobs, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(jobs, "run_job", fake)
    with pytest.raises(UserError, match="no"):
        run_jobs([replace(job, seed=seed) for seed in range(50)])
    assert started in ([0], [0, 1])


def test_lines_of_several_processes_are_told_apart() -> None:
    stream = io.StringIO()
    lines = LabelledLines(stream, "control 0")
    for piece in ("one ", "line\nand ", "", "another\nrest"):
        print(piece, end="", file=lines)
    assert stream.getvalue() == "[control 0] one line\n[control 0] and another\n"
    assert not lines.isatty()  # so that tqdm draws no bar
