"""The writer of scenes: whole scenes only, taken up where interrupted, the same bytes whatever the workers."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from perceptkd.datasets.simworld.writers import base
from perceptkd.datasets.simworld.writers.base import rows_path, write_world
from perceptkd.datasets.simworld.writers.nuscenes import write_nuscenes_world
from perceptkd.datasets.simworld.writers.plan import WorldError, plan_mini

TINY = {"num_keyframes": 2, "sweeps": 1, "image_size": (64, 36)}
OUTPUTS = ("samples", "tables.*")


def digests(root: Path) -> dict[str, str]:
    """Hash of every file by its name."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world") / "nuscenes"
    write_nuscenes_world(plan_mini(2, **TINY), root)
    return root


def fake_scene(spec, folder: Path, count_frame) -> dict:
    """A scene of one small file, so that a test can interrupt it anywhere."""
    (folder / "samples").mkdir()
    (folder / "samples" / f"{spec.scene_name}.txt").write_text(f"{spec.seed}")
    count_frame()
    return {"name": spec.scene_name}


def fake_finish(plan, root: Path, rows: dict) -> None:
    (root / "tables.json").write_text(json.dumps(rows))


def write_fake(root: Path, num_scenes: int = 3, *, write_scene=fake_scene, needed: int = 1, **kwargs) -> dict:
    sizes = {"seed": kwargs.pop("seed", 0), "num_keyframes": 1}
    plan = plan_mini(num_scenes, **sizes)
    steps = {"write_scene": write_scene, "finish": fake_finish, "outputs": OUTPUTS}
    return write_world(plan, root, **steps, bytes_per_keyframe=needed, **kwargs)


def fail_at(scene_name: str, error: BaseException):
    def write_scene(spec, folder, count_frame):
        rows = fake_scene(spec, folder, count_frame)
        if spec.scene_name == scene_name:
            raise error
        return rows

    return write_scene


def test_same_bytes_for_the_same_seed_and_any_number_of_workers(world, tmp_path):
    write_nuscenes_world(plan_mini(2, **TINY), tmp_path / "nuscenes", workers=2)
    assert digests(tmp_path / "nuscenes") == digests(world)


def test_another_seed_is_another_world(world, tmp_path):
    manifest = write_nuscenes_world(plan_mini(1, seed=1, **TINY), tmp_path / "nuscenes")
    assert manifest["hash"] != json.loads((world / "world.json").read_text())["hash"]


def test_nothing_but_the_data_set_is_left(world):
    assert sorted(path.name for path in world.iterdir()) == [
        "maps",
        "nuscenes_infos_mini_train.pkl",
        "nuscenes_infos_mini_val.pkl",
        "samples",
        "sweeps",
        "v1.0-mini",
        "world.json",
    ]


def test_a_complete_world_is_not_written_again(tmp_path):
    first = write_fake(tmp_path / "w")
    again = write_fake(tmp_path / "w", write_scene=fail_at("scene-0061", AssertionError("written again")))
    assert first == again
    assert len(first["hash"]) == 64


@pytest.mark.parametrize("is_cold", [True, False])
def test_the_wait_for_the_compiler_is_told_before_the_first_frame(tmp_path, monkeypatch, capsys, is_cold):
    monkeypatch.setattr(base, "is_compiled", lambda kernel: not is_cold)
    write_fake(tmp_path / "w")
    assert ("compiled before the first frame" in capsys.readouterr().err) is is_cold
    write_fake(tmp_path / "w")
    assert "compiled" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug")])
def test_interrupted_and_resumed_gives_the_same_bytes(tmp_path, error):
    write_fake(tmp_path / "straight")
    root = tmp_path / "resumed"
    with pytest.raises(type(error)):
        write_fake(root, write_scene=fail_at("scene-0103", error))
    assert rows_path(root, "scene-0061").is_file()
    assert not rows_path(root, "scene-0103").exists()
    assert not list(root.rglob("*.tmp"))
    written = []

    def write_scene(spec, folder, count_frame):
        written.append(spec.scene_name)
        return fake_scene(spec, folder, count_frame)

    write_fake(root, write_scene=write_scene)
    assert written == ["scene-0103", "scene-0553"]
    assert digests(root) == digests(tmp_path / "straight")


