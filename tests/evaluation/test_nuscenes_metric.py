"""The metric on predictions whose score is known."""

import copy
import gc
import json
import os
import pickle
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from nuscenes.eval.common.loaders import load_prediction
from nuscenes.eval.detection.data_classes import DetectionBox

from perceptkd.core.errors import InputError
from perceptkd.datasets.nuscenes_infos import CLASSES, create_nuscenes_infos, info_path, load_tables
from perceptkd.evaluation import nuscenes_metric
from perceptkd.evaluation.nuscenes_metric import NuScenesMetric
from perceptkd.registry import METRICS

INFO_FILE = "nuscenes_infos_mini_val.pkl"


def load_infos(root: Path, name: str = INFO_FILE) -> list[dict]:
    with open(root / name, "rb") as file:
        return pickle.load(file)["data_list"]


def sample_of(info: dict, boxes: np.ndarray, labels: np.ndarray, *, index: int, token: bool = True) -> dict:
    """A data sample as ``BaseMetric`` gets it; boxes [N, 9] with the centre of gravity as origin."""
    predictions = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.tensor(boxes, dtype=torch.float32), box_dim=9, origin=(0.5, 0.5, 0.5)),
        scores_3d=torch.linspace(0.5, 1.0, len(labels)),
        labels_3d=torch.tensor(labels, dtype=torch.long),
    )
    return {"pred_instances_3d": predictions, "sample_idx": index, **({"token": info["token"]} if token else {})}


