"""The LiDAR to camera job on one real nuScenes key frame, at the published input size.

A LiDAR detector is overfitted to the frame and must find nearly all of its boxes; the camera detector then trains under
it, with losses that fall. This shows that everything fits real files and real sizes; with one frame it says nothing of
accuracy on others. The pictures in work_dirs/real_frame are to be looked at.

Usage: PERCEPTKD_REAL_DATA=FOLDER python benchmarks/real_frame.py, FOLDER/mmdet3d_demo/nuscenes being mmdet3d's
demo/data/nuscenes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from measure import Row, single_row, write_results
from mmengine.config import Config

from perceptkd.cli.compare import ensure_trained
from perceptkd.cli.jobs import Job, run_job, scalars

CONFIG = "configs/unidistill/unidistill_lidar2camera_frame.py"
FOLDER = Path("work_dirs/real_frame")
MISSED_SHARE = 0.1
FALLEN = 0.95  # what is left of a loss that has fallen, at most


def loss_rows(run: dict[str, Any]) -> list[Row]:
    """Every loss at the end of the training, as a share of what it was at its start."""
    records = [record for record in scalars(Path(run["folder"])) if "loss" in record]
    names = [name for name in records[0] if "loss" in name or (name.startswith("kd/") and not name.endswith("weight"))]
    rows = []
    for name in names:
        first, last = (fmean(record[name] for record in part) for part in (records[:2], records[-2:]))
        note = f"{first:.3g} to {last:.3g}"
        # a task without a box in the frame has nothing to lose, but a loss must not come out of nothing
        share = round(last / first, 3) if first else None if last == 0 else float("inf")
        rows.append(single_row(f"{name}, last / first", share, unit="", target=FALLEN, note=note))
    return rows


def draw(runs: dict[str, dict[str, Any]]) -> list[Path]:
    """Truth and predictions of both models over the six images and from above."""
    from perceptkd.cli.predictions import Frames
    from perceptkd.visualization import draw_bev, draw_cameras

    frames = Frames(CONFIG)
    frame = frames[0]
    found = {name: frames.predict(Path(run["folder"]), run["checkpoint"], [0])[0] for name, run in runs.items()}
    bev = FOLDER / "bev.png"
    options = {"class_names": frames.class_names, "area_m": frames.area_m, "title": "Real key frame"}
    draw_bev(bev, frame.points, {"truth": frame.truth, **found}, **options)
    pictures = [bev]
    for name, boxes in found.items():
        pictures.append(FOLDER / f"cameras_{name}.png")
        shown = {"truth": frame.truth, name: boxes}
        draw_cameras(pictures[-1], frame.images, shown, frame.calibration, class_names=frames.class_names)
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if not os.environ.get("PERCEPTKD_REAL_DATA"):
        sys.exit("PERCEPTKD_REAL_DATA is not set: name the folder that holds mmdet3d_demo/nuscenes")
    config = Config.fromfile(CONFIG)
    (teacher,) = ensure_trained(config.model.teachers, FOLDER / "runs", ("val",)).values()
    student = run_job(Job("student", CONFIG, 0, FOLDER / "runs"))
    missed = teacher["val"]["boxes/counted"] - teacher["val"]["boxes/found"]
    allowed = MISSED_SHARE * teacher["val"]["boxes/counted"]
    note = f"of {teacher['val']['boxes/counted']:.0f} in range with at least 5 points, within 2 m"
    rows = [
        single_row("boxes the LiDAR detector missed", missed, unit="boxes", target=allowed, note=note),
        single_row("boxes the camera detector found", student["val"]["boxes/found"], unit="boxes", note="no target"),
        *loss_rows(student),
    ]
    write_results("real_frame", rows, backends=student["backends"])
    for path in draw({"teacher": teacher, "student": student}):
        print(path)


if __name__ == "__main__":
    main()