def test_a_scene_killed_while_its_files_were_moved_is_written_again(tmp_path, monkeypatch):
    """A kill leaves a temporary folder and some files in place, but no mark: the scene counts as missing."""
    write_fake(tmp_path / "straight")
    root = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        write_fake(root, write_scene=fail_at("scene-0061", KeyboardInterrupt()))
    left = root / base.ROWS_FOLDER / "scene-0061.tmp/samples"
    left.mkdir(parents=True)
    (left / "half.txt").write_text("half")
    (root / "samples").mkdir()
    (root / "samples/scene-0061.txt").write_text("cut")
    write_fake(root)
    assert digests(root) == digests(tmp_path / "straight")


def test_full_disk_leaves_whole_scenes_and_says_how_to_go_on(tmp_path):
    root = tmp_path / "w"
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(WorldError, match=r"disk of .* is full: 1 of 3 scenes are complete and kept; .*run the same"):
        write_fake(root, write_scene=fail_at("scene-0103", full))
    assert [path.name for path in (root / "samples").iterdir()] == ["scene-0061.txt"]
    assert not list(root.rglob("*.tmp"))
    assert "hash" not in json.loads((root / "world.json").read_text())


def test_full_disk_while_the_tables_are_written(tmp_path):
    def finish(plan, root, rows):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    plan = plan_mini(2, num_keyframes=1)
    with pytest.raises(WorldError, match="2 of 2 scenes are complete and kept"):
        write_world(plan, tmp_path / "w", write_scene=fake_scene, finish=finish, outputs=OUTPUTS, bytes_per_keyframe=1)


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path):
    denied = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(PermissionError):
        write_fake(tmp_path / "w", write_scene=fail_at("scene-0061", denied))


def test_full_disk_in_a_worker_process(tmp_path):
    with pytest.raises(WorldError, match=r"disk of .* is full: .* of 3 scenes are complete"):
        write_fake(tmp_path / "w", write_scene=disk_full, workers=2)


def disk_full(spec, folder, count_frame):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_killed_worker_is_told(tmp_path):
    with pytest.raises(WorldError, match="a worker was killed"):
        write_fake(tmp_path / "w", write_scene=kill_oneself, workers=2)


def kill_oneself(spec, folder, count_frame):
    os._exit(9)


def test_too_little_space_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(WorldError, match=r"needs about 3145728 MiB, but \d+ MiB are free"):
        write_fake(tmp_path / "w", needed=2**40)
    assert not (tmp_path / "w").exists()


def test_another_world_is_refused_and_stays(tmp_path):
    root = tmp_path / "w"
    write_fake(root)
    before = digests(root)
    with pytest.raises(WorldError, match=r"seed is 0, asked for 1.*--overwrite"):
        write_fake(root, seed=1)
    assert digests(root) == before


def test_overwrite_replaces_what_was_written_and_nothing_else(tmp_path):
    root = tmp_path / "w"
    write_fake(root)
    (root / "notes.txt").write_text("mine")
    write_fake(root, 1, seed=1, overwrite=True)
    assert (root / "samples/scene-0061.txt").read_text() == "1"
    assert not (root / "samples/scene-0103.txt").exists()
    assert (root / "notes.txt").read_text() == "mine"


def test_overwrite_does_not_touch_a_folder_that_is_not_ours(tmp_path):
    (tmp_path / "samples").mkdir()
    with pytest.raises(WorldError, match="not ours to write to"):
        write_fake(tmp_path, overwrite=True)


def test_a_broken_file_changes_the_hash(tmp_path):
    first = write_fake(tmp_path / "a")["hash"]

    def other(spec, folder, count_frame):
        rows = fake_scene(spec, folder, count_frame)
        if spec.scene_name == "scene-0553":
            (folder / "samples/scene-0553.txt").write_text("other")
        return rows

    assert write_fake(tmp_path / "b", write_scene=other)["hash"] != first
    shutil.rmtree(tmp_path / "a")
    assert write_fake(tmp_path / "a")["hash"] == first
