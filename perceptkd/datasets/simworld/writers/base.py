"""Writes the scenes of a data set in parallel, each whole or not at all, and continues where it was interrupted.

A scene is written to a temporary folder; then its files are moved to their places, and at last its table rows, whose
file is the mark that the scene is complete. A scene's bytes depend on its specification only, so that neither the
number of workers nor an interruption changes the data set.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import cv2
import numba
from tqdm import tqdm

from perceptkd.atomic import write_text
from perceptkd.datasets.simworld import lens
from perceptkd.datasets.simworld.kernel import is_compiled
from perceptkd.datasets.simworld.spec import WorldSpec
from perceptkd.datasets.simworld.writers.plan import (
    MANIFEST,
    WorldError,
    WorldPlan,
    check_same_world,
    read_manifest,
)
from perceptkd.progress import progress_bar

ROWS_FOLDER = ".scenes"
ROWS_FILE = "rows.json"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
MIB = 2**20

#: Writes one scene's files under a folder and returns its table rows; calls the last argument after each key frame.
SceneWriter = Callable[[WorldSpec, Path, Callable[[], None]], dict[str, Any]]
#: Writes what needs all scenes (tables, info files) from their rows by scene name.
Finisher = Callable[[WorldPlan, Path, dict[str, dict[str, Any]]], None]

_frames_done: Synchronized | None = None


def write_world(
    plan: WorldPlan,
    root: Path,
    *,
    write_scene: SceneWriter,
    finish: Finisher,
    outputs: Sequence[str],
    bytes_per_keyframe: int,
    workers: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the data set of ``plan`` to ``root``, or the part of it that is missing.

    Args:
        plan: What to write.
        root: Where to.
        write_scene: Writes one scene.
        finish: Writes what needs all of them.
        outputs: Glob patterns below ``root`` of what both of them write: ``overwrite`` removes it.
        bytes_per_keyframe: About how much a key frame takes.
        workers: Processes.
        overwrite: Whether another simulated data set in ``root`` makes room.

    Returns:
        The manifest, as stored in world.json.

    Raises:
        WorldError: ``root`` holds something else, or the disk is (or would be) full. Whole scenes stay.
    """
    manifest = _open_world(plan, root, outputs if overwrite else None)
    if manifest.get("hash"):
        return manifest
    specs = plan.scenes()
    todo = {name: spec for name, spec in specs.items() if not rows_path(root, name).is_file()}
    _check_space(root, len(todo) * plan.num_keyframes * bytes_per_keyframe)
    write_text(root / MANIFEST, json.dumps(manifest, indent=2))
    try:
        _write_scenes(todo, root, write_scene, workers=workers, num_done=len(specs) - len(todo))
        rows = {name: json.loads(rows_path(root, name).read_text()) for name in specs}
        finish(plan, root, rows)
        digest = hashlib.sha256("".join(rows[name]["digest"] for name in specs).encode()).hexdigest()
        manifest["hash"] = digest
        write_text(root / MANIFEST, json.dumps(manifest, indent=2))
    except OSError as error:
        if not _is_disk_full(error):
            raise
        complete = sum(rows_path(root, name).is_file() for name in specs)
        raise WorldError(
            f"the disk of {root} is full: {complete} of {len(specs)} scenes are complete and kept; "
            "free some space and run the same command again"
        ) from error
    shutil.rmtree(root / ROWS_FOLDER)
    return manifest


def _is_disk_full(error: OSError) -> bool:
    """Whether the disk was full, for an error of the system or one that explains it."""
    return any(isinstance(e, OSError) and e.errno in NO_SPACE for e in (error, error.__cause__))


def rows_path(root: Path, scene_name: str) -> Path:
    """The file that marks a scene as complete."""
    return root / ROWS_FOLDER / f"{scene_name}.json"


def _open_world(plan: WorldPlan, root: Path, removed: Sequence[str] | None) -> dict[str, Any]:
    """The manifest to go on with; another world's files of the ``removed`` patterns make room."""
    found = read_manifest(root)
    if found is not None and removed is not None:
        _remove_world(root, removed)
        found = None
    if found is None:
        return plan.manifest()
    check_same_world(found, plan, root)
    return found


def _remove_world(root: Path, outputs: Sequence[str]) -> None:
    """Removes what a writer has written to ``root``, its mark last, so that an interruption can be taken up."""
    for path in (path for pattern in (*outputs, ROWS_FOLDER) for path in root.glob(pattern)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    (root / MANIFEST).unlink()


def _check_space(root: Path, needed: int) -> None:
    existing = next(folder for folder in [root, *root.absolute().parents] if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise WorldError(
            f"writing the remaining scenes to {root} needs about {needed / MIB:.0f} MiB, but {free / MIB:.0f} MiB are "
            "free: make some room, choose another --out, or write fewer --sweeps, smaller images or fewer scenes"
        )


def _write_scenes(
    specs: dict[str, WorldSpec], root: Path, write_scene: SceneWriter, *, workers: int, num_done: int
) -> None:
    frames = sum(spec.num_keyframes for spec in specs.values())
    if frames and not is_compiled(lens.develop):
        print("the world's kernels are compiled before the first frame, once: up to two minutes", file=sys.stderr)
    with progress_bar(total=frames, desc=f"scenes ({num_done} already there)", unit="frame", disable=not frames) as bar:
        if workers <= 1 or len(specs) <= 1:
            for spec in specs.values():
                _write_one(spec, root, write_scene, lambda: bar.update())
        else:
            _write_parallel(specs, root, write_scene, workers=workers, bar=bar)


def _write_parallel(
    specs: dict[str, WorldSpec], root: Path, write_scene: SceneWriter, *, workers: int, bar: tqdm
) -> None:
    context = get_context("spawn")  # a forked child of a process that has used OpenMP may hang
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(min(workers, len(specs)), context, _start_worker, (counter,)) as pool:
        pending = {pool.submit(_write_in_worker, spec, root, write_scene) for spec in specs.values()}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.update(counter.value - bar.n)
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            raise WorldError(
                "a worker was killed (out of memory?): run the same command again, with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(counter: Synchronized) -> None:
    global _frames_done
    _frames_done = counter
    cv2.setNumThreads(1)
    numba.set_num_threads(1)


def _write_in_worker(spec: WorldSpec, root: Path, write_scene: SceneWriter) -> None:
    def count_frame() -> None:
        with _frames_done.get_lock():
            _frames_done.value += 1

    _write_one(spec, root, write_scene, count_frame)


def _write_one(spec: WorldSpec, root: Path, write_scene: SceneWriter, count_frame: Callable[[], None]) -> None:
    """One scene into a temporary folder, then to its place."""
    temporary = root / ROWS_FOLDER / f"{spec.scene_name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        rows = write_scene(spec, temporary, count_frame)
        files = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file())
        rows["digest"] = _digest(temporary, files, rows)
        (temporary / ROWS_FILE).write_text(json.dumps(rows))
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary / name, root / name)
        os.replace(temporary / ROWS_FILE, rows_path(root, spec.scene_name))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """Writes one file of a scene and makes the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _digest(folder: Path, files: list[Path], rows: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode())
    for name in files:
        digest.update(name.as_posix().encode())
        with open(folder / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