def truth_of(info: dict) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and labels the evaluator counts: it drops those without points, and a prediction there is wrong."""
    instances = [i for i in info["instances"] if i["bbox_label_3d"] >= 0 and i["num_lidar_pts"]]
    boxes = [[*i["bbox_3d"], *np.nan_to_num(i["velocity"])] for i in instances]
    return np.array(boxes).reshape(-1, 9), np.array([i["bbox_label_3d"] for i in instances], int)


def evaluate(root: Path, change=lambda boxes, labels: (boxes, labels), *, token: bool = True, **kwargs) -> dict:
    kwargs.setdefault("ann_file", INFO_FILE)
    metric = NuScenesMetric(str(root), **kwargs)
    metric.dataset_meta = {"classes": CLASSES}
    infos = load_infos(root, kwargs["ann_file"])
    for index, info in enumerate(infos):
        metric.process({}, [sample_of(info, *change(*truth_of(info)), index=index, token=token)])
    return metric.evaluate(size=len(infos))


def present_classes(metrics: dict) -> list[str]:
    return [name for name in CLASSES if metrics[f"nuscenes/{name}_AP"] > 0]


def test_perfect_predictions(tiny_world):
    metrics = evaluate(tiny_world)
    present = present_classes(metrics)
    assert metrics["nuscenes/num_present"] == len(present) >= 3
    assert metrics["nuscenes/mAP_present"] == pytest.approx(1.0)
    assert metrics["nuscenes/mAP"] == pytest.approx(len(present) / 10)
    for name in present:
        for distance in (0.5, 1.0, 2.0, 4.0):
            assert metrics[f"nuscenes/{name}_AP_dist_{distance}"] == pytest.approx(1.0)
        assert metrics[f"nuscenes/{name}_trans_err"] < 1e-3
        assert metrics[f"nuscenes/{name}_scale_err"] < 1e-3
        # A box upright in the world is slightly tilted in the LiDAR frame, which has no room for that.
        assert metrics.get(f"nuscenes/{name}_orient_err", 0.0) < 5e-3
        assert metrics.get(f"nuscenes/{name}_vel_err", 0.0) < 0.05
    assert metrics["nuscenes/NDS_present"] > 0.9


def test_papers_names_are_reported(tiny_world):
    metrics = evaluate(tiny_world)
    for name in ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE", "mAP_dist_0.5", "mAP_dist_4.0", "car_AP"):
        assert isinstance(metrics[f"nuscenes/{name}"], float)
    assert not any(np.isnan(value) for value in metrics.values())


def test_shifted_predictions_match_from_the_shift_on(tiny_world):
    shift = np.array([0.7, 0, 0, 0, 0, 0, 0, 0, 0])
    metrics = evaluate(tiny_world, lambda boxes, labels: (boxes + shift, labels))
    assert metrics["nuscenes/car_AP_dist_0.5"] < 0.5
    assert metrics["nuscenes/car_AP_dist_1.0"] > 0.9
    assert metrics["nuscenes/car_trans_err"] == pytest.approx(0.7, abs=0.02)


def test_turned_boxes_cost_orientation_only(tiny_world):
    turn = np.array([0, 0, 0, 0, 0, 0, 0.3, 0, 0])
    metrics = evaluate(tiny_world, lambda boxes, labels: (boxes + turn, labels))
    assert metrics["nuscenes/mAP_present"] == pytest.approx(1.0)
    assert metrics["nuscenes/car_orient_err"] == pytest.approx(0.3, abs=0.01)


def test_wrong_labels_score_nothing(tiny_world):
    metrics = evaluate(tiny_world, lambda boxes, labels: (boxes, (labels + 5) % 10))
    assert metrics["nuscenes/mAP"] < 0.05


def test_no_predictions_at_all(tiny_world):
    metrics = evaluate(tiny_world, lambda boxes, labels: (boxes[:0], labels[:0]))
    assert metrics["nuscenes/mAP"] == metrics["nuscenes/NDS"] == metrics["nuscenes/mAP_present"] == 0.0
    assert metrics["nuscenes/mATE"] == 1.0


def test_frames_without_predictions(tiny_world):
    calls = iter(range(10))
    metrics = evaluate(tiny_world, lambda b, c: (b[:0], c[:0]) if next(calls) == 0 else (b, c))
    assert 0.2 < metrics["nuscenes/mAP_present"] < 1.0


def test_frames_are_found_by_index_where_samples_carry_no_token(tiny_world):
    assert evaluate(tiny_world, token=False) == evaluate(tiny_world, token=True)


def test_absent_classes_are_told_apart(tiny_world):
    metrics = evaluate(tiny_world)
    absent = [name for name in CLASSES if name not in present_classes(metrics)]
    assert absent
    assert metrics["nuscenes/mAP"] < metrics["nuscenes/mAP_present"]
    assert metrics["nuscenes/NDS"] < metrics["nuscenes/NDS_present"]


@pytest.fixture
def custom_world(tiny_world: Path, tmp_path: Path) -> Path:
    """The tiny world with the splits 'tune' and 'report' of a splits.json."""
    root = tmp_path / "nuscenes"
    root.mkdir()
    for name in ("samples", "sweeps", "maps"):
        (root / name).symlink_to(tiny_world / name)
    shutil.copytree(tiny_world / "v1.0-mini", root / "v1.0-mini")
    (root / "v1.0-mini" / "splits.json").write_text(json.dumps({"tune": ["scene-0061"], "report": ["scene-0103"]}))
    assert set(create_nuscenes_infos(root, "v1.0-mini")) == {"tune", "report"}
    return root


def test_custom_split(custom_world, tiny_world):
    """Splits of a splits.json are evaluated as such, by the name in the info file."""
    report = evaluate(custom_world, ann_file=info_path(custom_world, "report").name)
    assert report == evaluate(tiny_world)
    assert evaluate(custom_world, ann_file=info_path(custom_world, "tune").name) != report


@pytest.fixture
def unnamed(tiny_world, tmp_path):
    """Writes an info file that names no split, of a version, and returns the folder."""
    root = tmp_path / "nuscenes"
    shutil.copytree(tiny_world, root)

    def write(version):
        content = pickle.loads((tiny_world / INFO_FILE).read_bytes())
        del content["metainfo"]["split"]
        content["metainfo"]["version"] = version
        (root / "unnamed.pkl").write_bytes(pickle.dumps(content))
        return root

    return write


def test_split_of_an_info_file_without_one(unnamed, tiny_world):
    """The official one of the version, unless the metric is given another, which then holds."""
    root = unnamed("v1.0-mini")
    assert evaluate(root, ann_file="unnamed.pkl") == evaluate(tiny_world)
    for ann_file in ("unnamed.pkl", INFO_FILE):
        with pytest.raises(InputError, match="frames and split mini_train of"):
            evaluate(root, ann_file=ann_file, split="mini_train")


def test_info_file_of_an_unknown_version(unnamed):
    root = unnamed("v9.9-own")
    with pytest.raises(InputError, match=r"unnamed.pkl names no split, and its version 'v9.9-own' has no official"):
        evaluate(root, ann_file="unnamed.pkl")


def test_results_and_summary_are_kept(tiny_world, tmp_path):
    metrics = evaluate(tiny_world, out_dir=str(tmp_path / "out"))
    results = json.loads((tmp_path / "out/results_nusc.json").read_text())
    assert set(results["results"]) == {info["token"] for info in load_infos(tiny_world)}
    summary = json.loads((tmp_path / "out/metrics_summary.json").read_text())
    assert summary["nd_score"] == metrics["nuscenes/NDS"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics_summary.json", "results_nusc.json"]


def test_format_only_writes_and_does_not_evaluate(tiny_world, tmp_path):
    assert evaluate(tiny_world, out_dir=str(tmp_path), format_only=True, inputs=["camera"]) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["results_nusc.json"]
    boxes, meta = load_prediction(str(tmp_path / "results_nusc.json"), 500, DetectionBox)
    assert len(boxes.all) > 0
    assert set(boxes.sample_tokens) == {info["token"] for info in load_infos(tiny_world)}
    assert [name for name, is_used in meta.items() if is_used] == ["use_camera"]
    with pytest.raises(ValueError, match="set out_dir"):
        NuScenesMetric(str(tiny_world), INFO_FILE, format_only=True)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """The tables that are loaded from now on, and no truth in the cache."""
    nuscenes_metric._cached_truth.cache_clear()
    loaded = []

    def load(*arguments):
        tables = load_tables(*arguments)
        loaded.append(weakref.ref(tables))
        return tables

    monkeypatch.setattr(nuscenes_metric, "load_tables", load)
    return loaded


def test_tables_are_loaded_once_and_not_kept(tiny_world, loads):
    evaluate(tiny_world)
    evaluate(tiny_world)
    gc.collect()
    assert [tables() for tables in loads] == [None]
    evaluate(tiny_world, evaluator="devkit", near_m=15.0)
    gc.collect()
    assert [tables() for tables in loads] == [None, None]


@pytest.mark.parametrize("name", ["sample_annotation.json", "ego_pose.json", "splits.json"])
def test_what_changed_on_disk_is_read_again(custom_world, loads, name):
    nuscenes_metric.cached_truth(str(custom_world), "v1.0-mini", "report")
    path = custom_world / "v1.0-mini" / name
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    nuscenes_metric.cached_truth(str(custom_world), "v1.0-mini", "report")
    assert len(loads) == 2


def test_partial_predictions_are_an_error(tiny_world):
    metric = NuScenesMetric(str(tiny_world), INFO_FILE)
    metric.dataset_meta = {"classes": CLASSES}
    info = load_infos(tiny_world)[0]
    metric.process({}, [sample_of(info, *truth_of(info), index=0)])
    with pytest.raises(ValueError, match=r"1 of 3 frames .* were predicted; the official evaluator needs all"):
        metric.evaluate(size=1)


def test_foreign_and_repeated_frames_are_errors(tiny_world):
    info = load_infos(tiny_world)[0]
    for other, reason in ((info, "twice"), ({**info, "token": "f" * 32}, "but is not in")):
        metric = NuScenesMetric(str(tiny_world), INFO_FILE)
        metric.dataset_meta = {"classes": CLASSES}
        metric.process({}, [sample_of(i, *truth_of(i), index=0) for i in (info, other)])
        with pytest.raises(ValueError, match=f"was predicted {reason}"):
            metric.evaluate(size=2)


def test_missing_info_file(tiny_world):
    metric = METRICS.build({"type": "NuScenesMetric", "data_root": str(tiny_world), "ann_file": "gone.pkl"})
    metric.results = [{}]
    with pytest.raises(FileNotFoundError, match=r"gone.pkl is missing: make it with tools/create_data.py"):
        metric.evaluate(size=1)


def test_boxes_without_velocity(tiny_world):
    info = load_infos(tiny_world)[0]
    sample = sample_of(info, *truth_of(info), index=0)
    predictions = sample["pred_instances_3d"]
    predictions.bboxes_3d = LiDARInstance3DBoxes(predictions.bboxes_3d.tensor[:, :7])
    with pytest.raises(ValueError, match="must have 9 values"):
        NuScenesMetric(str(tiny_world), INFO_FILE).process({}, [sample])


def test_inputs_are_left_as_they_are(tiny_world):
    info = load_infos(tiny_world)[0]
    sample = sample_of(info, *truth_of(info), index=0)
    before = copy.deepcopy(sample)
    NuScenesMetric(str(tiny_world), INFO_FILE).process({}, [sample])
    assert torch.equal(sample["pred_instances_3d"].bboxes_3d.tensor, before["pred_instances_3d"].bboxes_3d.tensor)


def test_diverged_predictions_name_their_frame(tiny_world):
    with pytest.raises(ValueError, match=r"sample [0-9a-f]{32}: a predicted box or score is NaN or infinite"):
        evaluate(tiny_world, lambda boxes, labels: (boxes * np.nan, labels))


@pytest.mark.parametrize("near_m", [None, 15.0])
@pytest.mark.parametrize("count", [0, 300])
def test_equals_the_devkit(tiny_world, count, near_m):
    """Noisy boxes of random classes about the true ones, and every figure."""

    def noisy(boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(len(boxes))
        rows = rng.integers(0, len(boxes), count)
        shifted = boxes[rows] + rng.normal(size=(count, 9)) * [1, 1, 0, 0, 0, 0, 0.3, 1, 1]
        return shifted, np.where(rng.random(count) < 0.8, labels[rows], rng.integers(0, 10, count))

    ours, theirs = (evaluate(tiny_world, noisy, evaluator=e, near_m=near_m) for e in ("perceptkd", "devkit"))
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([*ours.values()], [*theirs.values()], rtol=0, atol=1e-12)
    assert (ours["nuscenes/mAP"] > 0.01) == (count > 0)


def test_unknown_evaluator_and_inputs():
    for wrong in ({"evaluator": "official"}, {"inputs": ["sonar"]}):
        with pytest.raises(ValueError, match="evaluator is 'perceptkd' or 'devkit' and inputs are of camera, lidar"):
            NuScenesMetric("data", INFO_FILE, **wrong)


def test_boxes_that_a_model_cannot_see_count_in_the_official_score_alone(tiny_world):
    near_m = 15.0

    def only_near(boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept = np.linalg.norm(boxes[:, :2], axis=1) < near_m + 5  # the evaluator measures from the vehicle's origin
        return boxes[kept], labels[kept]

    metrics = evaluate(tiny_world, only_near, near_m=near_m)
    plain = evaluate(tiny_world, only_near)
    assert plain == {name: value for name, value in metrics.items() if "/near_" not in name}
    assert metrics["nuscenes/near_mAP_present"] == pytest.approx(1.0)
    assert metrics["nuscenes/mAP_present"] < 0.9
    scores = ("mAP", "NDS", "mAP_present", "NDS_present", *(f"mAP_dist_{d}" for d in (0.5, 1.0, 2.0, 4.0)))
    assert metrics.keys() - plain.keys() == {f"nuscenes/near_{name}" for name in scores}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("evaluator", ["perceptkd", "devkit"])
def test_a_range_without_ground_truth_is_an_error(tiny_world, evaluator):
    with pytest.raises(ValueError, match=r"no ground truth box within 0\.5 m: .* set a larger near_m"):
        evaluate(tiny_world, evaluator=evaluator, near_m=0.5)
