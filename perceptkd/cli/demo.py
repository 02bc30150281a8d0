"""``make demo``: a LiDAR detector teaches a camera detector, from an empty folder to a table and pictures."""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perceptkd.cli.arguments import WORLDS, UserError, build_parser, run_command
from perceptkd.cli.compare import compare, say
from perceptkd.cli.comparison_text import table
from perceptkd.cli.provenance import provenance, write_json

CONFIG = "configs/foreground/foreground_lidar2camera_demo.py"
WORLD = Path("data/simworld_demo")
PICTURED_FRAMES = 2
BAR_METRICS = ("near_mAP", "mAP", "NDS")
SUMMARY_METRICS = (*BAR_METRICS, "mATE", "mASE", "mAOE", "mAVE", "mAAE")
UNITS = "AP, NDS and gain in points, 100 times the fraction; errors in m, 1 - IoU, rad, m/s and 1 - accuracy"
NUM_STEPS = 4  # world, teacher, students, pictures
MODELS = ("teacher", "control", "distilled")


def demo(folder: Path) -> dict[str, Any]:
    """Writes the world, trains and evaluates the three models, and draws them; finished parts are not done again.

    Returns:
        The summary that ``<folder>/summary.json`` holds.
    """
    start, is_first = time.perf_counter(), not (folder / "runs").exists()
    announce = headlines()
    announce("the simulated world")
    write_world()
    result = compare(CONFIG, seeds=[0], folder=folder / "runs", parallel=students_at_a_time(), announce=announce)
    models = {
        "teacher": next(iter(result["metrics"]["teacher"].values())),
        "control": result["metrics"]["control"][0],
        "distilled": result["metrics"]["distilled"][0],
    }
    summary: dict[str, Any] = {name: in_points(metrics) for name, metrics in models.items()}
    minutes = round((time.perf_counter() - start) / 60, 2) if is_first else recorded_minutes(folder)
    summary |= {"gain": result["gain"]["mean"], "units": UNITS, "demo_minutes": minutes}
    summary |= {key: result[key] for key in ("world", "backends")}
    write_json(folder / "summary.json", {**summary, **provenance()})
    announce("pictures and table")
    pictures = draw(folder, result["runs"], summary)
    print(table(result))
    print("One seed on a small world: what distillation gives is measured by tools/compare.py with several seeds.")
    for path in (folder / "summary.json", *pictures):
        print(path)
    return summary


def headlines() -> Callable[[str], None]:
    """Prints what comes next, numbered: ``2/4 teacher``."""
    numbers = itertools.count(1)
    return lambda step: say(f"\n{next(numbers)}/{NUM_STEPS} {step}")


def recorded_minutes(folder: Path) -> float | None:
    """How long the first run took, as its summary has it; None if that run was interrupted."""
    path = folder / "summary.json"
    return json.loads(path.read_text())["demo_minutes"] if path.is_file() else None


def students_at_a_time() -> int:
    """Both students at once where they share a CPU, one after the other on a GPU or a single core."""
    import torch

    return 1 if torch.cuda.is_available() else min(2, torch.get_num_threads())


def in_points(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics without the evaluator's prefix, APs and NDS in points.

    >>> in_points({"nuscenes/car_AP": 0.5, "nuscenes/mATE": 0.25})
    {'car_AP': 50.0, 'mATE': 0.25}
    """
    short = {name.split("/", 1)[-1]: value for name, value in metrics.items()}
    return {name: 100 * value if "AP" in name or "NDS" in name else value for name, value in short.items()}


def write_world() -> None:
    """Writes the demo's simulated world unless it is there; continues an interrupted one."""
    from perceptkd.cli.create_data import main as create_data

    if create_data(["simworld", "--out", str(WORLD), *WORLDS[f"{WORLD.name}/nuscenes"].split()]) != 0:
        raise UserError(f"the simulated world could not be written to {WORLD}; the reason stands above")


def draw(folder: Path, runs: Mapping[str, Mapping[str, str]], summary: Mapping[str, Any]) -> list[Path]:
    """Draws bird's-eye views and camera overlays of the busiest frames, training curves and the table."""
    from perceptkd.cli.predictions import Frames
    from perceptkd.visualization import draw_bev, draw_cameras, draw_comparison, draw_curves

    frames = Frames(CONFIG)
    pictures = []
    chosen = frames.busiest(PICTURED_FRAMES)
    folders = {name: Path(runs[name]["folder"]) for name in MODELS}
    predictions = {name: frames.predict(folders[name], runs[name]["checkpoint"], chosen) for name in MODELS}
    for place, index in enumerate(chosen):
        frame = frames[index]
        boxes = {"truth": frame.truth, **{name: predictions[name][place] for name in MODELS}}
        bev = folder / f"bev_{place}.png"
        options = {"class_names": frames.class_names, "area_m": frames.area_m}
        draw_bev(bev, frame.points, boxes, title="LiDAR teaches a camera detector", **options)
        cameras = folder / f"cameras_{place}.png"
        shown = {"truth": frame.truth, "distilled": boxes["distilled"]}
        draw_cameras(cameras, frame.images, shown, frame.calibration, class_names=frames.class_names)
        pictures += [bev, cameras]
    curves = folder / "curves.png"
    trained = {name: path for name, path in folders.items() if list(path.glob("*/vis_data/scalars.json"))}
    draw_curves(curves, trained, title="Training of teacher and students")
    numbers = folder / "comparison.png"
    results = {name: {key: summary[name][key] for key in SUMMARY_METRICS} for name in MODELS}
    options = {"main": BAR_METRICS, "title": "nuScenes evaluation", "note": "SimWorld, one seed"}
    draw_comparison(numbers, results, **options)
    return [*pictures, curves, numbers]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser(
        """
        Write the simulated world, train a LiDAR teacher, a camera student alone and the same student under its teacher,
        evaluate all three with the official nuScenes evaluator, and draw the result. Interrupted, it continues.
        """,
        examples="make demo\npython tools/demo.py --work-dir work_dirs/demo",
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"), help="where everything goes")
    return parser.parse_args(arguments)


def command(arguments: Sequence[str] | None = None) -> None:
    demo(parse_arguments(arguments).work_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, arguments)
